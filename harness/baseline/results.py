# SPDX-License-Identifier: Apache-2.0
"""``DATA/baseline/``: what the linear model reached on a dataset, beside its shards, and a network beside it.

There are ``SPLIT.json`` and ``SPLIT-predictions.parquet`` for each split, and ``fold-N.json`` for each fold, in the
format of an evaluation. Each file of figures carries the fingerprint of the dataset and the recipe of the model; those
of another fingerprint or recipe count as not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.baseline.linear import RECIPE, OnSplit
from harness.rundir.results import (
    Measured,
    figures_name,
    predictions_name,
    read_figures,
    read_hits,
    write_figures,
    write_predictions,
)
from harness.scores.intervals import of_difference
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.terminal import duration
from preprocessing.dataset.shards import Manifest

FOLDER = "baseline"
MADE_ANEW = "delete it, and `padless baseline` makes it again"


def folder_of(data: str | Path) -> Path:
    """Where the results of a dataset lie."""
    return Path(data, FOLDER)


def fold_name(fold: int) -> str:
    """What the figures on a fold are called, where others have the name of a split."""
    return f"fold-{fold}"


def read_results(
    data: str | Path, fingerprint: str | None, names: Sequence[str] = (VALIDATION, TEST)
) -> dict[str, dict[str, Any]]:
    """Figures by name, of the dataset with this fingerprint, as far as they are there; none without one.

    Raises ``DataError`` for a damaged file.
    """
    found = {}
    for name in names:
        try:
            values = read_figures(folder_of(data), name)
        except DataError:
            raise DataError(f"{folder_of(data) / figures_name(name)}: damaged; {MADE_ANEW}") from None
        if fingerprint and values and (values.get("dataset"), values.get("recipe")) == (fingerprint, RECIPE):
            found[name] = values
    return found


def read_folds(data: str | Path, fingerprint: str | None, folds: int) -> list[dict[str, Any]]:
    """Figures of the linear model on each fold, learned from the others; empty unless all are there.

    Raises ``DataError`` for a damaged file.
    """
    found = read_results(data, fingerprint, [fold_name(fold) for fold in range(folds)])
    return list(found.values()) if len(found) == folds else []


def write_results(data: str | Path, manifest: Manifest, results: Mapping[str, OnSplit]) -> None:
    """Write predictions and figures of each split, or the figures of each fold; those of splits or folds that are no
    more are removed. Raises ``OSError``.
    """
    folder, of_folds = folder_of(data), set(results).isdisjoint((VALIDATION, TEST))
    if of_folds:
        folds = folder.glob(figures_name("fold-*"))
        stale = [path for path in folds if path.stem not in results and path.stem.rpartition("-")[2].isdigit()]
    else:
        gone = [split for split in (VALIDATION, TEST) if split not in results]
        stale = [folder / name(split) for split in gone for name in (figures_name, predictions_name)]
    for path in stale:
        path.unlink(missing_ok=True)
    for name, one in results.items():
        if not of_folds:
            write_predictions(folder, name, manifest.labels, manifest.label_type, **one.predictions)
        write_figures(folder, name, one.figures)


@dataclass(frozen=True)
class Comparison:
    """Both on one split, ``test`` if there is one, else ``validation``; the probabilities of both are calibrated."""

    split: str
    network: Mapping[str, Any]
    """The network's figures: those of ``SPLIT.json``."""
    linear: Mapping[str, Any]
    """The linear model's figures."""
    low: float
    high: float
    """The interval (95 %) of the network's accuracy less the linear model's, over the rows that both predicted."""

    @property
    def difference(self) -> float:
        """By how much the network's accuracy is above the linear model's; negative if it is below."""
        return self.network["accuracy"] - self.linear["accuracy"]

    @property
    def standing(self) -> Literal["above", "below", "alike"]:
        """Where the network stands; ``alike`` if the interval of the difference holds 0."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "alike"

    @property
    def figures(self) -> str:
        """Both accuracies and their difference, as one readable line."""
        points, low, high = (f"{100 * value:+.2f}" for value in (self.difference, self.low, self.high))
        return (
            f"accuracy on {self.split}: network {self.network['accuracy']:.4f}, linear model "
            f"{self.linear['accuracy']:.4f}: {points} points (95 %: {low} to {high}, both on the same "
            f"{self.network['rows']:,} rows)"
        )

    @property
    def verdict(self) -> str:
        """What follows, in a sentence."""
        if self.standing == "above":
            return "the network is above the linear model"
        took = f"which took {duration(self.linear['seconds'])}"
        if self.standing == "below":
            return f"the network is below the linear model, {took}"
        return f"no difference that these rows could show between the network and the linear model, {took}"


def compare(measured: Measured | None, data: str | Path, linear: Mapping[str, Mapping[str, Any]]) -> Comparison | None:
    """A run beside the linear model; None where there is nothing to compare.

    ``measured`` is what is known of the run's best weights, and ``linear`` the figures of the linear model on the same
    dataset, ``data``, by split. Raises ``DataError`` for predictions that cannot be read.
    """
    if measured is None or measured.split not in linear or "accuracy" not in measured.figures:
        return None
    split = measured.split
    rows, mine = read_hits(measured.directory, split, "evaluate the run again")
    others, theirs = read_hits(folder_of(data), split, MADE_ANEW)
    if not np.array_equal(rows, others):
        path = folder_of(data) / predictions_name(split)
        raise DataError(f"{path}: not the rows that {measured.directory} predicts; {MADE_ANEW}")
    return Comparison(split, measured.figures, linear[split], *of_difference(mine, theirs))
