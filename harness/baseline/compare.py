# SPDX-License-Identifier: Apache-2.0
"""A network beside the linear model on the same rows: which is ahead, by how much, and whether it is worth its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.scores.intervals import wilson
from preprocessing.base.readable import duration
from preprocessing.base.split_names import TEST, VALIDATION


@dataclass(frozen=True)
class Comparison:
    """Both on one split: ``test`` if there is one, else ``validation``."""

    split: str
    network: Mapping[str, Any]
    """The network's figures: those of ``test.json``, or of its best validation."""
    interval: tuple[float, float]
    """Of the network's accuracy, 95 %."""
    linear: Mapping[str, Any]
    """The linear model's figures."""

    @property
    def difference(self) -> float:
        """By how much the network's accuracy is above the linear model's; negative if it is below."""
        return self.network["accuracy"] - self.linear["accuracy"]

    @property
    def worth_it(self) -> bool:
        """Whether the interval of the network's accuracy lies above the linear model's accuracy."""
        return self.interval[0] > self.linear["accuracy"]

    @property
    def figures(self) -> str:
        """Both accuracies and their difference, as one readable line."""
        low, high = self.interval
        points = round(100 * self.difference, 2)
        where = "as good as" if points == 0 else f"{abs(points):.2f} points {'above' if points > 0 else 'below'}"
        return (
            f"accuracy on {self.split}: network {self.network['accuracy']:.4f} ({low:.4f} to {high:.4f}), "
            f"linear model {self.linear['accuracy']:.4f}: the network is {where} the linear model"
        )

    @property
    def verdict(self) -> str | None:
        """A sentence if the network is not worth its time; None if it is."""
        if self.worth_it:
            return None
        return (
            f"the network is not worth its time here: the interval of its accuracy begins at {self.interval[0]:.4f}, "
            f"which is not above the {self.linear['accuracy']:.4f} that the linear model reached in "
            f"{duration(self.linear['seconds'])}"
        )


def compare(
    test: Mapping[str, Any] | None,
    validations: Sequence[Mapping[str, Any]],
    linear: Mapping[str, Mapping[str, Any]],
) -> Comparison | None:
    """A run beside the linear model; None where there is nothing to compare.

    ``test`` holds the figures of ``test.json`` if there are any, ``validations`` the run's validation lines in order,
    and ``linear`` the figures of the linear model on the same dataset, by split.
    """
    if test is not None and TEST in linear:
        low, high = test["intervals"]["accuracy"]
        return Comparison(TEST, test, (low, high), linear[TEST])
    best = [line for line in validations if line.get("best")]
    if test is not None or TEST in linear or VALIDATION not in linear or not best:
        return None
    network = best[-1]
    rows = linear[VALIDATION]["rows"]
    low, high = wilson(round(network["accuracy"] * rows), rows)
    return Comparison(VALIDATION, network, (low, high), linear[VALIDATION])
