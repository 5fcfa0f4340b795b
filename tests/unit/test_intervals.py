# SPDX-License-Identifier: Apache-2.0
"""Intervals of figures: beside scikit-learn's weighted metrics, as a property, and by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scores.calibration import Decision
from harness.scores.confusion import Confusion
from harness.scores.figures import figures
from harness.scores.intervals import intervals, of_areas, of_difference, of_labels
from harness.scores.metrics import classification_metrics, predicted_labels, probabilities
from tests.unit.test_metrics import METRICS, simulated


def intervals_of(logits: np.ndarray, labels: np.ndarray) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The figures of some rows that have intervals, and these."""
    ones = np.ones(len(labels), np.int64)
    names = [str(number) for number in range(2 if logits.ndim == 1 else logits.shape[1])]
    values = figures(logits, labels, lengths=ones, unknown=0 * ones, names=names, decision=Decision())
    found = {name: values["intervals"][name] for name in METRICS if values["intervals"][name] is not None}
    return {name: values[name] for name in found}, found


@pytest.mark.parametrize(("classes", "ties"), [(2, False), (2, True), (4, False), (4, True)])
def test_derivatives_are_those_of_weighted_metrics_of_scikit_learn(classes: int, ties: bool) -> None:
    logits, labels = simulated(60, 7, classes, ties=ties)
    values, predicted = classification_metrics(logits, labels), predicted_labels(logits)
    average = "binary" if classes == 2 else "macro"
    each = np.eye(classes)[labels] if classes > 2 else labels
    chances = probabilities(logits) if classes > 2 else logits
    plain: dict[str, Callable[[np.ndarray], float]] = {
        "balanced_accuracy": lambda weights: sklearn.metrics.balanced_accuracy_score(
            labels, predicted, sample_weight=weights
        ),
        "f1": lambda weights: sklearn.metrics.f1_score(labels, predicted, average=average, sample_weight=weights),
        "roc_auc": lambda weights: sklearn.metrics.roc_auc_score(each, chances, sample_weight=weights),
        "pr_auc": lambda weights: sklearn.metrics.average_precision_score(each, chances, sample_weight=weights),
    }
    counts = Confusion.of(labels, predicted, classes)
    found = [*of_labels(labels, predicted, counts, values), *of_areas(logits, labels, values)]
    assert [name for name, _, _ in found] == list(plain)
    for name, changes, _ in found:
        for row in range(0, 60, 7):
            step = 1e-5 * (np.arange(60) == row)
            slope = (plain[name](1 + step) - plain[name](1 - step)) / 2e-5
            assert changes[row] == pytest.approx(slope, abs=1e-8), (name, row)


def test_intervals_of_many_classes_hold_what_they_are_about() -> None:
    """Every row right, though a resample of 300 rows lacks a third of 150 classes."""
    labels = np.arange(300) % 150
    values, found = intervals_of(5.0 * np.eye(150)[labels], labels)
    for name in ("accuracy", "balanced_accuracy", "f1"):
        assert values[name] == found[name][1] == 1.0
        assert 0.98 < found[name][0] < 0.99


@pytest.mark.thorough
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_every_interval_holds_its_figure(data: st.DataObject) -> None:
    classes = data.draw(st.sampled_from([2, 3, 7, 40]))
    rows, strength = data.draw(st.integers(1, 80)), data.draw(st.sampled_from([-4.0, 0.0, 1.0, 4.0, 50.0]))
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    labels = random.integers(0, data.draw(st.integers(1, classes)), rows)  # some classes may have no row
    logits = random.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += strength
    logits = logits.round(data.draw(st.sampled_from([0, 1, 9])))
    values, found = intervals_of(logits[:, 1] - logits[:, 0] if classes == 2 else logits, labels)
    for name, (low, high) in found.items():
        assert low <= values[name] <= high, name
        assert low >= 0
        assert name == "log_loss" or high <= 1


COVERED = {
    "250 rows": (250, np.ones(2), 1.0),
    "a rare class": (300, np.array([0.92, 0.08]), 1.0),
    "20 classes": (300, 0.9 ** np.arange(20), 2.5),
    "50 classes": (800, 0.97 ** np.arange(50), 3.5),
}
"""Rows, how often each class occurs, and how much is known of it."""


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case", ["250 rows", "a rare class", *(pytest.param(f"{n} classes", marks=pytest.mark.slow) for n in (20, 50))]
)
def test_intervals_cover(case: str) -> None:
    """Of intervals of 95 %, 90 to 98 % hold the value that endless rows would give; 200 tell that to half a percent."""
    rows, shares, strength = COVERED[case]

    def drawn(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        labels = random.choice(len(shares), number, p=shares / shares.sum())
        logits = random.normal(size=(number, len(shares))) / (2**0.5 if len(shares) == 2 else 1)
        logits[np.arange(number), labels] += strength
        return (logits[:, 1] - logits[:, 0] if len(shares) == 2 else logits), labels

    truth, hits = classification_metrics(*drawn(40_000, 99)), dict.fromkeys(METRICS, 0)
    uncounted = ("roc_auc", "pr_auc") if len(shares) == 50 else ()  # most draws lack a class
    for seed in range(200):
        logits, labels = drawn(rows, seed)
        found = intervals(logits, labels, classification_metrics(logits, labels))
        for name in METRICS:
            low, high = found[name] or (-np.inf, np.inf)  # a class may have no row, and areas no value
            hits[name] += low <= truth[name] <= high
    assert all(180 <= hits[name] <= 197 for name in METRICS if name not in uncounted), hits


@pytest.mark.thorough
@pytest.mark.parametrize(("rows", "both", "ahead", "behind"), [(90, 0.7, 0.1, 0.1), (400, 0.85, 0.05, 0.02)])
def test_intervals_of_a_difference_cover(rows: int, both: float, ahead: float, behind: float) -> None:
    """The same rows were predicted twice; two intervals that are compared by eye would never cover so well."""
    random, hits = np.random.default_rng(5), 0
    for _ in range(1000):
        kinds = random.choice(4, rows, p=[both, ahead, behind, 1 - both - ahead - behind])
        first, second = np.isin(kinds, [0, 1]), np.isin(kinds, [0, 2])
        low, high = of_difference(first, second)
        assert low <= first.mean() - second.mean() <= high
        hits += low <= ahead - behind <= high
    assert 900 <= hits <= 980, hits


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_a_difference_holds_what_it_is_about(rows: int) -> None:
    for first, second in ((1, 0), (0, 1), (1, 1), (0, 0)):
        low, high = of_difference(np.full(rows, bool(first)), np.full(rows, bool(second)))
        assert -1 <= low <= first - second <= high <= 1
        assert low < high
