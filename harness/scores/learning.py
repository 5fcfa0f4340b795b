# SPDX-License-Identifier: Apache-2.0
"""What the validations of a run say of how it learnt, in words: pure functions of its figures, within their noise.

Two accuracies of ``n`` rows differ by chance alone by about ``sqrt(2 p (1 - p) / n)``. Those of one run are measured on
the same rows, so by less: nothing is said that this standard error, taken twice, could explain. The standard error of
a log loss is estimated as if all of it lay on the rows that are wrong, ``L sqrt((1 - e) / e / n)`` for a share ``e`` of
wrong rows, since a line of the metrics has no variance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TIMES = 2.0
"""Standard errors that a difference must exceed."""
WORTH = 0.05
"""Share of the errors, or of the log loss, that a change must be at least: less is no news however many the rows."""
LATE = 0.25
"""Share of the epochs, the last ones, over which a rise is looked for."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """The epochs of a run, each with what was measured after it."""

    epochs: int
    """As many were asked for; fewer were trained if patience ended the run."""
    accuracy: Sequence[float]
    """On validation, as the two below."""
    balanced: Sequence[float]
    log_loss: Sequence[float]
    train_loss: Sequence[float | None]
    """Of the last log line of each epoch; None where there was none yet."""
    best: int
    """Place of the epoch whose weights were kept, from 0."""
    class_rows: Mapping[str, int]
    """Rows of each class in the validation split."""

    @property
    def rows(self) -> int:
        """Rows of the validation split."""
        return sum(self.class_rows.values())

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]], epochs: int, class_rows: Mapping[str, int]) -> Course | None:
        """From the lines of ``metrics.jsonl``; None without a validation, or where a figure is not finite."""
        accuracy: list[float] = []
        balanced: list[float] = []
        log_loss: list[float] = []
        train_loss: list[float | None] = []
        seen: float | None = None
        best = 0
        for line in lines:
            if line.get("kind") == "train":
                seen = line["loss"]
            elif line.get("kind") == "validation":
                best = len(accuracy) if line["best"] else best
                accuracy.append(line["accuracy"])
                balanced.append(line.get("balanced_accuracy", math.nan))
                log_loss.append(line["log_loss"])
                train_loss.append(seen)
        if not accuracy or not all(map(math.isfinite, [*accuracy, *balanced, *log_loss])):
            return None
        return cls(
            epochs=epochs,
            accuracy=accuracy,
            balanced=balanced,
            log_loss=log_loss,
            train_loss=train_loss,
            best=best,
            class_rows=class_rows,
        )


def verdicts(course: Course) -> list[str]:
    """Sentences on what went wrong, each with what to do; none for a run that learnt."""
    found = (no_better_than_majority(course), still_rising(course), worse_after_best(course))
    return [sentence for sentence in found if sentence is not None]


def accuracy_error(first: float, second: float, rows: int) -> float:
    """Standard error of the difference of two accuracies on ``rows`` rows each."""
    return math.sqrt((first * (1 - first) + second * (1 - second)) / rows)


def loss_error(loss: float, accuracy: float, rows: int) -> float:
    """Standard error of a log loss, as the module describes it; no row wrong counts as one."""
    wrong = min(max(1 - accuracy, 1 / rows), 1 - 1 / rows) if rows > 1 else 0.5
    return loss * math.sqrt((1 - wrong) / wrong / rows)


def rose(course: Course, before: int, after: int) -> bool:
    """Whether accuracy was higher after epoch ``after`` than after ``before``, by more than noise and worth saying."""
    low, high = course.accuracy[before], course.accuracy[after]
    noise = TIMES * accuracy_error(low, high, course.rows)
    return high - low > noise and high - low >= WORTH * (1 - low)


def loss_rose(course: Course, before: int, after: int) -> bool:
    """The same for the log loss."""
    low, high = course.log_loss[before], course.log_loss[after]
    errors = [loss_error(course.log_loss[at], course.accuracy[at], course.rows) for at in (before, after)]
    return high - low > TIMES * math.hypot(*errors) and high - low >= WORTH * low


def still_rising(course: Course) -> str | None:
    """The last epoch was the best one, and better than those before the last quarter of the run."""
    last = len(course.accuracy) - 1
    if last < 1 or len(course.accuracy) < course.epochs or course.best != last:
        return None
    earlier = range(last + 1 - max(1, round(LATE * (last + 1))))
    before = max(earlier, key=lambda at: course.accuracy[at])
    lowest = min(earlier, key=lambda at: course.log_loss[at])
    if rose(course, before, last):
        change = (
            f"accuracy {course.accuracy[before]:.4f} after epoch {before + 1}, {course.accuracy[last]:.4f} at the end"
        )
    elif loss_rose(course, last, lowest):
        change = (
            f"log loss {course.log_loss[lowest]:.4f} after epoch {lowest + 1}, {course.log_loss[last]:.4f} at the end"
        )
    else:
        return None
    return f"validation was still rising ({change}): more epochs, as in --epochs {2 * course.epochs}"


def worse_after_best(course: Course) -> str | None:
    """The best epoch came in the first half, and validation got worse after it."""
    last, best = len(course.accuracy) - 1, course.best
    if last - best < 2 or best + 1 > (last + 1) / 2:
        return None
    after = course.accuracy[best + 1 :]
    mean = sum(after) / len(after)
    drop = course.accuracy[best] - mean
    noise = TIMES * accuracy_error(course.accuracy[best], mean, course.rows)
    fell = drop > noise and drop >= WORTH * (1 - course.accuracy[best]) and after[-1] < course.accuracy[best]
    if not fell and not loss_rose(course, best, last):
        return None
    figures = (
        f"accuracy {course.accuracy[best]:.4f}, at the end {course.accuracy[last]:.4f}; "
        f"log loss {course.log_loss[best]:.4f}, at the end {course.log_loss[last]:.4f}"
    )
    head = f"best at epoch {best + 1} of {last + 1} ({figures})"
    then, now = course.train_loss[best], course.train_loss[last]
    if then is not None and now is not None and now >= then:
        return f"{head}, and training did not get better either: lower optim.lr"
    return f"{head}: it overfits; fewer epochs, more model.dropout, or more data"


def never_found(per_class: Sequence[Mapping[str, Any]]) -> str | None:
    """Classes none of whose rows is recognised, which accuracy, and F1 of another class, do not show."""
    lost = [entry for entry in per_class if entry["rows"] and not entry["recall"]]
    if not lost or len(lost) == sum(entry["rows"] > 0 for entry in per_class):
        return None
    rarest = ", ".join(f"{entry['label']!r} ({entry['rows']:,} rows)" for entry in lost[:3])
    more = f" and {len(lost) - 3:,} more classes" if len(lost) > 3 else ""
    figures = "balanced accuracy and macro F1" if len(per_class) > 2 else "balanced accuracy"
    return (
        f"no row of {rarest}{more} is recognised: judge by {figures}, and weigh classes with optim.class_weights, or "
        "add rows of them"
    )


def no_better_than_majority(course: Course) -> str | None:
    """The best accuracy is that of always naming the largest class, within one standard error."""
    largest = max(course.class_rows, key=lambda name: course.class_rows[name])
    always, reached = course.class_rows[largest] / course.rows, course.accuracy[course.best]
    present = [count for count in course.class_rows.values() if count]
    if len(present) < 2 or reached - always > math.sqrt(always * (1 - always) / course.rows):
        return None
    said = f"accuracy {reached:.4f} on validation, {always:.4f} for always saying {largest!r}"
    chance = 1 / len(present)
    noise = TIMES * chance * math.sqrt(sum(chance * (1 - chance) / count for count in present))
    balanced = course.balanced[course.best]
    if balanced > chance + noise:
        return (
            f"no better than the majority class in accuracy ({said}), though other classes are found: balanced "
            f"accuracy {balanced:.4f}, by chance {chance:.4f}; judge by it, and weigh classes with optim.class_weights"
        )
    losses = [loss for loss in course.train_loss if loss is not None]
    shares = [count / course.rows for count in present]
    guessing = -sum(share * math.log(share) for share in shares)
    if losses and losses[-1] < guessing / 2:
        return (
            f"no better than the majority class ({said}), though training loss fell to {losses[-1]:.4f}: only the "
            "training rows were learnt; look at their labels, and whether both splits are of one kind"
        )
    return f"no better than the majority class ({said}): more epochs, another optim.lr, or look at the labels"
