# SPDX-License-Identifier: Apache-2.0
"""What a training can start from: ``harness recipes`` lists and copies recipes, ``harness checkpoint RUN`` says from
which steps a run can go on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from harness.rundir import checkpoint, layout
from harness.scores.figures import CHOSEN_BY
from preprocessing.base import atomic, configuration
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.help_page import nearest
from preprocessing.base.installed import as_typed
from preprocessing.base.terminal import Column, Screen, table, wrapped

EVERY = "all"
NAME_CELLS = 18
"""Cells of the column of names."""
COLUMNS = (
    Column(key="step", title="step"),
    Column(key="size", title="size"),
    Column(key="state", title="state", right=False),
    Column(key="epochs_done", title="epochs"),
    Column(key="best", title="best so far", right=False),
)


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


def recipes(config: RecipesConfig, wanted: list[str]) -> None:
    """List, or copy what was named."""
    known = [(kind, name) for kind in configuration.KINDS for name in configuration.names(kind)]
    if wanted:
        copy([file for name in wanted for file in recipes_named(name, known)], Path(config.output), config.overwrite)
    elif config.json:
        files = {one: configuration.file_of(*one) for one in known}
        listed = [
            {"kind": kind, "name": name, "path": str(file), "about": about(file)}
            for (kind, name), file in files.items()
        ]
        print(json.dumps(listed, indent=2))
    else:
        show_recipes(Screen())


def about(file: Path) -> str:
    """The first sentence of the comment at the head of a recipe."""
    head = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.lstrip("# ") for line in head)
    return text.partition(". ")[0].rstrip(".") + "."


def show_recipes(screen: Screen) -> None:
    """Print every name with what it is for."""
    for kind, where in configuration.KINDS.items():
        screen.write([as_typed(f"{kind}: {where}")], "head")
        for name in configuration.names(kind):
            first = f"  {name:<{NAME_CELLS - 2}}"
            said = about(configuration.file_of(kind, name))
            screen.write(wrapped(said, min(screen.width, 100), NAME_CELLS, first=first))
    screen.say(as_typed("python -m harness recipes NAME copies one to configs/, to change it"))


def recipes_named(name: str, known: Sequence[tuple[str, str]]) -> list[tuple[str, Path]]:
    """Kind and file of the recipes that a word names. Raises ``ConfigError`` with the nearest name, or all."""
    kind, _, last = name.removesuffix(configuration.ENDING).rpartition("/")
    found = [one for one in known if one in {(kind or one[0], last)} or name == EVERY]
    if not found:
        names = sorted({one for _, one in known})
        near = nearest(last, names)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"{name}: padless has no recipe of that name; {hint}")
    return [(kind, configuration.file_of(kind, one)) for kind, one in found]


def copy(chosen: Sequence[tuple[str, Path]], folder: Path, overwrite: bool) -> None:
    """Copy files and say where they are. Raises ``ConfigError`` before anything is written if one was changed there."""
    contents = {folder / kind / source.name: source.read_bytes() for kind, source in chosen}
    for target, content in contents.items():
        if target.exists() and not overwrite and (not target.is_file() or target.read_bytes() != content):
            raise ConfigError(
                f"{target}: is there already and differs; --overwrite replaces it, --output goes elsewhere"
            )
    for target, content in contents.items():
        with storing(target, otherwise="name another --output"):
            atomic.write_bytes(target, content)
        Screen().say(str(target))


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Every checkpoint of a run, oldest first: step, epochs, best so far, and whether every byte is as written.

    The exit code is 3 if any is damaged.
    """

    json: bool = False
    """Print one JSON list."""


def checkpoints(config: CheckpointConfig, words: list[str]) -> int:
    """Verify and print every checkpoint; returns the exit code. Raises ``DataError`` for what is no run directory."""
    (run,) = words
    if not layout.holds_run(run):
        layout.refuse_many(run)
        raise DataError(f"{run}: is not a run directory")
    found = [described(run, step) for step in checkpoint.steps(run)]
    if config.json:
        print(json.dumps(found, indent=2))
    elif found:
        show_checkpoints(found, Screen())
    else:
        print(f"{run}: no checkpoints yet")
    return DataError.exit_code if any(one["damage"] for one in found) else 0


def described(run: str, step: int) -> dict[str, Any]:
    """One checkpoint as plain values; ``damage`` is a sentence, or None if every byte is as written."""
    path = checkpoint.path_of(run, step)
    size = sum(file.stat().st_size for file in path.glob("*"))
    facts: dict[str, Any] = {"step": step, "path": str(path), "bytes": size, "damage": None}
    try:
        state = checkpoint.verify(path).state
    except DataError as error:
        return facts | {"damage": str(error)}
    chosen, value = state["selection"], state["selection"]["best"]
    best = {"metric": CHOSEN_BY[chosen["metric"]], "best": value and abs(value), "best_step": chosen["best_step"]}
    return facts | {"epochs_done": state["trainer"]["epochs_done"], **best}


def show_checkpoints(found: Sequence[dict[str, Any]], screen: Screen) -> None:
    """Print a row for each checkpoint, and below them what is wrong with those that are damaged."""
    rows = []
    for one in found:
        row = {"step": f"{one['step']:,}", "size": f"{one['bytes'] / 2**20:,.1f} MiB", "state": "DAMAGED"}
        if not one["damage"]:
            what = one["metric"].replace("_", " ")
            best = "" if one["best"] is None else f"{what} {one['best']:.4f} at step {one['best_step']:,}"
            row |= {"state": "whole", "epochs_done": str(one["epochs_done"]), "best": best}
        rows.append(row)
    screen.table(table(COLUMNS, rows, screen.width))
    for one in found:
        if one["damage"]:
            screen.say(f"damaged: {one['damage']}", "warn")
