# SPDX-License-Identifier: Apache-2.0
"""Whether a run learnt, said from its figures alone: by value, and never louder than the noise of its validation."""

from __future__ import annotations

import numpy as np
import pytest

from harness.scores.confusion import Confusion
from harness.scores.learning import Course, accuracy_error, loss_error, never_found, verdicts
from harness.scores.metrics import per_class


def course(
    accuracy: list[float],
    *,
    rows: dict[str, int] | None = None,
    epochs: int | None = None,
    log_loss: list[float] | None = None,
    balanced: list[float] | None = None,
    train_loss: list[float | None] | None = None,
) -> Course:
    """A run of two balanced classes whose log loss never moves, unless told otherwise."""
    return Course(
        epochs=len(accuracy) if epochs is None else epochs,
        accuracy=accuracy,
        balanced=balanced or accuracy,
        log_loss=log_loss or [0.4] * len(accuracy),
        train_loss=train_loss or [0.3 / (1 + at) for at in range(len(accuracy))],
        best=int(np.argmax(accuracy)),
        class_rows=rows or {"negative": 500, "positive": 500},
    )


def test_the_errors_are_those_of_a_share_and_of_a_loss_that_lies_on_wrong_rows() -> None:
    assert accuracy_error(0.5, 0.5, 200) == pytest.approx(0.05)
    assert loss_error(0.4, 0.8, 100) == pytest.approx(0.4 * 2 / 10)
    assert loss_error(0.4, 1.0, 100) == pytest.approx(0.4 * 99**0.5 / 10)


def test_a_run_that_learnt_is_left_in_peace() -> None:
    assert verdicts(course([0.85, 0.89, 0.905, 0.9064], rows={"a": 1250, "b": 1250})) == []
    assert verdicts(course([0.85, 0.90, 0.90, 0.89])) == []
    assert verdicts(course([0.9])) == []


def test_validation_that_was_still_rising() -> None:
    five = {f"class {number}": 100 for number in range(5)}
    (said,) = verdicts(course([0.31, 0.42, 0.51], rows=five))
    assert said == (
        "validation was still rising (accuracy 0.4200 after epoch 2, 0.5100 at the end): more epochs, as in --epochs 6"
    )
    assert verdicts(course([0.31, 0.42, 0.45], rows=five)) == []  # three points of 500 rows are noise
    assert verdicts(course([0.31, 0.42, 0.51], rows=five, epochs=9)) == []  # patience ended it
    slow = [0.40, 0.43, 0.46, 0.49, 0.52, 0.55, 0.58, 0.61]  # three points each time, six over the last two epochs
    (said,) = verdicts(course(slow, rows={"a": 300, "b": 300, "c": 300}))
    assert said.startswith("validation was still rising (accuracy 0.5500 after epoch 6, 0.6100 at the end)")
    (said,) = verdicts(course([0.70, 0.71, 0.72], log_loss=[0.60, 0.55, 0.40]))
    assert said.startswith("validation was still rising (log loss 0.5500 after epoch 2, 0.4000 at the end)")
    many = {"a": 10**6, "b": 10**6}
    assert verdicts(course([0.900, 0.902, 0.904], rows=many)) == []  # certain, but two errors in a hundred less


def test_a_run_that_overfits() -> None:
    fell = [0.8512, 0.84, 0.82, 0.82, 0.81, 0.81, 0.80, 0.80, 0.80, 0.80]
    (said,) = verdicts(course(fell))
    assert said == (
        "best at epoch 1 of 10 (accuracy 0.8512, at the end 0.8000; log loss 0.4000, at the end 0.4000): it overfits; "
        "fewer epochs, more model.dropout, or more data"
    )
    level = [0.851, 0.85, 0.849, 0.85]
    (said,) = verdicts(course(level, log_loss=[0.35, 0.45, 0.6, 0.72]))
    assert said.startswith(
        "best at epoch 1 of 4 (accuracy 0.8510, at the end 0.8500; log loss 0.3500, at the end 0.7200)"
    )
    assert verdicts(course(level)) == []  # no better after the first epoch, and no worse
    assert verdicts(course([0.851, 0.80])) == []  # one epoch more says little
    assert (
        verdicts(course([0.80, 0.82, 0.851, 0.80], log_loss=[0.35, 0.45, 0.6, 0.72])) == []
    )  # best in the second half
    (said,) = verdicts(course(fell, train_loss=[0.3] * 10))
    assert said.endswith(", and training did not get better either: lower optim.lr")


def test_no_better_than_the_majority_class() -> None:
    (said,) = verdicts(course([0.502, 0.498], train_loss=[0.70, 0.69]))
    assert said == (
        "no better than the majority class (accuracy 0.5020 on validation, 0.5000 for always saying 'negative'): more "
        "epochs, another optim.lr, or look at the labels"
    )
    (said,) = verdicts(course([0.502, 0.498], train_loss=[0.6, 0.05]))
    assert "though training loss fell to 0.0500: only the training rows were learnt" in said
    rare = {"no": 950, "yes": 50}
    (said,) = verdicts(course([0.95, 0.95], rows=rare, balanced=[0.5, 0.5], train_loss=[0.2, 0.19]))
    assert said.startswith("no better than the majority class (accuracy 0.9500 on validation, 0.9500 for always saying")
    assert said.endswith("or look at the labels")  # 0.19 is what guessing costs here
    (said,) = verdicts(course([0.94, 0.95], rows=rare, balanced=[0.70, 0.72]))
    assert said.startswith("no better than the majority class in accuracy (")
    assert "balanced accuracy 0.7200, by chance 0.5000; judge by it, and weigh classes" in said
    assert verdicts(course([0.97, 0.97], rows=rare, balanced=[0.80, 0.80])) == []
    assert verdicts(course([0.65, 0.65], rows={"a": 10, "b": 10})) == []  # twenty rows cannot tell
    assert verdicts(course([1.0, 1.0], rows={"a": 10})) == []  # one class: nothing to be better than


def test_a_class_that_is_never_found_is_named() -> None:
    """Two classes: F1 of the other one is 0.995."""
    found = per_class(Confusion(2, np.array([0, 1]), np.array([1, 1]), np.array([10, 990])), ["rare", "usual"])
    assert found[1]["f1"] > 0.99
    assert never_found(found) == (
        "no row of 'rare' (10 rows) is recognised: judge by balanced accuracy, and weigh classes with "
        "optim.class_weights, or add rows of them"
    )
    many = per_class(Confusion(6, np.arange(6), np.zeros(6, int), np.array([9, 2, 3, 4, 5, 0])), list("abcdef"))
    said = never_found(many)
    assert said is not None
    assert said.startswith("no row of 'b' (2 rows), 'c' (3 rows), 'd' (4 rows) and 1 more classes is recognised: judge")
    assert "by balanced accuracy and macro F1" in said
    assert never_found(per_class(Confusion(2, np.arange(2), np.arange(2), np.array([1, 9])), ["rare", "usual"])) is None


@pytest.mark.parametrize("rows", [40, 400, 4000])
def test_noise_alone_says_nothing(rows: int) -> None:
    """Accuracies and losses that only scatter, drawn anew for each epoch: more noise than the same rows have."""
    random = np.random.default_rng(rows)
    loud = 0
    for _ in range(300):
        right = random.binomial(rows, 0.85, 8) / rows
        losses = 0.4 + 0.9 / np.sqrt(rows) * random.standard_normal(8)
        sizes = {"a": rows // 2, "b": rows // 2}
        loud += bool(verdicts(course(right.tolist(), rows=sizes, log_loss=np.maximum(losses, 0.01).tolist())))
    assert loud <= 15, loud


def test_a_course_is_read_from_the_lines_of_the_metrics() -> None:
    def validation(accuracy: float, best: bool) -> dict[str, object]:
        figures = {"accuracy": accuracy, "balanced_accuracy": accuracy - 0.1, "log_loss": 1 - accuracy, "rows": 10}
        return {"kind": "validation", "best": best, **figures}

    lines = [
        *({"kind": "train", "step": 4, "loss": 0.9}, {"kind": "train", "step": 8, "loss": 0.8}),
        *(validation(0.6, True), {"kind": "train", "step": 12, "loss": 0.5}, validation(0.7, True)),
        *(validation(0.7, False), {"kind": "test", "accuracy": 0.6}),
    ]
    found = Course.of(lines, 3, {"a": 6, "b": 4})
    assert found is not None
    assert (found.accuracy, found.best, found.rows, found.epochs) == ([0.6, 0.7, 0.7], 1, 10, 3)
    assert (found.train_loss, found.balanced) == ([0.8, 0.5, 0.5], pytest.approx([0.5, 0.6, 0.6]))
    assert Course.of(lines[:2], 3, {"a": 6, "b": 4}) is None
    assert Course.of([{**lines[2], "log_loss": float("nan")}], 3, {"a": 6, "b": 4}) is None
