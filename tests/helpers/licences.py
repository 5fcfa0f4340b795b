# SPDX-License-Identifier: Apache-2.0
"""The table of licences in docs/reference/files.md; and what ``pyproject.toml`` requires, line by line, with the
lowest and newest versions that it allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.helpers.commands import ROOT

CORE = "padless"
"""The group of the dependencies that belong to no extra."""
LINE = re.compile(r"(?P<name>[a-z0-9-]+)(?P<parts>\[[a-z,]+\])?>=(?P<lowest>[0-9.]+)(?P<below>,<[0-9.]+)?")
UNPINNED = {"torch"}
"""Not pinned: an old torch without CUDA is on an index of its own, and one with CUDA brings gigabytes."""


@dataclass(frozen=True)
class Requirement:
    """One line, and where it stands."""

    name: str
    parts: str
    lowest: str
    upper_bound: str
    group: str
    """An extra, or ``CORE``."""

    @property
    def lowest_pin(self) -> str:
        """The line with the lowest version alone, for pip; of what is ``UNPINNED``, the line."""
        if self.name in UNPINNED:
            return f"{self.name}>={self.lowest}{self.upper_bound}"
        return f"{self.name}{self.parts}=={self.lowest}"

    @property
    def newest(self) -> str:
        """The line without its lowest version."""
        return f"{self.name}{self.parts}{self.upper_bound.removeprefix(',')}"


def requirements() -> list[Requirement]:
    """Every line of the project's dependencies and extras."""
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements_read = []
    for group, lines in {CORE: project["dependencies"], **project["optional-dependencies"]}.items():
        for line in lines:
            if line.startswith("padless["):  # other extras, whose lines stand there
                continue
            match = LINE.fullmatch(line)
            assert match is not None, f"pyproject.toml: {line}: name it NAME>=LOWEST, or NAME>=LOWEST,<BELOW"
            requirements_read.append(
                Requirement(match["name"], match["parts"] or "", match["lowest"], match["below"] or "", group)
            )
    return requirements_read


def groups_of(lines: Iterable[Requirement]) -> dict[str, list[str]]:
    """Name of a distribution -> the extras that bring it, ``CORE`` first."""
    groups_by_name = {}
    for line in lines:
        groups_by_name.setdefault(line.name, []).append(line.group)
    return groups_by_name


PAGE = ROOT / "docs" / "reference" / "files.md"
NAME = r"`[a-z0-9-]+`"
ROW = re.compile(
    rf"^\| (?P<names>{NAME}(?:, {NAME})*) \| (?P<licence>[^|]+) \| (?P<copyleft>yes|) ?\| (?P<groups>[^|]+) \|$", re.M
)
COPYLEFT = {"AGPL", "LGPL", "GPL", "MPL-2.0", "EPL"}


def rows_of(page: str) -> dict[str, tuple[list[str], bool, list[str]]]:
    """Name -> licences, whether one is copyleft, and what brings it, as a page has them."""
    rows = {}
    for match in ROW.finditer(page):
        for name in match["names"].split(", "):
            licences, groups = match["licence"].split(", "), match["groups"].split(", ")
            rows[name.strip("`")] = (licences, match["copyleft"] == "yes", groups)
    return rows
