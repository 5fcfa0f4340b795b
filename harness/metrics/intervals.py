# SPDX-License-Identifier: Apache-2.0
"""Uncertainty of figures: 95 % intervals over rows, and the spread over several runs.

A share of ``n`` rows has the variance ``p (1 - p) / n``, so the variance of a mean of shares gives its effective number
of rows. Its interval is Wilson's (1927) for a share of that many rows. Nothing is sampled, so the same rows always give
the same intervals, and these always contain the figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.metrics.metrics import is_right, log_loss_per_row

LEVEL = 0.95
METHOD = "Wilson's for as many rows as give the same variance"
METHOD_OVER_RUNS = "Student's t over the runs"
Z = 1.959963984540054
"""Quantile of the normal distribution for ``LEVEL``."""


def intervals(logits: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """``[low, high]`` of accuracy, balanced accuracy and log loss, with level and method; with several labels to a text
    of F1 in place of balanced accuracy.
    """
    right = is_right(labels, predicted)
    if labels.ndim > 1:
        hits, sizes = 2.0 * (labels & predicted), 1.0 * labels + predicted
        is_used = sizes.any(axis=0)
        averages = {
            "f1": ratios_interval(hits[:, is_used], sizes[:, is_used]),
            "f1_micro": ratios_interval(hits.sum(axis=1, keepdims=True), sizes.sum(axis=1, keepdims=True)),
        }
    else:
        rows, hits = np.bincount(labels), np.bincount(labels, right)
        averages = {"balanced_accuracy": recalls_interval(hits[rows > 0], rows[rows > 0])}
    return {
        "level": LEVEL,
        "method": METHOD,
        "accuracy": wilson(int(right.sum()), len(labels)),
        **averages,
        "log_loss": mean_interval(log_loss_per_row(logits, labels)),
    }


def ratios_interval(parts: np.ndarray, totals: np.ndarray) -> list[float] | None:
    """The interval of the mean over columns of ``parts.sum() / totals.sum()``, both float64 ``[rows, columns]``, from
    the variance of its linear approximation; None where all totals are 0.
    """
    if not totals.any():
        return None
    ratios = parts.sum(axis=0) / totals.sum(axis=0)
    mean, effective_rows = float(ratios.mean()), float(len(parts))
    deviations = ((parts - ratios * totals) / totals.mean(axis=0)).mean(axis=1)
    variance = float(deviations.var()) / len(parts)
    if variance > 0 and 0 < mean < 1:
        effective_rows = min(float(totals.sum()), mean * (1 - mean) / variance)
    return wilson(mean * effective_rows, effective_rows)


def recalls_interval(hits: np.ndarray, rows: np.ndarray) -> list[float]:
    """The interval of the mean recall of classes, each with so many ``rows``, of which ``hits`` are right.

    A mean of exactly 0 or 1 has no variance; it counts as that of classes with equal recalls.
    """
    recalls = hits / rows
    mean, effective_rows = float(recalls.mean()), len(rows) ** 2 / (1 / rows).sum()
    variance = (recalls * (1 - recalls) / np.maximum(rows - 1, 1)).sum() / len(rows) ** 2
    if variance > 0 and mean < 1:
        effective_rows = min(effective_rows, mean * (1 - mean) / variance)
    return wilson(mean * float(effective_rows), float(effective_rows))


def mean_interval(losses: np.ndarray) -> list[float] | None:
    """The interval of a mean of positive numbers, symmetric in its logarithm; None for a single one."""
    mean = float(losses.mean())
    if len(losses) < 2 or not np.isfinite(mean):
        return None
    factor = np.exp(Z * losses.std(ddof=1) / len(losses) ** 0.5 / mean) if mean > 0 else 1.0
    return [float(mean / factor), float(mean * factor)]


def wilson(right: float, rows: float) -> list[float]:
    """``[low, high]`` for a share of ``right`` among ``rows``: accurate for few rows and near 0 or 1 (Wilson, 1927)."""
    share, z2 = right / rows, Z**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z / (1 + z2 / rows) * float(np.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)))
    return [max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))]


def difference_interval(first: np.ndarray, second: np.ndarray) -> list[float]:
    """``[low, high]`` for the share of right rows in ``first`` minus that in ``second``, bool ``[rows]`` each.

    Only rows where exactly one of the two is right count (Bonett and Price, 2012, Adjusted Wald confidence interval for
    a difference of binomial proportions based on paired data).
    """
    rows = len(first) + 2
    only_first, only_second = (first & ~second).sum() + 1, (second & ~first).sum() + 1
    middle = (only_first - only_second) / rows
    half = Z * np.sqrt(((only_first + only_second) / rows - middle**2) / rows)
    return [float(max(-1.0, middle - half)), float(min(1.0, middle + half))]


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """``mean``, ``sd`` (with n - 1), and ``low`` and ``high`` of the mean's interval; None for a single run.

    Student's interval covers variation over seeds or folds, not over other rows. Runs of different folds share most of
    their training rows, so their interval is somewhat too narrow (Bengio and Grandvalet, 2004, No Unbiased Estimator of
    the Variance of K-Fold Cross-Validation).
    """
    from scipy.special import stdtrit

    number, array = len(values), np.asarray(values, np.float64)
    mean = float(array.mean())
    if number < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    sd = float(array.std(ddof=1))
    half = float(stdtrit(number - 1, (1 + LEVEL) / 2)) * sd / number**0.5
    return {"mean": mean, "sd": sd, "low": max(mean - half, 0.0), "high": mean + half}  # no figure is negative
