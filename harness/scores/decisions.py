# SPDX-License-Identifier: Apache-2.0
"""Decisions other than the most probable class: the one of least expected cost, and sets that hold the true label.

The expected cost of a class is that of predicting it, over the true classes by their calibrated probabilities (Elkan,
2001, The Foundations of Cost-Sensitive Learning).

A set has the labels whose probability reaches a bound, by split conformal prediction. The score of a validation row is
1 - the probability of its label, and the bound a quantile of these scores. If new rows are like those of validation, at
least the share ``level`` of sets hold the true label, however wrong the probabilities are; if these are right, no other
such sets are smaller on average (Sadinle, Lei and Wasserman, 2019, Least Ambiguous Set-Valued Classifiers With Bounded
Error Levels). Adaptive sets (Romano, Sesia and Candès, 2020) are larger, and exact only with random numbers. A set is
empty where the most probable label does not reach the bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.scores.intervals import wilson
from preprocessing.base.errors import ConfigError

MAX_SCORES = 1000
"""Maximum number of conformal scores in a bundle."""
SET_LEVELS = (0.8, 0.9, 0.95)
"""Levels whose sets are measured in an evaluation."""


def cost_matrix(costs: Mapping[str, Any], names: Sequence[str], key: str = "costs") -> np.ndarray:
    """The cost of each predicted class for each true class, float64 ``[true, predicted]``, 0 on the diagonal.

    ``costs`` maps a true class to the cost of any error, 1 unless given, or to that of each wrong class; then all
    classes have such a row. Raises ``ConfigError`` for a class that is not in ``names``, and for a missing one.
    """
    for name in costs:
        if name not in names:
            raise ConfigError(f"{key}.{name}: no such label; the labels are {', '.join(names)}")
    default: Any = {} if any(isinstance(cost, Mapping) for cost in costs.values()) else 1.0
    matrix = np.zeros((len(names), len(names)))
    for row, name in zip(matrix, names, strict=True):
        wrong_names, cost = [guess for guess in names if guess != name], costs.get(name, default)
        cost_by_name = cost if isinstance(cost, Mapping) else dict.fromkeys(wrong_names, cost)
        if set(cost_by_name) != set(wrong_names):
            raise ConfigError(f"{key}.{name}: expected the cost of each wrong label: {', '.join(wrong_names)}")
        row[:] = [cost_by_name.get(guess, 0.0) for guess in names]
    return matrix


def conformal_scores(chances: np.ndarray, labels: np.ndarray) -> list[float]:
    """The scores of validation rows, ascending; none if a probability is no number.

    Of many rows ``MAX_SCORES`` quantiles, of which each is a score and none too low, so that sets are not too small.
    """
    scores = np.sort(1 - chances[np.arange(len(labels)), labels])
    if not np.isfinite(scores).all():
        return []
    number = min(len(scores), MAX_SCORES)
    ranks = -(-np.arange(1, number + 1) * len(scores) // number)
    quantiles: list[float] = scores[ranks - 1].tolist()
    return quantiles


def choose_bound(scores: Sequence[float], level: float) -> float:
    """The highest score of a label in a set: the ``level`` quantile of ``scores`` and one score more, which is higher
    than all. Raises ``ConfigError`` if that is the quantile.
    """
    rank = math.ceil(level * (len(scores) + 1) - 1e-9)
    if rank > len(scores):
        raise ConfigError(
            f"set: {level:g} is above {len(scores) / (len(scores) + 1):.3g}, the most that the scores of "
            f"{len(scores):,} validation rows in the bundle allow; ask for less, or train again with more"
        )
    return scores[rank - 1]


def choose_sets(chances: np.ndarray, scores: Sequence[float], level: float) -> np.ndarray:
    """The labels of each row's set, bool of the shape of ``chances``. Raises as ``choose_bound``."""
    return 1 - chances <= choose_bound(scores, level)


def set_figures(labels: np.ndarray, chances: np.ndarray, scores: Sequence[float]) -> list[dict[str, Any]]:
    """Of each of ``SET_LEVELS`` that the scores reach: the share of sets that hold the label, and their mean size."""
    entries = []
    for level in SET_LEVELS:
        if level <= len(scores) / (len(scores) + 1):
            sets = choose_sets(chances, scores, level)
            rows, hits = len(labels), int(sets[np.arange(len(labels)), labels].sum())
            sizes = {"coverage": hits / rows, "interval": wilson(hits, rows), "size": float(sets.sum() / rows)}
            entries.append({"level": level, **sizes})
    return entries
