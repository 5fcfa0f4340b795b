# SPDX-License-Identifier: Apache-2.0
"""Uncertainty of figures: 95 % intervals over rows, and the spread over several runs.

A figure is a function of the weight of each row. Its derivatives by these weights give its variance (Efron, 1982, The
Jackknife, the Bootstrap and Other Resampling Plans, chapter 6; of an area under the ROC curve this is DeLong's, 1988).
A share of ``n`` rows has the variance ``p (1 - p) / n``, so the variance of a figure gives its effective number of
rows. Its interval is Wilson's (1927) for a share of that many rows; that of the average precision is for as many rows
as the class has (Boyd et al., 2013, Area under the Precision-Recall Curve: Point Estimates and Confidence Intervals).
Nothing is sampled, so the same rows always give the same intervals, and these always contain the figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.scores.metrics import (
    log_loss_per_row,
    num_classes_of,
    predicted_labels,
    rankings,
)

LEVEL = 0.95
METHOD = "Wilson's for as many rows as give the same variance"
METHOD_OVER_RUNS = "Student's t over the runs"
MOST_RANKED = 100_000_000
"""Maximum rows times classes for the interval of the ROC AUC, which needs a ranking of all rows for every class."""
Z = 1.959963984540054
"""Quantile of the normal distribution for ``LEVEL``."""
MOST_WORTH = 8
"""The ROC AUC compares pairs of rows, so its effective rows may exceed the rows, by this factor at most."""
CERTAIN = 1e-12
"""A share within this distance of 0 or 1 counts as 0 or 1, because of rounding."""


def intervals(
    logits: np.ndarray, labels: np.ndarray, values: Mapping[str, Any], predicted: np.ndarray | None = None
) -> dict[str, Any]:
    """``[low, high]`` of each of the ``values`` that ``classification_metrics`` has of the same, with level and method.

    The calibration error has none. An area's interval is None where a class has no row, that
    of the ROC AUC also above ``MOST_RANKED``.
    """
    predicted = predicted_labels(logits) if predicted is None else predicted
    support = np.bincount(labels, minlength=num_classes_of(logits))
    present = support[support > 0]
    worth = len(present) ** 2 / (1 / present).sum()  # effective rows if every class has the same recall
    found = {
        "accuracy": wilson(values["accuracy"] * len(labels), len(labels)),
        "log_loss": of_mean(log_loss_per_row(logits, labels)),
        "roc_auc": None,
        "pr_auc": None,
    }
    if values["pr_auc"] is not None:
        rows = float(support[1]) if len(support) == 2 else worth
        found["pr_auc"] = wilson(values["pr_auc"] * rows, rows)
    for name, changes in (*of_labels(labels, predicted, support), *of_area(logits, labels, values["roc_auc"])):
        limit = MOST_WORTH * worth if name == "roc_auc" else worth
        found[name] = of_share(values[name], variance_of(changes, labels, support), worth, limit)
    return {"level": LEVEL, "method": METHOD, **found}


def of_labels(labels: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Balanced accuracy and F1, each with its derivatives by the row weights."""
    right = (labels == predicted).astype(np.float64)
    hits = np.bincount(labels, right, len(support))
    recall = hits / np.maximum(support, 1)
    yield "balanced_accuracy", (right - recall[labels]) / support[labels] / (support > 0).sum()
    rows = support + np.bincount(predicted, minlength=len(support))
    size = np.maximum(rows, 1)
    weight = np.array([0.0, 1.0]) if len(support) == 2 else (rows > 0) / (rows > 0).sum()
    pull, each = weight / size, 2 * hits / size
    yield "f1", 2 * right * pull[labels] - (pull * each)[labels] - (pull * each)[predicted]


def of_area(logits: np.ndarray, labels: np.ndarray, area: float | None) -> Iterator[tuple[str, np.ndarray]]:
    """The ROC AUC, like ``of_labels``; nothing if it is undefined or would take too long."""
    if area is not None and logits.size <= MOST_RANKED:
        classes = 1 if logits.ndim == 1 else logits.shape[1]
        yield "roc_auc", sum((one.changes() for one in rankings(logits, labels)), np.zeros(len(labels))) / classes


def variance_of(changes: np.ndarray, labels: np.ndarray, support: np.ndarray) -> float:
    """The variance of a figure with these derivatives: within each class, estimated from its rows, and between them."""
    means = np.bincount(labels, changes, len(support)) / np.maximum(support, 1)
    within = np.bincount(labels, (changes - means[labels]) ** 2, len(support))
    return float((within * support / np.maximum(support - 1, 1) + support * means**2).sum())


def of_share(value: float, variance: float, worth: float, limit: float) -> list[float]:
    """The interval of a figure from 0 to 1 with this variance; its effective rows are at most ``limit``.

    A figure of exactly 0 or 1 has no variance; it counts as a share of ``worth`` rows.
    """
    odds = value * (1 - value)
    rows = worth if odds < CERTAIN else min(limit, odds / variance) if variance > 0 else worth
    return wilson(value * rows, rows)


def of_mean(losses: np.ndarray) -> list[float] | None:
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


def of_difference(first: np.ndarray, second: np.ndarray) -> list[float]:
    """``[low, high]`` for the share of right rows in ``first`` minus that in ``second``, bool ``[rows]`` each.

    Only rows where exactly one of the two is right count (Bonett and Price, 2012, Adjusted Wald confidence interval for
    a difference of binomial proportions based on paired data).
    """
    rows = len(first) + 2
    ahead, behind = ((one & ~other).sum() + 1 for one, other in ((first, second), (second, first)))
    middle = (ahead - behind) / rows
    half = Z * np.sqrt(((ahead + behind) / rows - middle**2) / rows)
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
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}
