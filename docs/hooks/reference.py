# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of ``docs/reference/`` from the configuration classes and the table of commands.

``python -m docs.hooks.reference`` renews what stands between ``<!-- options: package -->`` (the keys that the package's
commands share) or ``<!-- commands: package -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]  # to import the documented modules

from docs.hooks.docstrings import as_markdown  # noqa: E402

FOLDER = ROOT / "docs/reference"
TABLES = re.compile(r"^<!-- (options|commands): (\w+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
NAMES = {bool: "`true` or `false`", int: "a whole number", float: "a number", str: "a text", type(None): "`null`"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
SHARED = {"harness": "harness.config:LaunchRecipe", "preprocessing": "preprocessing.config:PreprocessConfig"}
"""Package -> the class with the keys that several of its commands share."""


def with_tables(page: str) -> str:
    """The Markdown of a page with its tables as the code is now."""
    makers = {"options": options_table, "commands": commands_tables}
    return TABLES.sub(
        lambda found: f"<!-- {found[1]}: {found[2]} -->\n\n{makers[found[1]](found[2])}\n\n<!-- end -->", page
    )


@dataclass(frozen=True)
class Option:
    """One key of a configuration class, or a section of keys (``parts``)."""

    key: str
    kind: str
    """Its type, in words."""
    default: str
    """As YAML; empty if a value is required."""
    meaning: str
    unnamed: str = ""
    """The value if the command line names no recipe, where it differs from the default."""
    parts: tuple[Option, ...] = ()


def load(name: str) -> Any:
    """The object that ``module:name`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def options(
    config_class: type, prefix: str = "", instance: Any = None, recipe: dict[str, Any] | None = None
) -> Iterator[Option]:
    """Every field of a configuration class in order, with the defaults of ``instance``, else its own.

    ``recipe`` has the values if no recipe is named, by default those of the class's file ``DEFAULT``.
    """
    hints, docs = get_type_hints(config_class), field_docs(config_class)
    if recipe is None:
        file = getattr(config_class, "DEFAULT", None)
        recipe = yaml.safe_load(file.read_text(encoding="utf-8")) if file else {}
    for field in fields(config_class):
        key, hint, unnamed = f"{prefix}{field.name}", hints[field.name], recipe.get(field.name)
        value = getattr(instance, field.name) if instance is not None else default_of(field)
        if is_dataclass(hint):
            parts = tuple(options(hint, f"{key}.", value, unnamed or {}))
            yield Option(key, "", "", as_markdown(inspect.getdoc(hint) or ""), parts=parts)
        else:
            default = "" if value is MISSING else spelt(value)
            other = "" if field.name not in recipe or unnamed == value else spelt(unnamed)
            yield Option(key, in_words(hint), default, as_markdown(docs[field.name]), other)


def default_of(field: Field[Any]) -> Any:
    """The default of a field; ``MISSING`` if it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def field_docs(config_class: type) -> dict[str, str]:
    """The docstring below each field of a class and of its base classes; a field without one is an error."""
    found: dict[str, str] = {}
    for one in reversed(config_class.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body
        for node, below in itertools.pairwise(body):
            documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and documented:
                found[node.target.id] = inspect.cleandoc(below.value.value)
    return found


def in_words(hint: Any) -> str:
    """The values of a type: ``one of `a`, `b```, ``a number or `null```, …."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in NAMES:
        return NAMES[hint]
    if origin is Literal:
        choices = ", ".join(f"`{choice}`" for choice in arguments)
        return choices if len(arguments) == 1 else f"one of {choices}"
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(one) for one in arguments)
    if origin is list:
        return f"a list of {PLURALS.get(arguments[0], 'values')}"
    if origin is tuple:
        return f"{len(arguments)} {PLURALS.get(arguments[0], 'values')}"
    if origin is dict:
        return "a mapping"
    return "a value"


def spelt(value: Any) -> str:
    """A default as YAML on one line."""
    if isinstance(value, str):
        return value or '""'
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def options_table(package: str) -> str:
    """A line for each key that a package's commands share, below a line for its section."""
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for option in options(load(SHARED[package])):
        lines += [f"| **{option.key}** | | | {on_one_line(option.meaning)} |"] if option.parts else []
        lines += [f"| `{leaf.key}` | {values(leaf)} |" for leaf in option.parts or (option,)]
    return "\n".join(lines)


def values(option: Option) -> str:
    """The type, the default and the meaning of an option as cells."""
    default = f"`{option.default}`" if option.default else "must be given"
    unnamed = f"; `{option.unnamed}` if no recipe is named" if option.unnamed else ""
    return f"{option.kind} | {default}{unnamed} | {on_one_line(option.meaning)}"


def on_one_line(text: str) -> str:
    """Markdown for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def commands_tables(package: str) -> str:
    """A line for each command of a package, then one for each of the keys that only some commands have.

    Keys of one name and one meaning share a line.
    """
    commands = importlib.import_module(f"{package}.commands").COMMANDS
    lines = ["| command | what | example |", "|---|---|---|"]
    for command in commands:
        words = command.words.replace('"', "").replace(" | ", "` or `")  # a bar ends a cell
        usage, example = f"padless {command.name} {words}".strip(), f"`{command.example}`" if command.example else ""
        lines.append(f"| `{usage}` | {on_one_line(as_markdown(command.summary))} | {example} |")
    lines += ["", "| key | of | values | default | meaning |", "|---|---|---|---|---|"]
    rows: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for command in commands:
        for option in own_options(load(command.config)):
            keys, names = rows.setdefault((option.key.rpartition(".")[2], values(option)), ({}, {}))
            keys[f"`{option.key}`"] = names[command.name] = None
    for (_, cells), (keys, names) in rows.items():
        lines.append(f"| {', '.join(keys)} | {', '.join(names)} | {cells} |")
    return "\n".join(lines)


def leaves(config_class: type) -> list[Option]:
    """All options of a class, those of its sections too."""
    return [leaf for option in options(config_class) for leaf in option.parts or (option,)]


def own_options(config_class: type) -> list[Option]:
    """The options of a command that have no line in the tables of ``SHARED``."""
    shared = {leaf.key for leaf in leaves(load(SHARED["preprocessing"])) if "." in leaf.key}
    for name in SHARED.values():
        if issubclass(config_class, load(name)):
            shared |= {leaf.key for leaf in leaves(load(name))}
    return [option for option in leaves(config_class) if option.key not in shared]


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
