# SPDX-License-Identifier: Apache-2.0
"""``python -m harness checkpoint list | verify | diff RUN``: what a run can go on from, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.rundir import checkpoint, layout
from harness.training.resume import differences, table
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, DataError

PROG = "python -m harness checkpoint"
USAGE = f"""usage: {PROG} list RUN [--json]      every checkpoint: step, epochs, best so far, whether whole
       {PROG} verify RUN [--json]    the same, with exit code 3 if any checkpoint is damaged
       {PROG} diff RUN [STEP STEP]   what differs between two checkpoints, by default the newest two"""


def main(argv: list[str]) -> int:
    """Dispatch; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    name, words = cli.choose(("list", "verify", "diff"), argv, PROG)
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    if unknown := next((word for word in words if word.startswith("-")), None):
        raise ConfigError(f"{unknown}: no such option; {PROG} --help lists them all")
    if not words:
        raise ConfigError(f"{PROG} {name}: name a run directory")
    run, *rest = words
    if not layout.holds_run(run):
        raise DataError(f"{run}: is not a run directory")
    if name == "diff":
        return diff(run, rest)
    if rest:
        raise ConfigError(f"{rest[0]!r}: {PROG} {name} takes one run directory")
    found = [describe(run, step) for step in checkpoint.steps(run)]
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(map(line, found)) if found else f"{run}: no checkpoints yet")
    return DataError.exit_code if name == "verify" and any(one["damage"] for one in found) else 0


def describe(run: str, step: int) -> dict[str, Any]:
    """One checkpoint as plain values; ``damage`` is a sentence, or None if every byte is as written."""
    path = checkpoint.path_of(run, step)
    size = sum(file.stat().st_size for file in path.glob("*")) if path.is_dir() else 0
    facts: dict[str, Any] = {"step": step, "path": str(path), "bytes": size, "damage": None}
    try:
        state = checkpoint.verify(path).state
    except DataError as error:
        return facts | {"damage": str(error)}
    processes = len(state["counted"])
    return facts | {name: state[name] for name in ("epochs_done", "best", "best_step")} | {"processes": processes}


def line(facts: dict[str, Any]) -> str:
    """One checkpoint for a reader."""
    head = f"step {facts['step']:>8,}  {facts['bytes'] / 2**20:>9,.1f} MiB  "
    if facts["damage"]:
        return f"{head}DAMAGED: {facts['damage']}"
    best = "" if facts["best"] is None else f"  best so far {facts['best']:.4f} at step {facts['best_step']:,}"
    return f"{head}whole  epochs {facts['epochs_done']}  processes {facts['processes']}{best}"


def diff(run: str, words: list[str]) -> int:
    """Print how two checkpoints differ: plain values, configuration, and how far each tensor moved."""
    there = checkpoint.steps(run)
    try:
        chosen = [int(word) for word in words] or there[-2:]
    except ValueError:
        raise ConfigError(f"{' '.join(words)}: {PROG} diff takes two steps, as whole numbers") from None
    if len(chosen) != 2:
        raise ConfigError(f"{PROG} diff: needs two checkpoints; {run} has {len(there)}: {', '.join(map(str, there))}")
    for step in chosen:
        if step not in there:
            known = ", ".join(map(str, there))
            raise ConfigError(f"{step}: {Path(run)} has no checkpoint of this step; it has {known}")
    first, second = (checkpoint.verify(checkpoint.path_of(run, step)) for step in chosen)
    print(table(differences(first.state["config"], second.state["config"])))
    for key in ("step", "epochs_done", "best", "best_step", "epochs_since_best", "skipped_total", "dataset"):
        if first.state.get(key) != second.state.get(key):
            print(f"  {key:<28} {first.state.get(key)!s:<16} {second.state.get(key)!s:<16}")
    print(f"  {'tensor':<44} {'largest change':>14} {'relative norm':>14}")
    for name in (checkpoint.MODEL, checkpoint.OPTIMIZER):
        before, after = first.tensors(name), second.tensors(name)
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after or before[key].shape != after[key].shape:
                print(f"  {key:<44} {'only in one, or of another shape':>29}")
                continue
            moved = (after[key].double() - before[key].double()).abs()
            scale = float(before[key].double().norm()) or 1.0
            largest = float(moved.max()) if moved.numel() else 0.0
            print(f"  {key:<44} {largest:>14.3e} {float(moved.norm()) / scale:>14.3e}")
    return 0
