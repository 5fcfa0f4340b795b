# SPDX-License-Identifier: Apache-2.0
"""Writes the tables of ``docs/reference/`` from the configuration classes and the table of commands.

``python -m docs.hooks.reference`` renews what stands between ``<!-- options: package -->`` (the keys that the package's
commands share) or ``<!-- commands: package -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]  # to import the documented modules

from docs.hooks.docstrings import as_markdown  # noqa: E402
from padless.core.configuration import Option, describe_kind, groups_of, options_of, read_files  # noqa: E402
from padless.core.installed import load_object  # noqa: E402

FOLDER = ROOT / "docs/reference"
TABLES = re.compile(r"^<!-- (options|commands): (\w+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)
SHARED = {"harness": "harness.config:RunConfig", "preprocessing": "preprocessing.config:PreprocessConfig"}
"""Package -> the class with the keys that several of its commands share."""


def with_tables(page: str) -> str:
    """The Markdown of a page with its tables as the code is now."""
    makers = {"options": options_table, "commands": commands_tables}
    return TABLES.sub(
        lambda match: f"<!-- {match[1]}: {match[2]} -->\n\n{makers[match[1]](match[2])}\n\n<!-- end -->", page
    )


def options_table(package: str) -> str:
    """A line for each key that a package's commands share, below a line for its section."""
    config_class = load_object(SHARED[package])
    lines, groups = ["| key | values | default | meaning |", "|---|---|---|---|"], dict(groups_of(config_class))
    for key, option in options_of(config_class).items():
        group = key.rpartition(".")[0]
        if group in groups:
            lines.append(f"| **{group}** | | | {on_one_line(groups.pop(group).__doc__ or '')} |")
        lines.append(f"| `{key}` | {cells_of(option, config_class)} |")
    return "\n".join(lines)


def cells_of(option: Option, config_class: type) -> str:
    """The values, the default and the meaning of an option as cells."""
    default = "must be given" if option.default is MISSING else f"`{as_yaml(option.default)}`"
    of_recipe = read_files(config_class, [])
    if option.key in of_recipe and (unnamed := option.parse(of_recipe[option.key])) != option.default:
        default += f"; `{as_yaml(unnamed)}` if no recipe is named"
    return f"{describe_kind(option.kind)} | {default} | {on_one_line(option.text)}"


def as_yaml(value: Any) -> str:
    """A default as YAML on one line."""
    if isinstance(value, str):
        return value or '""'
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def on_one_line(docstring: str) -> str:
    """A docstring as Markdown for a cell of a table."""
    return " ".join(as_markdown(docstring).split()).replace("|", "\\|")


def commands_tables(package: str) -> str:
    """A line for each command of a package, then one for each of the keys that only some commands have.

    Keys of one name and one meaning share a line.
    """
    commands = importlib.import_module(f"{package}.commands").COMMANDS
    lines = ["| command | what | example |", "|---|---|---|"]
    for command in commands:
        words = command.words.replace('"', "").replace(" | ", "` or `")  # a bar ends a cell
        usage, example = f"padless {command.name} {words}".strip(), f"`{command.example}`" if command.example else ""
        lines.append(f"| `{usage}` | {on_one_line(command.summary)} | {example} |")
    lines += ["", "| key | of | values | default | meaning |", "|---|---|---|---|---|"]
    commands_by_row: dict[tuple[str, str], list[str]] = {}
    for command in commands:
        config_class = load_object(command.config)
        for key, option in options_of(config_class).items():
            if key not in shared_keys(config_class):
                commands_by_row.setdefault((key, cells_of(option, config_class)), []).append(command.name)
    lines += [f"| `{key}` | {', '.join(names)} | {cells} |" for (key, cells), names in commands_by_row.items()]
    return "\n".join(lines)


def shared_keys(config_class: type) -> set[str]:
    """The keys of a command that have a line in the tables of ``SHARED``."""
    keys = {key for key in options_of(load_object(SHARED["preprocessing"])) if "." in key}
    for shared_class in map(load_object, SHARED.values()):
        if issubclass(config_class, shared_class):
            keys |= {*options_of(shared_class)}
    return keys


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
