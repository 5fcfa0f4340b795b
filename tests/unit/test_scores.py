# SPDX-License-Identifier: Apache-2.0
"""Figures equal those of scikit-learn, a plain loop or a simulation; and sentences about them."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import EvaluationConfig
from harness.metrics.calibration import (
    Decision,
    choose_threshold,
    fit_temperature,
)
from harness.metrics.figures import Scores, figures
from harness.metrics.intervals import intervals, spread
from harness.metrics.metrics import (
    classification_metrics,
    log_loss_per_row,
    mistakes_to_show,
    per_class,
    predict_labels,
    probabilities,
)

METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "pr_auc", "log_loss")
WITH_INTERVALS = ("accuracy", "balanced_accuracy", "log_loss")


def simulate(rows: int, seed: int, classes: int = 2, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Random scores correlated with their labels; every class has a row."""
    random = np.random.default_rng(seed)
    labels = np.concatenate((np.arange(classes), random.integers(0, classes, rows - classes)))
    shape = (rows,) if classes == 2 else (rows, classes)
    logits = random.normal(size=shape)
    if classes == 2:
        logits += 2 * labels - 1
    else:
        logits[np.arange(rows), labels] += 1
    return (logits.round(1) if ties else logits), labels


@pytest.mark.parametrize(("classes", "threshold", "ties"), [(2, 0.5, True), (2, 0.2, False), (4, 0.5, False)])
def test_metrics_are_those_of_scikit_learn(classes: int, threshold: float, ties: bool) -> None:
    logits, labels = simulate(400, 1, classes, ties=ties)
    chances, average = probabilities(logits), "binary" if classes == 2 else "macro"
    predicted = (chances[:, 1] >= threshold).astype(int) if classes == 2 else logits.argmax(1)
    values = classification_metrics(logits, labels, predicted)
    assert np.array_equal(predict_labels(logits, threshold), predicted)
    scores, one_hot = (chances[:, 1], labels) if classes == 2 else (chances, np.eye(classes)[labels])
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "f1": sklearn.metrics.f1_score(labels, predicted, average=average),
        "roc_auc": sklearn.metrics.roc_auc_score(one_hot, scores),
        "pr_auc": sklearn.metrics.average_precision_score(one_hot, scores),
        "log_loss": sklearn.metrics.log_loss(labels, chances),
    }
    assert {name: values[name] for name in METRICS} == pytest.approx(expected, abs=1e-9)
    cells = np.argwhere(theirs := sklearn.metrics.confusion_matrix(labels, predicted))
    assert values["confusion"] == [[*cell, theirs[tuple(cell)]] for cell in cells.tolist()]
    entries = per_class(labels, predicted, [str(number) for number in range(classes)])
    figures_of_classes = [[entry[name] for name in ("precision", "recall", "f1", "rows")] for entry in entries]
    theirs_by_class = sklearn.metrics.precision_recall_fscore_support(labels, predicted)
    assert np.array_equal(figures_of_classes, np.transpose(theirs_by_class))


def test_mistakes_to_show_are_of_each_class_in_turn() -> None:
    """The most confident of each class, then the next ones up to the limit."""
    labels, predicted = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 1, 1, 0, 2, 2, 1, 0, 0])
    chances = np.full((10, 3), 0.1)
    chances[np.arange(10), predicted] = (0.5, 0.9, 0.8, 0.6, 0.9, 0.95, 0.4, 0.99, 0.5, 0.6)
    assert mistakes_to_show(labels, predicted, chances, 2)[0].tolist() == [5, 6, 9]
    assert mistakes_to_show(labels, predicted, chances, 6)[0].tolist() == [5, 6, 9, 1, 8, 2]


def test_thousands_of_classes_take_little_beside_their_logits() -> None:
    logits, labels = simulate(3000, 0, 3000)
    logits, labels = logits[:300], labels[:300]
    tracemalloc.start()
    figures(Scores(np.arange(300), labels, logits), list(map(str, range(3000))), Decision())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * logits.nbytes  # a matrix of all cells alone would be ten times the logits


def test_a_class_without_rows_leaves_areas_undefined_and_the_rest_defined() -> None:
    logits, labels = np.array([2.0, -1.0, 3.0]), np.array([1, 1, 1])
    values = classification_metrics(logits, labels)
    assert (values["roc_auc"], values["pr_auc"]) == (None, None)
    assert values["balanced_accuracy"] == values["accuracy"] == pytest.approx(2 / 3)
    assert per_class(labels, np.array([1, 0, 1]), ["no", "yes"])[0] == {
        "label": "no", "rows": 0, "predicted": 1, "precision": 0.0, "recall": None, "f1": 0.0
    }  # fmt: skip


@pytest.mark.parametrize(("classes", "blunder"), [(2, 3.0), (5, 0.2)])
def test_temperature_has_the_lowest_log_loss(classes: int, blunder: float) -> None:
    logits, labels = simulate(2000, 4, classes)
    temperature = fit_temperature(blunder * logits, labels)
    grid = temperature * np.exp(np.linspace(-2, 2, 401))
    losses = [log_loss_per_row(blunder * logits / value, labels).mean() for value in grid]
    assert np.argmin(losses) == 200
    assert temperature == pytest.approx(blunder * fit_temperature(logits, labels), rel=0.01)
    few, many = (np.arange(rows) % 3 for rows in (240, 9000))  # all right: their best temperature is 0
    temperatures = [fit_temperature(5.05 * np.eye(3)[labels], labels) for labels in (few, many)]
    assert temperatures[1] < temperatures[0] < 0.8


@pytest.mark.thorough
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(3, 40), st.booleans(), st.sampled_from([0.07, 0.5, 0.95, 1.0]))
def test_no_other_threshold_is_better(seed: int, rows: int, ties: bool, recall: float) -> None:
    """Of all cuts between rows; for a wanted recall the one with the fewest predictions that reaches it."""
    logits, labels = simulate(rows, seed, ties=ties)
    cuts = [logits > threshold for threshold in (-np.inf, *np.unique(logits))]
    recalled = [is_positive for is_positive in cuts if labels[is_positive].sum() >= recall * labels.sum() - 1e-9]
    best_by_criterion = {
        "accuracy": max((is_positive == labels).mean() for is_positive in cuts),
        "f1": max(sklearn.metrics.f1_score(labels, is_positive) for is_positive in cuts),
        "recall": min(is_positive.sum() for is_positive in recalled),
    }
    for criterion, best in best_by_criterion.items():
        config = EvaluationConfig(threshold=criterion, recall=recall)  # type: ignore[arg-type]
        predicted = predict_labels(logits, choose_threshold(logits, labels, config))
        quality = {
            "accuracy": (predicted == labels).mean(),
            "f1": sklearn.metrics.f1_score(labels, predicted),
            "recall": predicted.sum(),
        }
        assert quality[criterion] == pytest.approx(best, abs=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rows", "classes", "shrinking", "strength"), [(300, 2, 0.08 / 0.92, 1.0), (300, 20, 0.9, 2.5)]
)
def test_intervals_cover(rows: int, classes: int, shrinking: float, strength: float) -> None:
    """At least 88 % of the 95 % intervals have the true value; they contain their figure."""
    shares = shrinking ** np.arange(classes)

    def draw(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        labels = random.choice(classes, number, p=shares / shares.sum())
        logits = random.normal(size=(number, classes)) / (2**0.5 if classes == 2 else 1)
        logits[np.arange(number), labels] += strength
        return (logits[:, 1] - logits[:, 0] if classes == 2 else logits), labels

    truth, hits = classification_metrics(*draw(40_000, 99)), dict.fromkeys(WITH_INTERVALS, 0)
    for seed in range(100):
        logits, labels = draw(rows, seed)
        bounds = intervals(logits, labels, predict_labels(logits))
        for name in WITH_INTERVALS:
            low, high = bounds[name]
            hits[name] += low <= truth[name] <= high
    assert min(hits.values()) >= 88, hits
    values = classification_metrics(logits, labels)
    assert all(bounds[name][0] <= values[name] <= bounds[name][1] for name in WITH_INTERVALS)


def test_spread_is_students_over_the_runs() -> None:
    summary = spread([0.80, 0.82, 0.84])
    assert summary == pytest.approx({"mean": 0.82, "sd": 0.02, "low": 0.770317, "high": 0.869683}, abs=1e-6)
    assert spread([0.0, 0.1])["low"] == 0  # no calibration error is negative
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None}
