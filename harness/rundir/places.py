# SPDX-License-Identifier: Apache-2.0
"""What stands at a place where a bundle was looked for and is none, so that the refusal says what to name instead."""

from __future__ import annotations

import difflib
from pathlib import Path

from harness.rundir.layout import BUNDLE, holds_run
from preprocessing.dataset.shards import MANIFEST

SHOWN = 5
"""So many runs of a folder are named."""
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
"""Endings of files that other tools write with Python's pickle. Reading one runs whatever code it holds."""


def instead(directory: Path) -> str:
    """What is there in place of the bundle ``directory``, and what to do: the end of a sentence."""
    place = directory.parent if directory.name == BUNDLE else directory
    if not place.exists():
        beside = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
        near = difflib.get_close_matches(place.name, beside, n=1)
        hint = f"did you mean {place.parent / near[0]}?" if near else "name a run directory, or a bundle"
        return f"there is no folder {place}; {hint}"
    if not place.is_dir():
        return f"{place} is a file; name the run directory, or the bundle, that it belongs to"
    if holds_run(place):
        return "this run has not finished an epoch; name a run whose training got that far"
    if (place / MANIFEST).is_file():
        return f"{place} is a dataset; name a run that was trained on it"
    if runs := sorted(path.name for path in place.iterdir() if path.is_dir() and holds_run(path)):
        more = ", …" if len(runs) > SHOWN else ""
        return f"{place} is a folder of runs; name one of them: {', '.join(runs[:SHOWN])}{more}"
    if above := next((path for path in place.resolve().parents[:2] if holds_run(path)), None):
        return f"{place} is a part of a run; name {above}"
    if pickle := next((path.name for path in sorted(place.iterdir()) if path.suffix in PICKLES), None):
        return f"{place} holds no run and no bundle; its {pickle} is not opened: to read a pickle is to run its code"
    return f"{place} is neither a run directory nor a bundle; name one, as in runs/mine"
