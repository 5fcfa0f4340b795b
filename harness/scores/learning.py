# SPDX-License-Identifier: Apache-2.0
"""What the validations of a run say of how it learned, in words: pure functions of its figures, within their noise.

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
"""Share of the errors, or of the log loss, that a change must be at least to be mentioned."""
LATE = 0.25
"""Share of the epochs, the last ones, over which an improvement is looked for."""


@dataclass(frozen=True)
class Epoch:
    """What was measured after an epoch."""

    accuracy: float
    """On validation, as the two below."""
    balanced: float
    log_loss: float
    train_loss: float | None
    """Of the last log line of the epoch; None where there was none yet."""

    def is_more_accurate(self, other: Epoch, rows: int) -> bool:
        """Whether its accuracy is higher by more than noise, and worth saying."""
        variance = sum(one.accuracy * (1 - one.accuracy) for one in (self, other)) / rows
        gain = self.accuracy - other.accuracy
        return gain > TIMES * math.sqrt(variance) and gain >= WORTH * (1 - other.accuracy)

    def has_less_loss(self, other: Epoch, rows: int) -> bool:
        """Whether its log loss is lower by more than noise, and worth saying."""
        noise = TIMES * math.hypot(self.loss_error(rows), other.loss_error(rows))
        gain = other.log_loss - self.log_loss
        return gain > noise and gain >= WORTH * self.log_loss

    def loss_error(self, rows: int) -> float:
        """Standard error of the log loss, as the module describes it; no row wrong counts as one."""
        wrong = min(max(1 - self.accuracy, 1 / rows), 1 - 1 / rows) if rows > 1 else 0.5
        return self.log_loss * math.sqrt((1 - wrong) / wrong / rows)


def verdicts(lines: Sequence[Mapping[str, Any]], epochs: int, class_rows: Mapping[str, int]) -> list[str]:
    """Sentences on what went wrong in a run, each with what to do; none for a run that learned.

    ``lines`` are those of ``metrics.jsonl``, ``epochs`` as many as were asked for, ``class_rows`` the rows of each
    class in the validation split. Nothing is said without a validation, or where a figure is not finite.
    """
    course: list[Epoch] = []
    train_loss: float | None = None
    best = 0
    for line in lines:
        if line.get("kind") == "train":
            train_loss = line["loss"]
        elif line.get("kind") == "validation":
            best = len(course) if line["best"] else best
            balanced = line.get("balanced_accuracy", math.nan)
            course.append(Epoch(line["accuracy"], balanced, line["log_loss"], train_loss))
    figures = [figure for epoch in course for figure in (epoch.accuracy, epoch.balanced, epoch.log_loss)]
    if not course or not all(map(math.isfinite, figures)):
        return []
    rows = sum(class_rows.values())
    found = (
        no_better_than_majority(course, best, class_rows),
        still_improving(course, best, epochs, rows),
        worse_after_best(course, best, rows),
    )
    return [sentence for sentence in found if sentence is not None]


def still_improving(course: Sequence[Epoch], best: int, epochs: int, rows: int) -> str | None:
    """The last epoch was the best one, and better than those before the last quarter of the run."""
    last = len(course) - 1
    if last < 1 or len(course) < epochs or best != last:
        return None
    end, earlier = course[last], range(last + 1 - max(1, round(LATE * (last + 1))))
    most = max(earlier, key=lambda at: course[at].accuracy)
    lowest = min(earlier, key=lambda at: course[at].log_loss)
    if end.is_more_accurate(course[most], rows):
        change = f"accuracy {course[most].accuracy:.4f} after epoch {most + 1}, {end.accuracy:.4f} at the end"
    elif end.has_less_loss(course[lowest], rows):
        change = f"log loss {course[lowest].log_loss:.4f} after epoch {lowest + 1}, {end.log_loss:.4f} at the end"
    else:
        return None
    return f"validation was still improving ({change}): more epochs, as in --epochs {2 * epochs}"


def worse_after_best(course: Sequence[Epoch], best: int, rows: int) -> str | None:
    """The best epoch came in the first half, and validation got worse after it."""
    last = len(course) - 1
    if last - best < 2 or best + 1 > (last + 1) / 2:
        return None
    top, end = course[best], course[last]
    mean = Epoch(sum(epoch.accuracy for epoch in course[best + 1 :]) / (last - best), math.nan, math.nan, None)
    fell = top.is_more_accurate(mean, rows) and end.accuracy < top.accuracy
    if not fell and not top.has_less_loss(end, rows):
        return None
    head = (
        f"best at epoch {best + 1} of {last + 1} (accuracy {top.accuracy:.4f}, at the end {end.accuracy:.4f}; "
        f"log loss {top.log_loss:.4f}, at the end {end.log_loss:.4f})"
    )
    if top.train_loss is not None and end.train_loss is not None and end.train_loss >= top.train_loss:
        return f"{head}, and training did not get better either: lower optim.lr"
    return f"{head}: it overfits; fewer epochs, more model.dropout, or more data"


def no_better_than_majority(course: Sequence[Epoch], best: int, class_rows: Mapping[str, int]) -> str | None:
    """The best accuracy is that of always naming the largest class, within one standard error."""
    rows, largest = sum(class_rows.values()), max(class_rows, key=lambda name: class_rows[name])
    always, reached = class_rows[largest] / rows, course[best]
    present = [count for count in class_rows.values() if count]
    if len(present) < 2 or reached.accuracy - always > math.sqrt(always * (1 - always) / rows):
        return None
    figures = f"accuracy {reached.accuracy:.4f} on validation, {always:.4f} for always saying {largest!r}"
    chance = 1 / len(present)
    noise = TIMES * chance * math.sqrt(sum(chance * (1 - chance) / count for count in present))
    if reached.balanced > chance + noise:
        return (
            f"no better than the majority class in accuracy ({figures}), though other classes are found: balanced "
            f"accuracy {reached.balanced:.4f}, by chance {chance:.4f}; judge by it, and weigh classes with "
            "optim.class_weights"
        )
    guessing = -sum(count / rows * math.log(count / rows) for count in present)
    losses = [epoch.train_loss for epoch in course if epoch.train_loss is not None]
    if losses and losses[-1] < guessing / 2:
        return (
            f"no better than the majority class ({figures}), though training loss fell to {losses[-1]:.4f}: only the "
            "training rows were learned; look at their labels, and whether both splits are of one kind"
        )
    return f"no better than the majority class ({figures}): more epochs, another optim.lr, or look at the labels"


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
