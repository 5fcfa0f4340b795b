# SPDX-License-Identifier: Apache-2.0
"""Fits temperature and threshold on the validation split; the bundle stores them.

The temperature divides the logits so that probabilities match frequencies (Guo et al., 2017, On Calibration of Modern
Neural Networks). It changes neither the order of rows for two classes nor the most probable class. The threshold is a
calibrated probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.config import EvaluationConfig
from harness.scores.metrics import Ranking, blocks, log_loss_per_row, probabilities

LOWEST, HIGHEST = 0.01, 100.0
"""Range of temperatures."""
ITERATIONS = 60
SHARES = (1.0, *(2 ** (half / 2) for half in (1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6)), 0.0)
"""Candidate weights of the wide part: 1/8 to 8, and 0; the first of equally good ones is chosen."""
SHARE_ROWS = 10_000


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities and labels."""

    temperature: float = 1.0
    threshold: float = 0.5
    """Class 1 is predicted from this probability on; two classes only."""

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits of the same shape."""
        return logits / self.temperature


def decide(logits: np.ndarray, labels: np.ndarray, config: EvaluationConfig) -> Decision:
    """Fit temperature and threshold to the scores of the validation split."""
    temperature = fit_temperature(logits, labels)
    if config.threshold == "fixed" or logits.ndim > 1:
        return Decision(temperature)
    return Decision(temperature, choose_threshold(logits / temperature, labels, config))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the lowest log loss, by Newton's method inside a bracket.

    The log loss is convex in 1 / temperature. If every row is right, it has no minimum, and the temperature is 1.
    """
    scores = np.stack((np.zeros_like(logits), logits), axis=1) if logits.ndim == 1 else logits
    scores = scores.astype(np.float64)
    scores -= scores[np.arange(len(labels)), labels][:, None]  # relative to the true class
    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope_and_curvature(scores, high)[0] <= 0:
        return 1.0
    inverse = 1.0
    for _ in range(ITERATIONS):
        slope, curvature = slope_and_curvature(scores, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        proposed = inverse - slope / curvature if curvature > 0 else low
        if proposed <= low == 1 / HIGHEST and slope_and_curvature(scores, low)[0] >= 0:
            return HIGHEST  # uninformative logits: bisection would take some forty steps
        if not low < proposed < high:
            proposed = float(np.sqrt(low * high))
        if abs(proposed - inverse) <= 1e-12 * inverse:
            break
        inverse = proposed
    return 1 / inverse


def calibrated_log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean log loss at the best temperature.

    Comparing two models by it needs far fewer rows than by accuracy, and does not penalise overconfidence.
    """
    return float(log_loss_per_row(logits / fit_temperature(logits, labels), labels).mean())


def choose_share(network: np.ndarray, wide: np.ndarray, labels: np.ndarray) -> float:
    """The weight of the wide part's logits when they are added to the network's.

    The one of ``SHARES`` with the lowest calibrated log loss, on at most ``SHARE_ROWS`` rows. The parts were trained
    separately and differ in scale, hence the weight.
    """
    rows = slice(None, None, -(-len(labels) // SHARE_ROWS) or 1)
    network, wide, labels = network[rows], wide[rows], labels[rows]
    return min(SHARES, key=lambda share: calibrated_log_loss(network + share * wide, labels))


def slope_and_curvature(scores: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean log loss by the inverse temperature; scores are relative to the true
    class.
    """
    mean, square = np.empty(len(scores)), np.empty(len(scores))
    for rows in blocks(scores):
        chances = probabilities(scores[rows] * inverse)
        mean[rows] = (chances * scores[rows]).sum(axis=1)
        square[rows] = (chances * scores[rows] ** 2).sum(axis=1)
    return float(mean.mean()), float((square - mean**2).mean())


def choose_threshold(logits: np.ndarray, labels: np.ndarray, config: EvaluationConfig) -> float:
    """The threshold by the criterion of ``config``, halfway between two rows' scores.

    ``accuracy`` and ``f1`` take the best threshold, of equals the one nearest to 0.5; ``recall`` the highest one that
    reaches the required recall of class 1. 0.5 if the split has only one class.
    """
    ranking, total = Ranking(logits.astype(np.float64), labels == 1), int(labels.sum())
    if total in (0, len(labels)):
        return 0.5
    edges = ranking.scores[ranking.last]
    below = np.append(edges[1:], edges[-1] - 1.0)
    halfway = probabilities((edges + below) / 2)[:, 1]
    if config.threshold == "recall":
        return float(halfway[np.argmax(ranking.found >= np.ceil(config.recall * total - 1e-9))])
    # predicting class 0 for all rows is a candidate too
    found, taken = np.append(0, ranking.found), np.append(0, ranking.taken)
    halfway = np.append(probabilities(edges[:1] + 1.0)[:, 1], halfway)
    right = found + (len(labels) - total) - (taken - found)
    quality = right if config.threshold == "accuracy" else 2 * found / (taken + total)
    best = halfway[quality == quality.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])
