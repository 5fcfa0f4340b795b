# SPDX-License-Identifier: Apache-2.0
"""``padless baseline``: what scikit-learn reaches on a dataset, in seconds, before a network is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.baseline.linear import RECIPE, OnSplit, measure, measured_splits
from harness.baseline.results import fold_name, folder_of, read_results, write_results
from harness.data.views import check_folds, held_out
from harness.rundir.results import figures_name
from harness.scores.tables import show_figures, spread_table
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import VALIDATION
from preprocessing.base.terminal import Screen, duration, tell
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
        check_folds(manifest, config.data, "folds")
    names = [fold_name(fold) for fold in range(manifest.folds)] if config.folds else measured_splits(manifest)
    results = known(config.data, manifest, names)
    done = "found"
    if not len(results) == len(names) > 0:
        if config.folds:
            views = [held_out(manifest, fold, config.data) for fold in range(manifest.folds)]
            found = {name: measure(config.data, view)[VALIDATION] for name, view in zip(names, views, strict=True)}
        else:
            found = measure(config.data, manifest)
        done = "written" if keep(config.data, manifest, found) else ""
        results = {name: one.figures for name, one in found.items()}
    if config.json:
        print(json.dumps(results, indent=2))
    else:
        show(config, manifest, results, done)


def show(config: BaselineConfig, manifest: Manifest, results: dict[str, dict[str, Any]], done: str) -> None:
    screen, values = Screen(), list(results.values())
    first = values[0]
    stopped = "" if first["converged"] else f", stopped after {first['steps']} steps"
    what = f"{manifest.folds} folds" if config.folds else f"{first['train_rows']:,} training rows"
    screen.fact("data", f"{config.data} ({what}, {len(manifest.labels)} classes)")
    regression = f"logistic regression with C = {RECIPE['C']:g}{stopped}"
    screen.fact("model", f"TF-IDF of {first['features']:,} words and pairs, {regression}")
    if config.folds:
        screen.table(spread_table(list(results), values, screen.width))
    else:
        show_figures(screen, results)
    if done:
        seconds = sum(one["seconds"] for one in values) if config.folds else first["seconds"]
        files = "" if config.folds else f": {' and '.join(map(figures_name, results))}"
        screen.say(f"{done} in {folder_of(config.data)}{files} ({duration(seconds)})")


def known(data: str, manifest: Manifest, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What was measured before; a damaged result counts as none, and is said."""
    try:
        return read_results(data, manifest.fingerprint, names)
    except DataError as error:
        tell(f"warning: {error}; made again now")
        return {}


def keep(data: str, manifest: Manifest, results: dict[str, OnSplit]) -> bool:
    """Write the results beside the shards; where that cannot be done, say so in one line. Whether it was done."""
    try:
        write_results(data, manifest, results)
    except OSError as error:
        tell(f"warning: {folder_of(data)} cannot be written ({error.strerror}); no run will find these figures")
        return False
    return True
