# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.licences``: the table of docs/security.md, from the metadata of what is installed here; and what
``pyproject.toml`` requires, line by line, with the lowest and newest versions that it allows. The line of a
distribution that is not installed stays as the page has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

import pytest

from tests.commands import ROOT

CORE = "padless"
"""The group of the dependencies that belong to no extra."""
LINE = re.compile(
    r"(?P<name>[a-z0-9-]+)(?P<parts>\[[a-z,]+\])?>=(?P<lowest>[0-9.]+)(?P<below>,<[0-9.]+)?(; sys_platform == 'linux')?"
)
UNPINNED = {"torch", "triton"}
"""Not pinned: an old torch without CUDA is on an index of its own, and one with CUDA brings gigabytes, and its own
Triton."""


@dataclass(frozen=True)
class Requirement:
    """One line, and where it stands."""

    name: str
    parts: str
    lowest: str
    below: str
    group: str
    """An extra, or ``CORE``."""

    @property
    def lowest_pin(self) -> str:
        """The line with the lowest version alone, for pip; of what is ``UNPINNED``, the line."""
        if self.name in UNPINNED:
            return f"{self.name}>={self.lowest}{self.below}"
        return f"{self.name}{self.parts}=={self.lowest}"

    @property
    def newest(self) -> str:
        """The line without its lowest version."""
        return f"{self.name}{self.parts}{self.below.removeprefix(',')}"


def requirements() -> list[Requirement]:
    """Every line of the project's dependencies and extras."""
    tomllib = pytest.importorskip("tomllib", reason="needs the TOML reader of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for group, lines in {CORE: project["dependencies"], **project["optional-dependencies"]}.items():
        for line in lines:
            match = LINE.fullmatch(line)
            assert match is not None, f"pyproject.toml: {line}: name it NAME>=LOWEST, or NAME>=LOWEST,<BELOW"
            found.append(Requirement(match["name"], match["parts"] or "", match["lowest"], match["below"] or "", group))
    return found


def groups_of(lines: Iterable[Requirement]) -> dict[str, list[str]]:
    """Name of a distribution -> the extras that bring it, ``CORE`` first."""
    found = {}
    for line in lines:
        found.setdefault(line.name, []).append(line.group)
    return found


PAGE = ROOT / "docs" / "security.md"
HEAD = "| distributions | licence | copyleft | comes with |\n|---|---|---|---|\n"
NAME = r"`[a-z0-9-]+`"
ROW = re.compile(
    rf"^\| (?P<names>{NAME}(?:, {NAME})*) \| (?P<licence>[^|]+) \| (?P<copyleft>yes|) ?\| (?P<groups>[^|]+) \|$", re.M
)
FAMILIES = {
    "AGPL": r"AGPL|Affero",
    "LGPL": r"LGPL|Lesser General Public",
    "GPL": r"(?<![AL])GPL(?!.*exception)|(?<!Lesser )(?<!Affero )General Public Licen",
    "MPL-2.0": r"MPL|Mozilla",
    "EPL": r"EPL-|Eclipse",
    "Apache-2.0": r"Apache",
    "BSD": r"BSD|Redistribution and use in source and binary forms",
    "MIT": r"\bMIT\b",
    "ISC": r"\bISC\b",
    "PSF": r"PSF|Python Software Foundation|PYTHON SOFTWARE FOUNDATION",
    "Zlib": r"Zlib",
    "CC0-1.0": r"CC0",
    "BSL-1.0": r"BSL",
}
COPYLEFT = {"AGPL", "LGPL", "GPL", "MPL-2.0", "EPL"}


def families_in(text: str) -> list[str]:
    """The families of licences that a text names."""
    return [family for family, words in FAMILIES.items() if re.search(words, text)]


def families_of(name: str) -> list[str] | None:
    """The licences of a distribution that is installed, by its own metadata; None for one that is not.

    The expression (PEP 639) is taken where there is one, else the classifiers, else the free text.
    """
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    classifiers = " ".join(line for line in found.get_all("Classifier", []) if line.startswith("License ::"))
    for text in (found.get("License-Expression"), classifiers, found.get("License")):
        if text and (families := families_in(text)):
            return families
    return []


def rows_of(page: str) -> dict[str, tuple[list[str], bool, list[str]]]:
    """Name -> licences, whether one is copyleft, and what brings it, as a page has them."""
    rows = {}
    for match in ROW.finditer(page):
        for name in match["names"].split(", "):
            licences, groups = match["licence"].split(", "), match["groups"].split(", ")
            rows[name.strip("`")] = (licences, match["copyleft"] == "yes", groups)
    return rows


def table() -> str:
    """The table, with what is installed here; distributions that differ in nothing else share a line."""
    known, names_by_cells = rows_of(PAGE.read_text()), dict[str, list[str]]()
    for name, groups in sorted(groups_of(requirements()).items(), key=lambda item: (item[1][0] != CORE, item[0])):
        families = families_of(name) or known.get(name, (["unknown"], False, []))[0]
        mark = "yes" if COPYLEFT & set(families) else ""
        names_by_cells.setdefault(f"{', '.join(families)} | {mark} | {', '.join(groups)}", []).append(f"`{name}`")
    lines = [f"| {', '.join(names)} | {cells} |" for cells, names in names_by_cells.items()]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
