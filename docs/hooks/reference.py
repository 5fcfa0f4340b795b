# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: generates the reference of options and commands from the configuration classes and command tables.

It replaces comments on a separate line: ``<!-- options: package -->`` by the keys that the package's commands share,
``<!-- keys: module:Class -->`` by those of one class, ``<!-- commands: package -->`` by the commands.
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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]  # to import the documented modules

from docs.hooks.docstrings import as_markdown  # noqa: E402

ASKED = re.compile(r"^<!-- (options|keys|commands): ([\w.:]+) -->$", re.MULTILINE)
NAMES = {bool: "`true` or `false`", int: "a whole number", float: "a number", str: "a text", type(None): "`null`"}
PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}
PAGES = {"harness": ("training", "training.md"), "preprocessing": ("preprocessing", "preprocessing.md")}
"""Package -> the name of its shared options, and their page."""
SHARED = {"harness": "harness.config:LaunchRecipe", "preprocessing": "preprocessing.config:PreprocessConfig"}
"""Package -> the class with the keys that several of its commands share."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the comments."""
    makers = {"options": options_page, "keys": keys_page, "commands": commands_page}
    return ASKED.sub(lambda match: makers[match[1]](match[2]), markdown)


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


def options_page(package: str) -> str:
    """A heading for each key that a package's commands share, for search and links."""
    lines: list[str] = []
    sections = list(options(load(SHARED[package])))
    for option in sections:
        lines += [] if option.parts else heading(option, 2)
    for section in sections:
        if section.parts:
            lines += [f"## {section.key} {{ #{section.key} }}", "", section.meaning, ""]
            lines += [line for option in section.parts for line in heading(option, 3)]
    return "\n".join(lines)


def heading(option: Option, level: int) -> list[str]:
    """One key with its values, its default and its meaning."""
    title = f"{'#' * level} {option.key} {{ #{option.key} .option }}"
    return [title, "", values(option), "{ .values }", "", option.meaning, ""]


def values(option: Option) -> str:
    """The type and the default of an option."""
    if not option.default:
        return f"{option.kind}; must be given"
    unnamed = f"; `{option.unnamed}` if no recipe is named" if option.unnamed else ""
    return f"{option.kind}; default `{option.default}`{unnamed}"


def commands_page(package: str) -> str:
    """Every command of a package with its words and options, from its command table."""
    table = importlib.import_module(f"{package}.__main__")
    return "\n".join(commands_of(table.COMMANDS))


def commands_of(commands: Sequence[Any]) -> Iterator[str]:
    """The lines of some commands."""
    for command in commands:
        usage = " ".join(filter(None, (f"padless {command.name}", command.words, "[--key value …]")))
        yield f"### padless {command.name} {{ #padless-{command.name} }}\n\n{as_markdown(command.summary)}\n"
        example = f"\n{command.example}" if command.example else ""
        yield f"```\n{usage}{example}\n```\n"
        yield from command_options(load(command.config))


def command_options(own: Any) -> Iterator[str]:
    """The options of a command: those that others share are on a page of their own."""
    package = next((name for name, shared in SHARED.items() if issubclass(own, load(shared))), None)
    known = list(options(load(SHARED[package]))) if package else []
    yield f"{as_list(option for option in options(own) if option not in known)}\n"
    if package:
        noun, page = PAGES[package]
        yield f"Takes every [option of {noun}]({page}).\n"


def keys_page(name: str) -> str:
    """The options of a class as a list."""
    return as_list(options(load(name)))


def as_list(found: Iterable[Option]) -> str:
    """Each option with its type, default and meaning."""
    lines = []
    for option in (leaf for one in found for leaf in one.parts or (one,)):
        meaning = textwrap.indent(option.meaning, "    ").removeprefix("    ")
        lines.append(f"`--{option.key}` ({values(option)})\n:   {meaning}\n")
    return "\n".join(lines)


def first_paragraph(name: str) -> str:
    """The first paragraph of the docstring of the module in ``module:name``."""
    module = importlib.import_module(name.partition(":")[0])
    return as_markdown((inspect.getdoc(module) or "").partition("\n\n")[0])
