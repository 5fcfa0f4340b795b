# SPDX-License-Identifier: Apache-2.0
"""``python -m harness baseline``: what scikit-learn reaches on a dataset, in seconds, before a network is trained."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from harness.baseline.linear import RECIPE, OnSplit, measure, measured_splits
from harness.baseline.results import fold_name, folder_of, read_folds, read_results, write_folds, write_results
from harness.data.views import check_folds, held_out
from harness.rundir.results import figures_name
from harness.scores.tables import show_figures, spread_table
from preprocessing.base.errors import DataError
from preprocessing.base.printable import duration, tell
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import VALIDATION
from preprocessing.dataset.shards import Manifest, read_manifest


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Measure TF-IDF of words and pairs with logistic regression on a dataset, to hold networks against.

    The figures are kept in DATA/baseline, where every run on the dataset finds them.
    """

    data: str
    """Dataset directory."""
    folds: bool = False
    """Measure it on each fold of the dataset (splits.folds), learned from the others, in place of the splits: what
    launch --folds is held against."""
    json: bool = False
    """Print the figures of every measured split, or of every fold, as one JSON object."""


def main(config: BaselineConfig) -> None:
    """Show the figures of the linear model; they are computed unless they are there already."""
    manifest = read_manifest(config.data)
    if config.folds:
        measure_folds(config, manifest)
        return
    results = known(config.data, manifest)
    again = set(results) == set(measured_splits(manifest)) != set()
    written = again
    if not again:
        found = measure(config.data, manifest)
        written = keep(config.data, manifest, found)
        results = {split: one.figures for split, one in found.items()}
    if config.json:
        print(json.dumps(results, indent=2))
        return
    first = next(iter(results.values()))
    stopped = "" if first["converged"] else f", stopped after {first['steps']} steps"
    screen = Screen()
    screen.fact("data", f"{config.data} ({first['train_rows']:,} training rows, {len(manifest.labels)} classes)")
    regression = f"logistic regression with C = {RECIPE['C']:g}{stopped}"
    screen.fact("model", f"TF-IDF of {first['features']:,} words and pairs, {regression}")
    show_figures(screen, results)
    if written:
        names = " and ".join(figures_name(split) for split in results)
        where = f"{'found' if again else 'written'} in {folder_of(config.data)}"
        screen.say(f"{where}: {names} ({duration(first['seconds'])})")


def measure_folds(config: BaselineConfig, manifest: Manifest) -> None:
    """Show the figures of the linear model on each fold; they are computed unless they are there already."""
    check_folds(manifest, config.data, "folds")
    folds = range(manifest.folds)
    results = read_folds(config.data, manifest.fingerprint, manifest.folds)
    again = len(results) == len(folds)
    screen = Screen(quiet=config.json)
    if not again:
        results = [measure(config.data, held_out(manifest, fold, config.data))[VALIDATION].figures for fold in folds]
    try:
        if not again:
            write_folds(config.data, results)
    except OSError as error:
        where = folder_of(config.data)
        print(f"warning: {where} cannot be written ({error.strerror}); no run will find these figures", file=sys.stderr)
    names = [fold_name(fold) for fold in folds]
    if config.json:
        print(json.dumps(dict(zip(names, results, strict=True)), indent=2))
        return
    screen.fact("data", f"{config.data} ({manifest.folds} folds, {len(manifest.labels)} classes)")
    screen.table(spread_table(names, results, screen.width))
    seconds = sum(each["seconds"] for each in results)
    screen.say(f"{'found' if again else 'measured'} in {folder_of(config.data)} ({duration(seconds)})")


def known(data: str, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """What was measured before; a damaged result counts as none, and is said."""
    try:
        return read_results(data, manifest.fingerprint)
    except DataError as error:
        tell(f"warning: {error}; made anew now")
        return {}


def keep(data: str, manifest: Manifest, results: dict[str, OnSplit]) -> bool:
    """Write the results beside the shards; where that cannot be done, say so in one line. Whether it was done."""
    try:
        write_results(data, manifest, results)
    except OSError as error:
        where = folder_of(data)
        print(f"warning: {where} cannot be written ({error.strerror}); no run will find these figures", file=sys.stderr)
        return False
    return True
