# SPDX-License-Identifier: Apache-2.0
"""A network beside the linear model on the same rows: which is ahead, and whether so many rows can show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.baseline.results import MADE_ANEW, folder_of
from harness.rundir.results import Measured, predictions_name, read_hits
from harness.scores.intervals import of_difference
from preprocessing.base.errors import DataError
from preprocessing.base.printable import duration


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
