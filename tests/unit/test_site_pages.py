# SPDX-License-Identifier: Apache-2.0
"""Output of the site's hooks: options with their defaults, commands, links."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from typing import Any

import pytest
import yaml

from docs.hooks import pages, reference
from harness.__main__ import COMMANDS
from harness.ranks.stopping import EXIT_CODE as PREEMPTED
from preprocessing.base import cli
from preprocessing.base.cli import Command
from preprocessing.base.errors import ConfigError, DataError, StorageError, UserError
from tests.commands import ROOT


def leaves(config_class: type) -> dict[str, reference.Option]:
    """Dotted key -> option for all options of a class in the reference."""
    found = [leaf for option in reference.options(config_class) for leaf in option.parts or (option,)]
    return {option.key: option for option in found}


def flat(values: dict[str, Any], example: Any, prefix: str = "") -> dict[str, Any]:
    """``asdict`` of a configuration by dotted keys; only sections are opened, mappings are values."""
    result = {}
    for name, value in values.items():
        part = getattr(example, name)
        result |= flat(value, part, f"{prefix}{name}.") if is_dataclass(part) else {f"{prefix}{name}": value}
    return result


@pytest.mark.parametrize(("package", "required"), [("harness", {}), ("preprocessing", {"output": "data/x"})])
def test_every_key_stands_in_the_reference_with_its_default(package: str, required: dict[str, str]) -> None:
    config_class = reference.load(reference.SHARED[package])
    said = leaves(config_class)
    sections = {option.key for option in reference.options(config_class) if option.parts}
    assert set(said) == cli.known_keys(config_class) - sections - set(cli.OWN)
    config = config_class(**required)
    values = flat(asdict(config), config)
    values.pop("run", None)  # which the dataset names
    for key, value in values.items():
        if key in required:
            assert said[key].default == ""
        else:
            plain = list(value) if isinstance(value, tuple) else value
            default = said[key].default if value and isinstance(value, str) else yaml.safe_load(said[key].default)
            assert default == plain, key
        assert said[key].meaning, key


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.name)
def test_every_command_stands_in_the_reference_with_its_options(command: Command) -> None:
    section = "\n".join(reference.commands_of([command]))
    assert "\n```\n" + f"padless {command.name} {command.words}".rstrip() + " [--key value …]" in section
    assert f"\n{command.example}\n```\n" in section
    own, known = reference.load(command.config), dict[str, reference.Option]()
    for package, name in reference.SHARED.items():
        if issubclass(own, shared := reference.load(name)):
            assert f"]({reference.PAGES[package][1]})" in section
            known = leaves(shared)
    assert all(f"`--{key}` (" in section for key in leaves(own) if key not in known)


def test_every_page_stands_in_the_navigation_once() -> None:
    def files(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            value = next(iter(entry.values())) if isinstance(entry, dict) else entry
            yield from files(value) if isinstance(value, list) else [value]

    named = list(files(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(named) == sorted(there | set(pages.SOURCES))


def test_the_exit_codes_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/run-directory.md").read_text(), re.MULTILINE)
    errors = [error.exit_code for error in (UserError, ConfigError, DataError, StorageError)]
    assert [int(row) for row in rows] == [0, *errors, PREEMPTED, 128 + signal.SIGINT, 128 + signal.SIGTERM]
