# SPDX-License-Identifier: Apache-2.0
"""Figures beside scikit-learn, a plain loop or a simulation; and what is said of them."""

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
from harness.scores import calibration, metrics
from harness.scores.calibration import (
    SHARES,
    Decision,
    calibrated_log_loss,
    choose_share,
    choose_threshold,
    decide,
    fit_temperature,
)
from harness.scores.figures import figures, quantile_groups, subgroups
from harness.scores.intervals import intervals, of_areas, of_difference, of_labels, spread, wilson
from harness.scores.learning import never_found, verdicts
from harness.scores.metrics import (
    CELLS,
    MATRIX,
    Reliability,
    blocks,
    classification_metrics,
    confusion_from_json,
    confusion_of,
    largest_confusions,
    log_loss_per_row,
    most_probable,
    per_class,
    predicted_labels,
    probabilities,
)
from harness.scores.tables import confusion_table, describe_spread, spread_table

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


def evaluated(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """All figures of some rows."""
    ones = np.ones(len(labels), np.int64)
    names = [str(number) for number in range(2 if logits.ndim == 1 else logits.shape[1])]
    return figures(logits, labels, lengths=ones, unknown=0 * ones, names=names, decision=Decision())


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
    for number, entry in enumerate(per_class(confusion_from_json(values, 4), ["a", "b", "c", "d"])):
        theirs = report[str(number)]
        assert (entry["precision"], entry["recall"]) == pytest.approx((theirs["precision"], theirs["recall"]))
        assert (entry["f1"], entry["rows"]) == pytest.approx((theirs["f1-score"], theirs["support"]))


def test_confusions_are_those_of_a_plain_loop_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = simulated(600, 0, 12)
    few = evaluated(logits, labels)
    expected = np.zeros((12, 12), np.int64)
    for true, said in zip(labels, logits.argmax(axis=1), strict=True):
        expected[true, said] += 1
    assert few[MATRIX] == expected.tolist()
    monkeypatch.setattr(metrics, "WHOLE_CLASSES", 11)
    many = evaluated(logits, labels)
    assert {**few, CELLS: many[CELLS]} == {**many, MATRIX: few[MATRIX]}
    assert confusion_table(few, 80) == confusion_table(many, 80)
    largest = largest_confusions(confusion_from_json(many, 12), 3)
    np.fill_diagonal(expected, 0)
    assert [rows for _, _, rows in largest] == sorted(expected.reshape(-1).tolist(), reverse=True)[:3]
    assert all(expected[true, said] == rows for true, said, rows in largest)


def test_thousands_of_classes_take_little_beside_their_logits() -> None:
    logits, labels = simulated(3000, 0, 3000)
    logits, labels = logits[:300], labels[:300]
    tracemalloc.start()
    evaluated(logits, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * logits.nbytes  # a matrix of all cells alone would be ten times the logits


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = simulated(600, 0, 12)
    chances, losses = probabilities(logits), log_loss_per_row(logits, labels)
    monkeypatch.setattr(metrics, "BLOCK", 7 * 12 + 3)
    assert [len(logits[rows]) for rows in blocks(logits)] == [7] * 85 + [5]
    classes, highest = most_probable(logits)
    assert (classes == chances.argmax(axis=1)).all()
    assert (highest == chances.max(axis=1)).all()
    assert (log_loss_per_row(logits, labels) == losses).all()


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
    assert per_class(confusion_from_json(values, 2), ["no", "yes"])[0] == {
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


def test_wilson_by_hand() -> None:
    assert wilson(8, 10) == pytest.approx([0.4901625, 0.9433178], abs=1e-6)
    assert wilson(10, 10) == pytest.approx([0.7224672, 1.0], abs=1e-6)
    assert wilson(0, 10)[0] == 0.0


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
    confusion = confusion_of(labels, predicted, classes)
    found = [*of_labels(labels, predicted, confusion, values), *of_areas(logits, labels, values)]
    assert [name for name, _, _ in found] == list(plain)
    for name, changes, _ in found:
        for row in range(0, 60, 7):
            step = 1e-5 * (np.arange(60) == row)
            slope = (plain[name](1 + step) - plain[name](1 - step)) / 2e-5
            assert changes[row] == pytest.approx(slope, abs=1e-8), (name, row)


@pytest.mark.thorough
@settings(deadline=None, max_examples=100)
@given(st.data())
def test_every_interval_holds_its_figure(data: st.DataObject) -> None:
    classes = data.draw(st.sampled_from([2, 3, 7, 40]))
    rows, strength = data.draw(st.integers(1, 80)), data.draw(st.sampled_from([-4.0, 0.0, 1.0, 4.0, 50.0]))
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    labels = random.integers(0, data.draw(st.integers(1, classes)), rows)  # some classes may have no row
    logits = random.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += strength
    logits = logits.round(data.draw(st.sampled_from([0, 1, 9])))
    values = evaluated(logits[:, 1] - logits[:, 0] if classes == 2 else logits, labels)
    for name in METRICS:
        if (bounds := values["intervals"][name]) is None:
            continue
        low, high = bounds
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
    """Of intervals of 95 %, at least 88 of 100 hold the value that endless rows would give."""
    rows, shares, strength = COVERED[case]

    def drawn(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        labels = random.choice(len(shares), number, p=shares / shares.sum())
        logits = random.normal(size=(number, len(shares))) / (2**0.5 if len(shares) == 2 else 1)
        logits[np.arange(number), labels] += strength
        return (logits[:, 1] - logits[:, 0] if len(shares) == 2 else logits), labels

    truth, hits = classification_metrics(*drawn(40_000, 99)), dict.fromkeys(METRICS, 0)
    uncounted = ("roc_auc", "pr_auc") if len(shares) == 50 else ()  # most draws lack a class
    for seed in range(100):
        logits, labels = drawn(rows, seed)
        found = intervals(logits, labels, classification_metrics(logits, labels))
        for name in METRICS:
            low, high = found[name] or (-np.inf, np.inf)  # a class may have no row, and areas no value
            hits[name] += low <= truth[name] <= high
    assert all(hits[name] >= 88 for name in METRICS if name not in uncounted), hits


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


def test_spread_is_students_over_the_runs() -> None:
    found = spread([0.80, 0.82, 0.84])
    assert found == pytest.approx({"mean": 0.82, "sd": 0.02, "low": 0.770317, "high": 0.869683}, abs=1e-6)
    assert describe_spread("accuracy", found) == "accuracy 0.8200 ± 0.0200 (95 % of the mean: 0.7703 to 0.8697)"
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "low": None, "high": None}
    runs = [{"accuracy": 0.8, "ece": 0.1, "intervals": {"accuracy": [0.7, 0.9]}}, {"accuracy": 0.9, "ece": 0.2}]
    lines = spread_table(["seed-0", "seed-1"], runs, 80)
    assert [line.split() for line in lines][1:4] == [
        ["seed-0", "0.8000", "0.7000", "to", "0.9000", "0.1000"],
        ["seed-1", "0.9000", "0.2000"],
        ["mean", "0.8500", "0.1500"],
    ]


def told(
    accuracy: list[float],
    *,
    rows: dict[str, int] | None = None,
    epochs: int | None = None,
    log_loss: list[float] | None = None,
    balanced: list[float] | None = None,
    train_loss: list[float] | None = None,
) -> list[str]:
    """The verdicts on a run of two balanced classes whose log loss never moves, unless told otherwise."""
    lines: list[dict[str, Any]] = []
    for at, reached in enumerate(accuracy):
        lines.append({"kind": "train", "step": at, "loss": train_loss[at] if train_loss else 0.3 / (1 + at)})
        loss = log_loss[at] if log_loss else 0.4
        values = {"accuracy": reached, "balanced_accuracy": balanced[at] if balanced else reached, "log_loss": loss}
        lines.append({"kind": "validation", "best": reached > max(accuracy[:at], default=-1), **values})
    return verdicts(lines, epochs or len(accuracy), rows or {"negative": 500, "positive": 500})


FIVE = {f"class {number}": 100 for number in range(5)}
RARE = {"no": 950, "yes": 50}
FELL = [0.8512, 0.84, 0.82, 0.82, 0.81, 0.81, 0.80, 0.80, 0.80, 0.80]
LEVEL = [0.851, 0.85, 0.849, 0.85]
LOUDER = [0.35, 0.45, 0.6, 0.72]


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        (
            "validation was still improving (accuracy 0.4200 after epoch 2, 0.5100 at the end): more epochs, as in "
            "--epochs 6",
            {"accuracy": [0.31, 0.42, 0.51], "rows": FIVE},
        ),
        (
            "validation was still improving (log loss 0.5500 after epoch 2, 0.4000 at the end)",
            {"accuracy": [0.70, 0.71, 0.72], "log_loss": [0.60, 0.55, 0.40]},
        ),
        (
            "best at epoch 1 of 10 (accuracy 0.8512, at the end 0.8000; log loss 0.4000, at the end 0.4000): it "
            "overfits; fewer epochs, more model.dropout, or more data",
            {"accuracy": FELL},
        ),
        (
            "best at epoch 1 of 4 (accuracy 0.8510, at the end 0.8500; log loss 0.3500, at the end 0.7200)",
            {"accuracy": LEVEL, "log_loss": LOUDER},
        ),
        (
            "best at epoch 1 of 10 (accuracy 0.8512, at the end 0.8000; log loss 0.4000, at the end 0.4000), and "
            "training did not get better either: lower optim.lr",
            {"accuracy": FELL, "train_loss": [0.3] * 10},
        ),
        (
            "no better than the majority class (accuracy 0.5020 on validation, 0.5000 for always saying 'negative'): "
            "more epochs, another optim.lr, or look at the labels",
            {"accuracy": [0.502, 0.498], "train_loss": [0.70, 0.69]},
        ),
        (
            "no better than the majority class (accuracy 0.5020 on validation, 0.5000 for always saying 'negative'), "
            "though training loss fell to 0.0500: only the training rows were learned",
            {"accuracy": [0.502, 0.498], "train_loss": [0.6, 0.05]},
        ),
        (
            "no better than the majority class in accuracy (accuracy 0.9500 on validation, 0.9500 for always saying "
            "'no'), though other classes are found: balanced accuracy 0.7200, by chance 0.5000; judge by it",
            {"accuracy": [0.94, 0.95], "rows": RARE, "balanced": [0.70, 0.72]},
        ),
    ],
)
def test_what_went_wrong_in_a_run_is_said(sentence: str, arguments: dict[str, Any]) -> None:
    (said,) = told(**arguments)
    assert said.startswith(sentence)


@pytest.mark.parametrize(
    "arguments",
    [
        {"accuracy": [0.85, 0.89, 0.905, 0.9064], "rows": {"a": 1250, "b": 1250}},
        {"accuracy": [0.9]},
        {"accuracy": [0.31, 0.42, 0.45], "rows": FIVE},  # three points of 500 rows are noise
        {"accuracy": [0.31, 0.42, 0.51], "rows": FIVE, "epochs": 9},  # patience ended it
        {"accuracy": [0.900, 0.902, 0.904], "rows": {"a": 10**6, "b": 10**6}},  # certain, but little
        {"accuracy": LEVEL},  # no better after the first epoch, and no worse
        {"accuracy": [0.851, 0.80]},  # one epoch more says little
        {"accuracy": [0.80, 0.82, 0.851, 0.80], "log_loss": LOUDER},  # best in the second half
        {"accuracy": [0.97, 0.97], "rows": RARE, "balanced": [0.80, 0.80]},
        {"accuracy": [0.65, 0.65], "rows": {"a": 10, "b": 10}},  # twenty rows cannot tell
        {"accuracy": [1.0, 1.0], "rows": {"a": 10}},  # one class: nothing to be better than
        {"accuracy": [0.1, float("nan")]},
    ],
)
def test_nothing_is_said_of_a_run_that_learned(arguments: dict[str, Any]) -> None:
    assert told(**arguments) == []


def test_a_class_that_is_never_found_is_named() -> None:
    """Two classes: F1 of the other one is 0.995."""

    def classes(labels: list[int], predicted: list[int], names: str) -> list[dict[str, Any]]:
        return per_class(confusion_of(np.array(labels), np.array(predicted), len(names)), list(names))

    assert never_found(classes([0] * 10 + [1] * 990, [1] * 1000, "ru")) == (
        "no row of 'r' (10 rows) is recognised: judge by balanced accuracy, and weigh classes with "
        "optim.class_weights, or add rows of them"
    )
    said = never_found(classes([0, 1, 1, 2, 3, 4], [0] * 6, "abcdef"))
    assert said is not None
    assert said.startswith("no row of 'b' (2 rows), 'c' (1 rows), 'd' (1 rows) and 1 more classes is recognised: judge")
    assert never_found(classes([0, 1], [0, 1], "ru")) is None


@pytest.mark.parametrize("rows", [40, 400, 4000])
def test_noise_alone_says_nothing(rows: int) -> None:
    """Accuracies and losses that only scatter, drawn anew for each epoch: more noise than the same rows have."""
    random = np.random.default_rng(rows)
    loud = 0
    for _ in range(100):
        right = random.binomial(rows, 0.85, 8) / rows
        losses = 0.4 + 0.9 / np.sqrt(rows) * random.standard_normal(8)
        sizes = {"a": rows // 2, "b": rows // 2}
        loud += bool(told(right.tolist(), rows=sizes, log_loss=np.maximum(losses, 0.01).tolist()))
    assert loud <= 5, loud
