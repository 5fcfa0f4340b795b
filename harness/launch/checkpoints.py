# SPDX-License-Identifier: Apache-2.0
"""``python -m harness checkpoint list | verify | diff RUN``: what a run can go on from, and whether it is whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.rundir import checkpoint, layout
from harness.rundir.checkpoint import Checkpoint
from harness.training.resume import differences
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Column, Screen, table

PROG = "python -m harness checkpoint"
COLUMNS = (
    Column(key="step", title="step"),
    Column(key="size", title="size"),
    Column(key="state", title="state", right=False),
    Column(key="epochs_done", title="epochs"),
    Column(key="processes", title="processes"),
    Column(key="best", title="best so far", right=False),
)


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """Every checkpoint of a run, oldest first: step, epochs, best so far, and whether every byte is as written."""

    json: bool = False
    """Print one JSON list."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(ListConfig):
    """Every checkpoint of a run as list shows them; the exit code is 3 if any is damaged."""


@dataclass(frozen=True, kw_only=True)
class DiffConfig:
    """What differs between two checkpoints of a run: configuration, plain values, and how far each tensor moved."""

    json: bool = False
    """Print one JSON object."""


def show(config: ListConfig, words: list[str]) -> int:
    """Print every checkpoint; returns 0, whatever their state."""
    (run,) = words
    list_checkpoints(run, as_json=config.json)
    return 0


def verify(config: VerifyConfig, words: list[str]) -> int:
    """Print every checkpoint; returns the exit code that damage has."""
    (run,) = words
    found = list_checkpoints(run, as_json=config.json)
    return DataError.exit_code if any(one["damage"] for one in found) else 0


def list_checkpoints(run: str, *, as_json: bool) -> list[dict[str, Any]]:
    """Print every checkpoint of a run, and give what was printed. Raises ``DataError`` for what is no run directory."""
    check_run(run)
    found = [describe(run, step) for step in checkpoint.steps(run)]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        show_table(found, run)
    return found


def check_run(run: str) -> None:
    """Raise ``DataError`` for what is no run directory."""
    if not layout.holds_run(run):
        layout.refuse_many(run)
        raise DataError(f"{run}: is not a run directory")


def describe(run: str, step: int) -> dict[str, Any]:
    """One checkpoint as plain values; ``damage`` is a sentence, or None if every byte is as written."""
    path = checkpoint.path_of(run, step)
    size = sum(file.stat().st_size for file in path.glob("*")) if path.is_dir() else 0
    facts: dict[str, Any] = {"step": step, "path": str(path), "bytes": size, "damage": None}
    try:
        state = checkpoint.verify(path).state
    except DataError as error:
        return facts | {"damage": str(error)}
    known = plain(state)
    processes = len(state["trainer"]["counted"])
    return facts | {name: known[name] for name in ("epochs_done", "best", "best_step")} | {"processes": processes}


def plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's state says beside its configuration, as far as it is shown and compared."""
    trainer, selection = state["trainer"], state["selection"]
    return {
        "step": state["step"],
        "epochs_done": trainer["epochs_done"],
        **{name: selection[name] for name in ("best", "best_step", "epochs_since_best")},
        "skipped_total": trainer["guard"]["total"],
        "dataset": state["dataset"],
    }


def show_table(found: list[dict[str, Any]], run: str) -> None:
    """Print a row for each checkpoint, and below them what is wrong with those that are damaged."""
    screen = Screen()
    if not found:
        screen.say(f"{run}: no checkpoints yet")
        return
    screen.table(table(COLUMNS, [row(facts) for facts in found], screen.width))
    for facts in found:
        if facts["damage"]:
            screen.say(f"damaged: {facts['damage']}", "warn")


def row(facts: dict[str, Any]) -> dict[str, str]:
    """One checkpoint as texts."""
    shown = {"step": f"{facts['step']:,}", "size": f"{facts['bytes'] / 2**20:,.1f} MiB"}
    if facts["damage"]:
        return shown | {"state": "DAMAGED"}
    best = "" if facts["best"] is None else f"{facts['best']:.4f} at step {facts['best_step']:,}"
    counts = {name: str(facts[name]) for name in ("epochs_done", "processes")}
    return shown | {"state": "whole", **counts, "best": best}


def diff(config: DiffConfig, words: list[str]) -> None:
    """Print how two checkpoints differ. Raises ``ConfigError`` for a step that has none."""
    run, *chosen = words
    check_run(run)
    values = compare(*(checkpoint.verify(checkpoint.path_of(run, step)) for step in two_steps(run, chosen)))
    if config.json:
        print(json.dumps(values | {"config": [asdict(one) for one in values["config"]]}, indent=2))
        return
    screen = Screen()
    for one in values["config"]:
        screen.say(str(one))
    for key, (before, after) in values["state"].items():
        screen.say(f"  {key}: was {before}, now {after}")
    print(f"  {'tensor':<44} {'largest change':>14} {'relative norm':>14}")
    for key, moved in values["tensors"].items():
        if moved is None:
            print(f"  {key:<44} {'only in one, or of another shape':>29}")
        else:
            print(f"  {key:<44} {moved['largest_change']:>14.3e} {moved['relative_norm']:>14.3e}")


def two_steps(run: str, words: list[str]) -> tuple[int, int]:
    """The steps that ``words`` name, else the newest two. Raises ``ConfigError`` if they are not two that exist."""
    there = checkpoint.steps(run)
    try:
        chosen = [int(word) for word in words] or there[-2:]
    except ValueError:
        raise ConfigError(f"{' '.join(words)}: {PROG} diff takes two steps, as whole numbers") from None
    known = ", ".join(map(str, there))
    if len(chosen) != 2:
        raise ConfigError(f"{PROG} diff: needs two checkpoints; {run} has {len(there)}: {known}")
    for step in chosen:
        if step not in there:
            raise ConfigError(f"{step}: {Path(run)} has no checkpoint of this step; it has {known}")
    return chosen[0], chosen[1]


def compare(first: Checkpoint, second: Checkpoint) -> dict[str, Any]:
    """How two checkpoints differ: keys of the configuration, plain values, and how far each tensor moved.

    A tensor that only one of them has, or that has another shape, is None.
    """
    then, now = plain(first.state), plain(second.state)
    state = {key: [value, now[key]] for key, value in then.items() if value != now[key]}
    tensors: dict[str, dict[str, float] | None] = {}
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        before, after = first.tensors(name), second.tensors(name)
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after or before[key].shape != after[key].shape:
                tensors[key] = None
                continue
            moved = (after[key].double() - before[key].double()).abs()
            scale = float(before[key].double().norm()) or 1.0
            largest = float(moved.max()) if moved.numel() else 0.0
            tensors[key] = {"largest_change": largest, "relative_norm": float(moved.norm()) / scale}
    settings = differences(first.state["config"], second.state["config"], same_data="dataset" not in state)
    return {"config": settings, "state": state, "tensors": tensors}
