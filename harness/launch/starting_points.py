# SPDX-License-Identifier: Apache-2.0
"""What a training can start from: ``padless recipes`` lists and copies recipes, ``padless checkpoint RUN`` says from
which steps a run can go on.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from harness.rundir import checkpoint, layout
from harness.scores.figures import CHOSEN_BY
from preprocessing.base import atomic, configuration
from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.help_page import nearest
from preprocessing.base.terminal import Screen, size

EVERY = "all"
NAME_CELLS = 18
"""Cells of the column of names."""


@dataclass(frozen=True, kw_only=True)
class RecipesConfig:
    """List the recipes that come with padless, or copy the named ones, to change them.

    --config takes a name in any folder; copy a recipe only to change it. A name that several kinds have means all of
    them, train/NAME one of them, and all means every recipe.
    """

    SUBJECT = ("names",)
    names: list[str] = field(default_factory=list)
    """Recipes to copy; none: list them."""
    output: str = "configs"
    """Folder to copy to; each recipe keeps its kind, as in configs/train/imdb.yaml."""
    overwrite: bool = False
    """Replace a file that has been changed."""
    json: bool = False
    """Print the list as JSON."""


def recipes(config: RecipesConfig) -> None:
    """List, or copy what was named."""
    known = {
        f"{kind}/{name}": configuration.file_of(kind, name)
        for kind in configuration.KINDS
        for name in configuration.names(kind)
    }
    if config.names:
        copy({path: known[path] for name in config.names for path in paths_named(name, known)}, config)
        return
    listed = [
        {"kind": kind, "name": name, "path": str(file), "about": about(file)}
        for (kind, _, name), file in ((path.partition("/"), file) for path, file in known.items())
    ]
    if config.json:
        print(json.dumps(listed, indent=2))
        return
    screen = Screen()
    for kind, where in configuration.KINDS.items():
        screen.write([f"{kind}: {where}"], "head")
        for one in listed:
            if one["kind"] == kind:
                screen.fact(f"  {one['name']}", one["about"], indent=NAME_CELLS)
    screen.say("padless recipes NAME copies one to configs/, to change it")


def about(file: Path) -> str:
    """The first sentence of the comment at the head of a recipe."""
    head = takewhile(lambda line: line.startswith("#"), file.read_text(encoding="utf-8").splitlines())
    return " ".join(line.lstrip("# ") for line in head).partition(". ")[0].rstrip(".") + "."


def paths_named(word: str, known: Collection[str]) -> list[str]:
    """The recipes, as in ``train/imdb``, that a word names. Raises ``ConfigError`` with the nearest name, or all."""
    wanted = word.removesuffix(configuration.ENDING)
    found = [path for path in known if wanted in (path, path.partition("/")[2]) or wanted == EVERY]
    if not found:
        names = sorted({path.partition("/")[2] for path in known})
        near = nearest(wanted.rpartition("/")[2], names)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"{word}: padless has no recipe of that name; {hint}")
    return found


def copy(chosen: Mapping[str, Path], config: RecipesConfig) -> None:
    """Copy files and say where they are. Raises ``ConfigError`` before anything is written if one was changed there."""
    contents = {Path(config.output, path + configuration.ENDING): file.read_bytes() for path, file in chosen.items()}
    for target, content in contents.items():
        if target.exists() and not config.overwrite and (not target.is_file() or target.read_bytes() != content):
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

    SUBJECT = ("run",)
    run: str
    """Run directory."""
    json: bool = False
    """Print one JSON list."""


def checkpoints(config: CheckpointConfig) -> int:
    """Verify and print every checkpoint; returns the exit code. Raises ``DataError`` for what is no run directory."""
    run = config.run
    if not layout.holds_run(run):
        layout.refuse_many(run)
        raise DataError(f"{run}: is not a run directory")
    found = [described(run, step) for step in checkpoint.steps(run)]
    if config.json:
        print(json.dumps(found, indent=2))
    elif not found:
        print(f"{run}: no checkpoints yet")
    for one in () if config.json else found:
        if one["damage"]:
            said = f"damaged: {one['damage']}"
        else:
            said = f"whole, {one['epochs_done']} epochs"
            if one["best"] is not None:
                metric = one["metric"].replace("_", " ")
                said += f"; best so far: {metric} {one['best']:.4f} at step {one['best_step']:,}"
        Screen().fact(f"step {one['step']:,}", f"{size(one['bytes'])}, {said}", "warn" if one["damage"] else "")
    return DataError.exit_code if any(one["damage"] for one in found) else 0


def described(run: str, step: int) -> dict[str, Any]:
    """One checkpoint as plain values; ``damage`` is a sentence, or None if every byte is as written."""
    path = checkpoint.path_of(run, step)
    held = sum(file.stat().st_size for file in path.glob("*"))
    facts: dict[str, Any] = {"step": step, "path": str(path), "bytes": held, "damage": None}
    try:
        state = checkpoint.verify(path).state
    except DataError as error:
        return facts | {"damage": str(error)}
    chosen, value = state["selection"], state["selection"]["best"]
    best = {"metric": CHOSEN_BY[chosen["metric"]], "best": value and abs(value), "best_step": chosen["best_step"]}
    return facts | {"epochs_done": state["trainer"]["epochs_done"], **best}
