# SPDX-License-Identifier: Apache-2.0
"""Fits temperature and threshold on the validation split; the bundle stores them.

The temperature divides the logits so that probabilities match frequencies (Guo et al., 2017, On Calibration of Modern
Neural Networks). It changes neither the order of rows for two classes nor the most probable class. The threshold is a
calibrated probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.config import EvaluationConfig
from harness.metrics.metrics import log_loss_per_row, predict_labels, probabilities, set_probabilities

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.1, 100.0
"""Range of temperatures."""
TOLERANCE = 1e-8
"""Of a temperature's logarithm."""
SHARES = (*(2 ** (half / 2) for half in range(-6, 7)), 0.0)
"""Candidate weights of the linear part: 1/8 to 8, and 0."""
USUAL_SHARE, MIN_SHARE = 2.0, 1 / 16
"""The weight that is expected before any row is seen; and the one that 0 counts as in a comparison with it."""
MAX_SHARE_ROWS = 10_000
PRIOR_ROWS = 20.0
"""Where a threshold of one of several labels is chosen, probabilities count as much as so many labelled rows do."""
FLAT_SHARE = 0.08
"""Thresholds whose F1 is within this share of the best one: which of them is the best is mostly chance."""
EQUAL_ODDS = 1.1
"""Probabilities whose odds have a smaller ratio do not differ: chance would decide between two such rows."""


@dataclass(frozen=True)
class Decision:
    """How logits become probabilities and labels."""

    temperature: float = 1.0
    threshold: float = 0.5
    """Class 1 is predicted from this probability on; two classes only."""
    thresholds: list[float] = field(default_factory=list)
    """With several labels to a text: each class is predicted from its probability on."""
    min_confidence: float = 0.0
    """Least probability of the most probable class; below, none is predicted."""

    def predictions(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of logits before calibration: the predicted classes, int64 ``[rows]``, -1 for none, or bool
        ``[rows, classes]`` with several labels to a text, and calibrated probabilities, float64 ``[rows, classes]``.
        """
        calibrated = logits / self.temperature
        if self.thresholds:
            chances = set_probabilities(calibrated)
            return chances >= np.array(self.thresholds), chances
        predicted, chances = predict_labels(calibrated, self.threshold), probabilities(calibrated)
        return np.where(chances.max(axis=1) < self.min_confidence, -1, predicted), chances


def fit_decision(logits: np.ndarray, labels: np.ndarray, config: EvaluationConfig) -> Decision:
    """Fit temperature and threshold to the logits of the validation split."""
    temperature = fit_temperature(logits, labels)
    calibrated = logits / temperature
    if labels.ndim > 1:
        return Decision(temperature, thresholds=choose_thresholds(calibrated, labels, config))
    is_fixed = config.threshold in ("auto", "fixed") or logits.ndim > 1
    threshold = 0.5 if is_fixed else choose_threshold(calibrated, labels, config)
    return Decision(temperature, threshold)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The most probable temperature, if its natural logarithm is standard normal before any row is seen; 1 if a logit
    is not a number.

    Without that prior, whose mode are the raw probabilities, few rows that are all right would make every probability 0
    or 1. Thousands of rows outweigh it.
    """
    from scipy.optimize import minimize_scalar  # predictions need no scipy

    def cost(logarithm: float) -> float:
        return float(log_loss_per_row(logits * math.exp(-logarithm), labels).sum()) + logarithm**2 / 2

    ends = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    fitted = minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": TOLERANCE})
    return math.exp(fitted.x) if math.isfinite(fitted.fun) else 1.0


def log_loss_at_best_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean log loss at the fitted temperature.

    Comparing two models by it needs far fewer rows than by accuracy, and does not penalise overconfidence.
    """
    return float(log_loss_per_row(logits / fit_temperature(logits, labels), labels).mean())


def choose_share(network: np.ndarray, wide: np.ndarray, labels: np.ndarray, usual: float = USUAL_SHARE) -> float:
    """The weight of the linear part's logits when they are added to the network's.

    The one of ``SHARES`` with the lowest calibrated log loss, on at most ``MAX_SHARE_ROWS`` rows. The parts were
    trained separately and differ in scale, hence the weight. On few rows chance decides, so the squared distance from
    ``usual``, in powers of two, is added to the sum of the rows' losses, as by a normal prior.
    """
    rows = slice(None, None, -(-len(labels) // MAX_SHARE_ROWS) or 1)
    network, wide, labels = network[rows], wide[rows], labels[rows]

    def cost(share: float) -> float:
        distance = math.log2(max(share, MIN_SHARE) / usual)
        return log_loss_at_best_temperature(network + share * wide, labels) + distance**2 / len(labels)

    return min(SHARES, key=cost)


def choose_thresholds(logits: np.ndarray, labels: np.ndarray, config: EvaluationConfig) -> list[float]:
    """The threshold of each class of texts with several labels, by the criterion of ``config``."""
    if config.threshold == "fixed":
        return [0.5] * labels.shape[1]
    if config.threshold in ("auto", "f1"):
        return list(map(choose_f1_threshold, set_probabilities(logits).T, labels.T))
    columns = zip(logits.T, labels.T.astype(np.int64), strict=True)
    return [choose_threshold(scores, is_labelled, config) for scores, is_labelled in columns]


def choose_f1_threshold(chances: np.ndarray, is_labelled: np.ndarray) -> float:
    """A threshold of a class with a high F1, of float64 and bool ``[rows]``: the geometric mean of the lowest and the
    highest one in ``FLAT_SHARE``, or if these do not differ, below them. A class that all rows have is predicted for
    all of them, and from 0.5 on. 0.5 if less than one row is expected to have the class: any F1 would be chance; or if
    a probability is no number.

    Few rows of a class would decide by chance, so each row counts in part by its label, and in part by its probability
    (``PRIOR_ROWS``).
    """
    num_labelled = is_labelled.sum()
    share = num_labelled / (num_labelled + PRIOR_ROWS)
    hits = share * is_labelled + (1 - share) * chances
    if not hits.sum() >= 1:
        return 0.5
    if is_labelled.all():
        return float(min(0.5, chances.min()))
    order = np.argsort(-chances, kind="stable")
    f1 = 2 * hits[order].cumsum() / (np.arange(1, len(hits) + 1) + hits.sum())
    near_best = chances[order][f1 >= (1 - FLAT_SHARE) * f1.max()]
    highest, lowest = near_best[0], near_best[-1]
    if lowest < highest and not differ(highest, lowest):
        lower = chances[differ(lowest, chances)]
        return float((lowest + lower.max()) / 2 if len(lower) else min(0.5, lowest))
    return float(np.sqrt(highest * lowest))


def differ(higher: Any, lower: Any) -> Any:
    """Whether the odds of probabilities are higher, by ``EQUAL_ODDS``, than those of others."""
    return higher * (1 - lower) >= EQUAL_ODDS * lower * (1 - higher)


def choose_threshold(logits: np.ndarray, labels: np.ndarray, config: EvaluationConfig) -> float:
    """The threshold by the criterion of ``config``, halfway between two rows' scores.

    ``accuracy`` and ``f1`` take the best threshold, of equals the one nearest to 0.5; ``recall`` the highest one that
    reaches the required recall of class 1. 0.5 if the split has only one class, or a logit is no number.
    """
    from sklearn.metrics import roc_curve  # predictions need no scikit-learn

    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    if 0 in (positives, negatives) or not np.isfinite(logits).all():
        return 0.5
    false_rate, true_rate, edges = roc_curve(labels, logits, drop_intermediate=False)  # the first predicts class 0 only
    false_positives, true_positives = np.rint(false_rate * negatives), np.rint(true_rate * positives)
    bounds = np.concatenate((edges[1:2] + 2.0, edges[1:], edges[-1:] - 1.0))
    halfway = probabilities((bounds[:-1] + bounds[1:]) / 2)[:, 1]
    if config.threshold == "recall":
        return float(halfway[np.argmax(true_positives >= np.ceil(config.recall * positives - 1e-9))])
    quality = true_positives - false_positives
    if config.threshold == "f1":
        quality = 2 * true_positives / (true_positives + false_positives + positives)
    best = halfway[quality == quality.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])
