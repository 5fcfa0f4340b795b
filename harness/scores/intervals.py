# SPDX-License-Identifier: Apache-2.0
"""How far a metric of so many rows can be trusted: percentile bootstrap over rows, and Wilson's interval for a share.

A resample is a weight for each row, how often it was drawn; all metrics are computed from the weights of many
resamples at once (Efron and Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.scores.metrics import log_loss_per_row, num_classes_of, predicted_labels, probabilities

LEVEL = 0.95
RESAMPLES = 1000
FEWEST_RESAMPLES = 200
WORK = 100_000_000
"""Rows times classes that may be drawn in all: above it there are fewer resamples, but not fewer than the fewest."""
MOST_RANKED = 20_000_000
"""Rows times classes up to which areas are drawn too: each resample ranks all rows once for every class."""
CHUNK = 250_000
"""Rows that are drawn at once."""
WILSON_Z = 1.959963984540054
"""Quantile of the normal distribution for ``LEVEL``."""


def bootstrap(
    logits: np.ndarray, labels: np.ndarray, threshold: float = 0.5, *, seed: int = 0, resamples: int | None = None
) -> dict[str, Any]:
    """``[low, high]`` of each metric of ``classification_metrics`` that is a mean or an area, and how they were made.

    An area's interval is None where a class has no row, and above ``MOST_RANKED``. The same rows and ``seed`` always
    give the same intervals.
    """
    rows, classes = len(labels), num_classes_of(logits)
    if resamples is None:
        areas_per_row = 1 if classes == 2 else classes
        resamples = int(np.clip(WORK // (rows * areas_per_row), FEWEST_RESAMPLES, RESAMPLES))
    random = np.random.default_rng(seed)
    statistics = Statistics(logits, labels, threshold)
    chunk = max(1, CHUNK // rows)
    values: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = random.integers(0, rows, (count, rows)) + np.arange(count)[:, None] * rows
        weights = np.bincount(drawn.reshape(-1), minlength=count * rows).reshape(count, rows)
        for name, column in statistics(weights).items():
            values.setdefault(name, []).append(column)
    result: dict[str, Any] = {"level": LEVEL, "resamples": resamples, "seed": seed, "method": "percentile bootstrap"}
    return result | {name: percentile_interval(np.concatenate(columns)) for name, columns in values.items()}


def percentile_interval(values: np.ndarray) -> list[float] | None:
    """The middle ``LEVEL`` of the resampled values; resamples in which a metric is not defined are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]


class Statistics:
    """Metrics of many resamples of the same rows."""

    def __init__(self, logits: np.ndarray, labels: np.ndarray, threshold: float) -> None:
        """Sort what can be sorted once."""
        self.classes = num_classes_of(logits)
        if self.classes == 2:  # the one ranking is then that of the rows themselves
            order = np.argsort(-logits, kind="stable")
            logits, labels = logits[order], labels[order]
        predicted = predicted_labels(logits, threshold)
        self.loss = log_loss_per_row(logits, labels)
        self.true, self.said, self.right = labels, predicted, labels == predicted
        if self.classes == 2:
            self.rankings = [Ranking(logits, labels == 1)]
        elif len(np.unique(labels)) < self.classes or logits.size > MOST_RANKED:
            self.rankings = []  # a mean over classes of which one has no area is no area, whatever is drawn
        else:
            chances = probabilities(logits)
            self.rankings = [Ranking(chances[:, number], labels == number) for number in range(self.classes)]

    def __call__(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric ``[resamples]`` for int64 ``weights`` ``[resamples, rows]``; nan where it is not defined."""
        floats = weights.astype(np.float64)
        total = floats.sum(axis=1)
        true, said = self.by_class(weights, self.true), self.by_class(weights, self.said)
        hits = self.by_class(weights * self.right, self.true)
        with np.errstate(invalid="ignore"):
            recall = hits / true
            f1 = np.nan_to_num(2 * hits / (true + said), nan=0.0)
        present = np.isfinite(recall)
        nowhere = np.full(len(weights), np.nan)
        areas = [ranking.areas(floats) for ranking in self.rankings] or [(nowhere, nowhere)]
        roc_auc, pr_auc = (np.mean([pair[number] for pair in areas], axis=0) for number in (0, 1))
        return {
            "accuracy": hits.sum(axis=1) / total,
            "balanced_accuracy": np.where(present, recall, 0).sum(axis=1) / present.sum(axis=1),
            "f1": f1[:, 1] if self.classes == 2 else f1.mean(axis=1),
            "roc_auc": roc_auc,
            "pr_auc": pr_auc,
            "log_loss": floats @ self.loss / total,
        }

    def by_class(self, weights: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """float64 ``[resamples, classes]``: the sum of the weights of each class's rows."""
        places = np.arange(len(weights))[:, None] * self.classes + classes
        size = len(weights) * self.classes
        return np.bincount(places.reshape(-1), weights.reshape(-1), size).reshape(-1, self.classes)


class Ranking:
    """Rows of one class against the rest, by falling score."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        """``scores`` float ``[rows]``, ``positive`` bool ``[rows]``."""
        self.order = np.argsort(-scores, kind="stable")
        self.sorted = bool((self.order[1:] > self.order[:-1]).all())
        self.positive = positive[self.order].astype(np.float64)
        ordered = scores[self.order]
        self.places = np.flatnonzero(self.positive)
        last = np.append(ordered[1:] < ordered[:-1], True)
        self.ends = None if last.all() else np.flatnonzero(last)
        """Last row of each run of equal scores; None where no two are equal."""

    def areas(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Areas under the ROC curve (trapezoids) and average precision, ``[resamples]``, with weighted rows.

        They are nan where the class, or the rest, has no row.
        """
        if not len(self.places):
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        ordered = weights if self.sorted else weights[:, self.order]
        taken = np.cumsum(ordered, axis=1)
        if self.ends is None:  # only the positive rows add to either sum
            gained = ordered[:, self.places]
            found = np.cumsum(gained, axis=1)
            total = taken[:, -1].copy()
            taken = taken[:, self.places]
            wrong, tied = taken - found, 0.0
        else:
            found = np.cumsum(ordered * self.positive, axis=1)[:, self.ends]
            total, taken = taken[:, -1].copy(), taken[:, self.ends]
            gained = np.diff(found, axis=1, prepend=0.0)
            wrong = taken - found
            tied = np.einsum("ij,ij->i", gained, np.diff(wrong, axis=1, prepend=0.0)) / 2
        positives = gained.sum(axis=1)
        negatives = total - positives
        ahead = positives * negatives - np.einsum("ij,ij->i", gained, wrong) + tied
        np.divide(found, taken, out=found, where=taken > 0)  # precision; where nothing is taken nothing is gained
        with np.errstate(invalid="ignore"):
            roc_auc = ahead / (positives * negatives)
            pr_auc = np.einsum("ij,ij->i", gained, found) / positives
        return roc_auc, np.where(negatives > 0, pr_auc, np.nan)


def wilson(right: int, rows: int) -> list[float]:
    """``[low, high]`` for a share of ``right`` among ``rows``: sound for few rows and near 0 or 1 (Wilson, 1927)."""
    share, z2 = right / rows, WILSON_Z**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = WILSON_Z / (1 + z2 / rows) * float(np.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)))
    return [max(0.0, middle - half), min(1.0, middle + half)]
