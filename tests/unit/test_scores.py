# SPDX-License-Identifier: Apache-2.0
"""Figures equal those of scikit-learn, a plain loop or a simulation; and sentences about them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import EvaluationConfig
from harness.metrics.calibration import (
    SHARES,
    USUAL_SHARE,
    Decision,
    choose_share,
    choose_threshold,
    fit_temperature,
    log_loss_at_best_temperature,
)
from harness.metrics.figures import Scores, figures
from harness.metrics.intervals import difference_interval, spread
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


def compute_figures(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """All figures of some rows."""
    names = [str(number) for number in range(2 if logits.ndim == 1 else logits.shape[1])]
    return figures(Scores(np.arange(len(labels)), labels, logits), names, Decision())


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
    report = sklearn.metrics.classification_report(labels, predicted, output_dict=True)
    names = [str(number) for number in range(classes)]
    for entry in per_class(labels, predicted, names):
        expected_entry = report[entry["label"]]
        assert (entry["precision"], entry["recall"]) == pytest.approx(
            (expected_entry["precision"], expected_entry["recall"])
        )
        assert (entry["f1"], entry["rows"]) == pytest.approx((expected_entry["f1-score"], expected_entry["support"]))


def test_mistakes_to_show_are_of_each_class_in_turn() -> None:
    """The most confident of each class, then the next ones up to the limit."""
    labels, predicted = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 1, 1, 0, 2, 2, 1, 0, 0])
    chances = np.full((10, 3), 0.1)
    chances[np.arange(10), predicted] = (0.5, 0.9, 0.8, 0.6, 0.9, 0.95, 0.4, 0.99, 0.5, 0.6)
    assert mistakes_to_show(labels, predicted, chances, 2)[0].tolist() == [5, 6, 9]
    assert mistakes_to_show(labels, predicted, chances, 6)[0].tolist() == [5, 6, 9, 1, 8, 2]
    forty_labels = np.arange(40)
    assert len(mistakes_to_show(forty_labels, (forty_labels + 1) % 40, np.full((40, 40), 0.5), 3)[0]) == 30
    assert mistakes_to_show(forty_labels, forty_labels, np.eye(40), 3)[0].tolist() == []


def test_thousands_of_classes_take_little_beside_their_logits() -> None:
    logits, labels = simulate(3000, 0, 3000)
    logits, labels = logits[:300], labels[:300]
    tracemalloc.start()
    compute_figures(logits, labels)
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


def test_calibration_error_is_that_of_a_plain_loop() -> None:
    logits, labels = simulate(500, 3, 3)
    chances = probabilities(logits)
    confidence, right = chances.max(1), chances.argmax(1) == labels
    gap = 0.0
    for number in range(15):
        is_inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if is_inside.any():
            gap += is_inside.sum() / 500 * abs(confidence[is_inside].mean() - right[is_inside].mean())
    assert classification_metrics(logits, labels)["ece"] == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize(("classes", "blunder"), [(2, 3.0), (5, 0.2)])
def test_temperature_has_the_lowest_log_loss(classes: int, blunder: float) -> None:
    logits, labels = simulate(2000, 4, classes)
    temperature = fit_temperature(blunder * logits, labels)
    grid = temperature * np.exp(np.linspace(-2, 2, 401))
    losses = [log_loss_per_row(blunder * logits / value, labels).mean() for value in grid]
    assert np.argmin(losses) == 200
    assert temperature == pytest.approx(blunder * fit_temperature(logits, labels), rel=0.01)


def test_few_rows_that_are_all_right_leave_probabilities_near_the_raw_ones() -> None:
    few, many = (np.arange(rows) % 3 for rows in (240, 9000))
    temperatures = [fit_temperature(5.05 * np.eye(3)[labels], labels) for labels in (few, many)]
    assert 0.4 < temperatures[0] < 0.8
    assert temperatures[1] < temperatures[0]


def search_all_cuts(logits: np.ndarray, labels: np.ndarray, quality: Callable[[np.ndarray], float]) -> float:
    """The best value of ``quality`` over every way to cut the rows by their score."""
    cuts = [-np.inf, *np.unique(logits)]
    return max(quality(logits > threshold) for threshold in cuts)


@pytest.mark.thorough
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(3, 40), st.booleans())
def test_threshold_is_the_best_one_there_is(seed: int, rows: int, ties: bool) -> None:
    logits, labels = simulate(rows, seed, ties=ties)
    wanted = {
        "accuracy": lambda predicted: float((predicted == labels).mean()),
        "f1": lambda predicted: float(2 * labels[predicted].sum() / (predicted.sum() + labels.sum())),
    }
    for name, quality in wanted.items():
        config = EvaluationConfig(threshold=name)  # type: ignore[arg-type]
        threshold = choose_threshold(logits, labels, config)
        chosen = quality(probabilities(logits)[:, 1] >= threshold)
        assert chosen == pytest.approx(search_all_cuts(logits, labels, quality), abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(3, 40), st.sampled_from([0.07, 0.5, 0.7, 0.95, 1.0]))
def test_threshold_for_a_wanted_recall_is_the_highest_that_reaches_it(seed: int, rows: int, recall: float) -> None:
    logits, labels = simulate(rows, seed)
    threshold = choose_threshold(logits, labels, EvaluationConfig(threshold="recall", recall=recall))
    chances = probabilities(logits)[:, 1]
    num_recalled = ((chances >= threshold) & (labels == 1)).sum()
    wanted = np.ceil(recall * labels.sum() - 1e-9)
    assert num_recalled >= wanted
    last = chances[chances >= threshold].min()
    assert ((chances > last) & (labels == 1)).sum() < wanted


def test_the_share_of_a_part_is_the_one_with_the_lowest_loss_unless_the_rows_are_few() -> None:
    labels = np.arange(4000) % 4
    network, linear = np.eye(4)[labels] + np.random.default_rng(0).normal(size=(2, 4000, 4))
    chosen = choose_share(network, linear / 5, labels)  # knows as much, less loudly
    losses = {share: log_loss_at_best_temperature(network + share * linear / 5, labels) for share in SHARES}
    assert losses[chosen] == min(losses.values())
    assert chosen > 4
    six_rows = slice(0, 6)
    assert choose_share(network[six_rows], np.zeros((6, 4)), labels[six_rows]) == USUAL_SHARE


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("rows", "classes", "shrinking", "strength"), [(300, 2, 0.08 / 0.92, 1.0), (300, 20, 0.9, 2.5)]
)
def test_intervals_cover(rows: int, classes: int, shrinking: float, strength: float) -> None:
    """All contain their figure, at least 88 % of the 95 % intervals the true value."""
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
        values = compute_figures(logits, labels)
        for name in WITH_INTERVALS:
            low, high = values["intervals"][name]
            assert low <= values[name] <= high
            hits[name] += low <= truth[name] <= high
    assert min(hits.values()) >= 88, hits


def test_intervals_of_a_difference_cover() -> None:
    """Both predictions are of the same rows, so comparing two separate intervals would be far less precise."""
    random, hits = np.random.default_rng(5), 0
    for _ in range(400):
        kinds = random.choice(4, 90, p=[0.7, 0.12, 0.1, 0.08])
        first, second = np.isin(kinds, [0, 1]), np.isin(kinds, [0, 2])
        low, high = difference_interval(first, second)
        assert low <= first.mean() - second.mean() <= high
        hits += low <= 0.02 <= high
    assert 360 <= hits <= 394, hits


def test_spread_is_students_over_the_runs() -> None:
    summary = spread([0.80, 0.82, 0.84])
    assert summary == pytest.approx({"mean": 0.82, "sd": 0.02, "low": 0.770317, "high": 0.869683}, abs=1e-6)
    assert spread([0.0, 0.1])["low"] == 0  # no calibration error is negative
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None}
