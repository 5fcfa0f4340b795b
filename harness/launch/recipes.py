# SPDX-License-Identifier: Apache-2.0
"""``python -m harness recipes [NAME …]``: the recipes that come with padless, listed, or copied to be changed.

A copy lies as in a checkout, in ``configs/train/``, ``configs/preprocess/`` or ``configs/accelerate/``.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from preprocessing.base import atomic, configuration
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError
from preprocessing.base.installed import as_typed
from preprocessing.base.terminal import Screen, wrapped

EVERY = "all"
COLUMN = 18
"""Cells of the column of names."""


@dataclass(frozen=True, kw_only=True)
class RecipesConfig:
    """List the recipes that come with padless, or copy those that are named, to change them.

    A name is taken as it is by --config, in any folder: a copy is only needed to be changed. A name that several kinds
    have means all of them, train/NAME one of them, and all everything.
    """

    output: str = "configs"
    """Folder to copy to; each recipe keeps its kind, as in configs/train/imdb.yaml."""
    overwrite: bool = False
    """Replace a file that has been changed."""
    json: bool = False
    """Print the list as JSON."""


@dataclass(frozen=True)
class Recipe:
    """One file."""

    kind: str
    name: str

    @property
    def source(self) -> Path:
        """Where it lies."""
        return configuration.file_of(self.kind, self.name)

    @property
    def about(self) -> str:
        """The first sentence of the comment at its head."""
        lines = []
        for line in self.source.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").strip())
        return " ".join(lines).partition(". ")[0].rstrip(".") + "."


def every() -> Iterator[Recipe]:
    """All recipes, kind by kind."""
    return (Recipe(kind, name) for kind in configuration.KINDS for name in configuration.names(kind))


def main(config: RecipesConfig, wanted: list[str]) -> None:
    """List, or copy what was named."""
    if wanted:
        copy([recipe for name in wanted for recipe in meant(name)], Path(config.output), config.overwrite)
    elif config.json:
        listed = [{"kind": one.kind, "name": one.name, "path": str(one.source), "about": one.about} for one in every()]
        print(json.dumps(listed, indent=2))
    else:
        show(Screen())


def show(screen: Screen) -> None:
    """Print every name with what it is for."""
    for kind, where in configuration.KINDS.items():
        screen.write([as_typed(f"{kind}: {where}")], "head")
        for name in configuration.names(kind):
            width = min(screen.width, 100) - COLUMN
            first, *more = wrapped(Recipe(kind, name).about, width, 0)
            screen.write([f"  {name:<{COLUMN - 2}}{first}", *(" " * COLUMN + line for line in more)])
    screen.say(as_typed("python -m harness recipes NAME copies one to configs/, to change it"))


def meant(name: str) -> list[Recipe]:
    """The recipes that a word names. Raises ``ConfigError`` with the nearest name, or all."""
    known = list(every())
    kind, _, last = name.removesuffix(configuration.ENDING).rpartition("/")
    found = [one for one in known if (last, kind) == (one.name, kind and one.kind) or name == EVERY]
    if not found:
        names = sorted({one.name for one in known})
        near = difflib.get_close_matches(last, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"{name}: padless has no recipe of that name; {hint}")
    return found


def copy(chosen: Sequence[Recipe], folder: Path, overwrite: bool) -> None:
    """Copy files and say where they are. Raises ``ConfigError`` before anything is written if one was changed there."""
    contents = {folder / one.kind / one.source.name: one.source.read_bytes() for one in chosen}
    for target, content in contents.items():
        if target.exists() and not overwrite and (not target.is_file() or target.read_bytes() != content):
            raise ConfigError(
                f"{target}: is there already and differs; --overwrite replaces it, --output goes elsewhere"
            )
    for target, content in contents.items():
        with storing(target, otherwise="name another --output"):
            atomic.write_bytes(target, content)
        Screen().say(str(target))
