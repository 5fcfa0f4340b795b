# SPDX-License-Identifier: Apache-2.0
"""Metrics, calibration, threshold, intervals and subgroups, each beside scikit-learn, a plain loop or a simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import EvaluationConfig
from harness.scores import calibration
from harness.scores.calibration import (
    SHARES,
    Decision,
    calibrated_log_loss,
    choose_share,
    choose_threshold,
    decide,
    fit_temperature,
)
from harness.scores.confusion import Confusion
from harness.scores.intervals import intervals, wilson
from harness.scores.metrics import (
    Reliability,
    classification_metrics,
    log_loss_per_row,
    per_class,
    probabilities,
)
from harness.scores.subgroups import quantile_groups, subgroups
from preprocessing.base.errors import ConfigError

METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "pr_auc", "log_loss")


def simulated(rows: int, seed: int, classes: int = 2, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores that know something of their labels; every class has a row."""
    random = np.random.default_rng(seed)
    labels = np.concatenate((np.arange(classes), random.integers(0, classes, rows - classes)))
    shape = (rows,) if classes == 2 else (rows, classes)
    logits = random.normal(size=shape)
    if classes == 2:
        logits += 2 * labels - 1
    else:
        logits[np.arange(rows), labels] += 1
    return (logits.round(1) if ties else logits), labels


@pytest.mark.parametrize(("threshold", "ties"), [(0.5, False), (0.5, True), (0.2, False), (0.9, False)])
def test_metrics_of_two_classes_are_those_of_scikit_learn(threshold: float, ties: bool) -> None:
    logits, labels = simulated(400, 1, ties=ties)
    values = classification_metrics(logits, labels, threshold)
    chances = probabilities(logits)[:, 1]
    predicted = chances >= threshold
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "f1": sklearn.metrics.f1_score(labels, predicted),
        "roc_auc": sklearn.metrics.roc_auc_score(labels, chances),
        "pr_auc": sklearn.metrics.average_precision_score(labels, chances),
        "log_loss": sklearn.metrics.log_loss(labels, chances),
    }
    assert {name: values[name] for name in METRICS} == pytest.approx(expected, abs=1e-9)
    assert values["confusion"] == sklearn.metrics.confusion_matrix(labels, predicted).tolist()


def test_metrics_of_four_classes_are_those_of_scikit_learn() -> None:
    logits, labels = simulated(300, 2, classes=4)
    values = classification_metrics(logits, labels)
    chances, predicted, each = probabilities(logits), logits.argmax(1), np.eye(4)[labels]
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, predicted),
        "f1": sklearn.metrics.f1_score(labels, predicted, average="macro"),
        "roc_auc": sklearn.metrics.roc_auc_score(labels, chances, multi_class="ovr"),
        "pr_auc": sklearn.metrics.average_precision_score(each, chances, average="macro"),
        "log_loss": sklearn.metrics.log_loss(labels, chances),
    }
    assert {name: values[name] for name in METRICS} == pytest.approx(expected, abs=1e-9)
    report = sklearn.metrics.classification_report(labels, predicted, output_dict=True)
    for number, entry in enumerate(per_class(Confusion.read(values), ["a", "b", "c", "d"])):
        theirs = report[str(number)]
        assert (entry["precision"], entry["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))
        assert (entry["f1"], entry["rows"]) == pytest.approx((theirs["f1-score"], theirs["support"]))


def test_logits_that_say_nothing_get_the_highest_temperature_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    random, looked = np.random.default_rng(0), []
    logits, labels = 50 * random.normal(size=(200, 6)), random.integers(0, 6, 200)
    logits[np.arange(200), labels] -= 20
    real = calibration.slope_and_curvature
    monkeypatch.setattr(calibration, "slope_and_curvature", lambda *told: looked.append(told[1]) or real(*told))
    assert fit_temperature(logits, labels) == calibration.HIGHEST
    assert len(looked) < 8
    losses = [log_loss_per_row(logits / value, labels).mean() for value in (50, 90, calibration.HIGHEST)]
    assert losses == sorted(losses, reverse=True)


def test_log_loss_of_certain_logits_is_finite_and_exact() -> None:
    logits = np.array([1000.0, -1000.0, 40.0])
    losses = log_loss_per_row(logits, np.array([1, 1, 0]))
    assert losses == pytest.approx([0.0, 1000.0, 40.0])


def test_a_class_without_rows_leaves_areas_undefined_and_the_rest_defined() -> None:
    logits, labels = np.array([2.0, -1.0, 3.0]), np.array([1, 1, 1])
    values = classification_metrics(logits, labels)
    assert (values["roc_auc"], values["pr_auc"]) == (None, None)
    assert values["balanced_accuracy"] == values["accuracy"] == pytest.approx(2 / 3)
    found = intervals(logits, labels, values)
    assert (found["roc_auc"], found["pr_auc"]) == (None, None)
    assert per_class(Confusion.read(values), ["no", "yes"])[0] == {
        "label": "no", "rows": 0, "predicted": 1, "precision": 0.0, "recall": None, "f1": 0.0
    }  # fmt: skip


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_error_is_that_of_a_plain_loop(classes: int) -> None:
    logits, labels = simulated(500, 3, classes)
    chances = probabilities(logits)
    confidence, right = chances.max(1), chances.argmax(1) == labels
    gap = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            gap += inside.sum() / 500 * abs(confidence[inside].mean() - right[inside].mean())
    assert Reliability.of(logits, labels).error == pytest.approx(gap, abs=1e-12)
    assert classification_metrics(logits, labels)["ece"] == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("blunder", [0.2, 1.0, 3.0])
def test_temperature_has_the_lowest_log_loss(classes: int, blunder: float) -> None:
    logits, labels = simulated(2000, 4, classes)
    temperature = fit_temperature(blunder * logits, labels)
    grid = temperature * np.exp(np.linspace(-2, 2, 401))
    losses = [log_loss_per_row(blunder * logits / value, labels).mean() for value in grid]
    assert np.argmin(losses) == 200
    assert temperature == pytest.approx(blunder * fit_temperature(logits, labels), rel=1e-9)


def test_temperature_finds_the_truth() -> None:
    random = np.random.default_rng(5)
    logits = 2 * random.normal(size=40_000)
    labels = (random.random(40_000) < probabilities(logits)[:, 1]).astype(int)
    temperature = fit_temperature(2.5 * logits, labels)
    assert temperature == pytest.approx(2.5, rel=0.03)
    before, after = (Reliability.of(2.5 * logits / value, labels).error for value in (1.0, temperature))
    assert before > 0.08
    assert after < 0.01


def test_temperature_where_the_best_one_is_no_number() -> None:
    assert fit_temperature(np.array([3.0, -2.0]), np.array([1, 0])) == 1.0
    assert fit_temperature(np.zeros(4), np.array([1, 0, 1, 0])) == 1.0
    assert fit_temperature(np.array([3.0, -2.0]), np.array([0, 1])) == pytest.approx(100.0)


def of_plain_loop(logits: np.ndarray, labels: np.ndarray, quality: Callable[[np.ndarray], float]) -> float:
    """The best value of ``quality`` over every way to cut the rows by their score."""
    cuts = [-np.inf, *np.unique(logits)]
    return max(quality(logits > cut) for cut in cuts)


@pytest.mark.thorough
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(3, 40), st.booleans())
def test_threshold_is_the_best_one_there_is(seed: int, rows: int, ties: bool) -> None:
    logits, labels = simulated(rows, seed, ties=ties)
    wanted: dict[str, Callable[[np.ndarray], float]] = {
        "accuracy": lambda predicted: float((predicted == labels).mean()),
        "f1": lambda predicted: float(sklearn.metrics.f1_score(labels, predicted, zero_division=0)),
    }
    for name, quality in wanted.items():
        config = EvaluationConfig(threshold=name)  # type: ignore[arg-type]
        threshold = choose_threshold(logits, labels, config)
        chosen = quality(probabilities(logits)[:, 1] >= threshold)
        assert chosen == pytest.approx(of_plain_loop(logits, labels, quality), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(3, 40), st.sampled_from([0.07, 0.5, 0.7, 0.95, 1.0]))
def test_threshold_for_a_wanted_recall_is_the_highest_that_reaches_it(seed: int, rows: int, recall: float) -> None:
    logits, labels = simulated(rows, seed)
    threshold = choose_threshold(logits, labels, EvaluationConfig(threshold="recall", recall=recall))
    chances = probabilities(logits)[:, 1]
    found = ((chances >= threshold) & (labels == 1)).sum()
    wanted = np.ceil(recall * labels.sum() - 1e-9)
    assert found >= wanted
    last = chances[chances >= threshold].min()
    assert ((chances > last) & (labels == 1)).sum() < wanted


def test_what_is_decided_on_validation() -> None:
    logits, labels = simulated(500, 6)
    fixed = decide(3 * logits, labels, EvaluationConfig())
    assert fixed == Decision(temperature=fit_temperature(3 * logits, labels), threshold=0.5)
    found = decide(3 * logits, labels, EvaluationConfig(threshold="recall", recall=0.9))
    predicted = probabilities(found.calibrated(3 * logits))[:, 1] >= found.threshold
    assert 0.9 <= predicted[labels == 1].mean() < 0.91
    assert decide(np.ones(3), np.ones(3, int), EvaluationConfig(threshold="f1")).threshold == 0.5
    with pytest.raises(ConfigError, match=r"evaluation\.recall: 0 is out of range: expected a share above 0"):
        EvaluationConfig(recall=0)


def test_wilson_by_hand() -> None:
    assert wilson(8, 10) == pytest.approx([0.4901625, 0.9433178], abs=1e-6)
    assert wilson(10, 10) == pytest.approx([0.7224672, 1.0], abs=1e-6)
    assert wilson(0, 10)[0] == 0.0


def test_subgroups_hold_every_row_once_for_each_question() -> None:
    logits, labels = simulated(200, 10)
    random = np.random.default_rng(0)
    lengths = random.integers(1, 50, 200)
    unknown = np.minimum(random.integers(0, 4, 200), lengths)
    found = subgroups(logits, labels, lengths, unknown, ["no", "yes"])
    for by in ("length", "unknown", "label"):
        groups = [group for group in found if group["by"] == by]
        assert sum(group["rows"] for group in groups) == 200
        assert 2 <= len(groups) <= 4
        mean = sum(group["rows"] * group["log_loss"] for group in groups) / 200
        assert mean == pytest.approx(log_loss_per_row(logits, labels).mean())
        for group in groups:
            assert group["accuracy_interval"] == wilson(round(group["accuracy"] * group["rows"]), group["rows"])
    yes = next(group for group in found if group["name"] == "yes")
    assert yes["accuracy"] == pytest.approx((logits[labels == 1] >= 0).mean())


def test_equal_values_stay_in_one_group() -> None:
    values = np.array([0] * 90 + [1, 2, 3] + [9] * 7)
    groups = [(low, high, int(mask.sum())) for low, high, mask in quantile_groups(values)]
    assert groups == [(0, 0, 90), (1, 9, 10)]
    assert [(low, high) for low, high, _ in quantile_groups(np.full(5, 3))] == [(3, 3)]


@pytest.mark.parametrize("classes", [2, 4])
def test_the_share_of_a_part_is_the_one_with_the_lowest_loss(classes: int) -> None:
    network, labels = simulated(400, 0, classes)
    other = np.random.default_rng(1).normal(size=network.shape)
    wide = network / 4 + other / 8  # knows the same, less loudly
    chosen = choose_share(network, wide, labels)
    losses = {share: calibrated_log_loss(network + share * wide, labels) for share in SHARES}
    assert losses[chosen] == min(losses.values())
    assert choose_share(network, other, labels) < 0.5
    assert choose_share(other / 10, network, labels) > 4


def test_a_calibrated_loss_does_not_blame_sureness() -> None:
    logits, labels = simulated(300, 0)
    assert calibrated_log_loss(10 * logits, labels) == pytest.approx(calibrated_log_loss(logits, labels), abs=1e-9)
    assert calibrated_log_loss(logits, labels) < log_loss_per_row(10 * logits, labels).mean()
