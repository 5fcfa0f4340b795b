# SPDX-License-Identifier: Apache-2.0
"""How well an order shuffles: statistics of a few epochs, each beside that of full random permutations.

Even a perfect shuffle does not give zeros. Among ``n`` rows in random order a correlation of ``1 / sqrt(n)`` is chance,
and the lag-1 autocorrelation of ``b`` batches in random order has a standard deviation of ``1 / sqrt(b)`` around
``-1 / b`` (Kendall, 1976). Means over several epochs scatter less, and ``Quality`` says by how much they still do.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.data.order import Order
from preprocessing.base.randomness import words


@dataclass(frozen=True)
class Quality:
    """Statistics of some epochs of an order, or of full permutations to compare it with."""

    position_correlation: float
    """Correlation of a row's place in the epoch with its place in the source, mean over epochs; 0 is perfect."""
    position_scatter: float
    """Standard deviation of that mean by chance."""
    label_runs: float
    """Mean length of runs of equal labels, divided by what random order gives these labels; 1 is perfect."""
    length_autocorrelation: float
    """Correlation of the mean row length of a batch with that of the next one, mean over epochs; 0 is perfect."""
    length_scatter: float
    """Standard deviation of that mean by chance."""
    meet_again: float
    """Chance that two rows of one batch share a batch in the next epoch too. Sorting by length raises it."""


def compare(
    order: Order, source: np.ndarray, labels: np.ndarray, lengths: np.ndarray, epochs: int
) -> tuple[Quality, Quality]:
    """Quality of ``order``, and of full permutations of the same rows in batches of the same number.

    ``source``, ``labels`` and ``lengths`` are ``[rows]``, by global row: place in the source, class, length.
    """
    seed = order.spec.seed
    ours = [[order.batch_rows(epoch, step) for step in range(order.steps_per_epoch)] for epoch in range(epochs)]
    shuffles = [np.argsort(words(seed, epoch, 9, count=order.num_rows)) for epoch in range(epochs)]
    theirs = [np.array_split(shuffle, order.steps_per_epoch) for shuffle in shuffles]
    mixed = [[mix(batch, seed, epoch, step) for step, batch in enumerate(epoch_)] for epoch, epoch_ in enumerate(ours)]
    return quality(mixed, source, labels, lengths), quality(theirs, source, labels, lengths)


def mix(batch: np.ndarray, *key: int) -> np.ndarray:
    """The rows of a batch in random order. A step sees them all at once, so their order inside a batch is no order."""
    return batch[np.argsort(words(*key, 8, count=len(batch)))]


def quality(
    epochs: Sequence[Sequence[np.ndarray]], source: np.ndarray, labels: np.ndarray, lengths: np.ndarray
) -> Quality:
    """Statistics of some epochs, each a sequence of batches of global rows."""
    positions, runs, trends = [], [], []
    for batches in epochs:
        rows = np.concatenate(batches)
        positions.append(correlation(np.arange(len(rows)), source[rows]))
        runs.append(relative_run_length(labels[rows]))
        trends.append(autocorrelation(np.array([lengths[batch].mean() for batch in batches])))
    again = [meet_again(first, second) for first, second in itertools.pairwise(epochs)]
    steps = len(epochs[0])
    return Quality(
        position_correlation=float(np.mean(positions)),
        position_scatter=float((len(source) * len(epochs)) ** -0.5),
        label_runs=float(np.mean(runs)),
        length_autocorrelation=float(np.mean(trends)),
        length_scatter=float((steps * len(epochs)) ** -0.5),
        meet_again=float(np.mean(again)) if again else float("nan"),
    )


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 0 else 0.0


def autocorrelation(values: np.ndarray) -> float:
    """Correlation of each value with the next one; 0 for fewer than three values."""
    if len(values) < 3:
        return 0.0
    values = values - values.mean()
    scale = (values**2).sum()
    return float((values[:-1] * values[1:]).sum() / scale) if scale > 0 else 0.0


def relative_run_length(labels: np.ndarray) -> float:
    """Mean length of runs of equal labels, over what random order gives: ``1 / (1 - sum of squared shares)``."""
    changes = int((labels[1:] != labels[:-1]).sum())
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    expected = 1 + (len(labels) - 1) * (1 - float((shares**2).sum()))
    return expected / (1 + changes)


def meet_again(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Chance that two rows of one batch of ``first`` lie in one batch of ``second``."""
    rows = np.concatenate(first)
    batch_in_first = np.repeat(np.arange(len(first)), [len(batch) for batch in first])
    batch_in_second = np.empty(int(rows.max()) + 1, np.int64)
    for number, batch in enumerate(second):
        batch_in_second[batch] = number
    _, together = np.unique(batch_in_first * len(second) + batch_in_second[rows], return_counts=True)
    sizes = np.array([len(batch) for batch in first])
    pairs = (sizes * (sizes - 1)).sum()
    return float((together * (together - 1)).sum() / pairs) if pairs else 0.0
