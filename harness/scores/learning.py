# SPDX-License-Identifier: Apache-2.0
"""What the validations of a run say of how it learned, in words: pure functions of its figures, within their noise.

Two accuracies of ``n`` rows differ by chance alone by about ``sqrt(2 p (1 - p) / n)``; those of one run are measured on
the same rows, so by less. Nothing is said that this standard error, taken twice, could explain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

TIMES = 2.0
"""Standard errors that a difference must exceed."""
WORTH = 0.05
"""Share of the errors that a change must be at least to be mentioned."""
LATE = 0.25
"""Share of the epochs, the last ones, over which an improvement is looked for."""


def is_higher(one: float, other: float, rows: int) -> bool:
    """Whether an accuracy on ``rows`` is higher than another by more than noise, and by enough to say so."""
    noise = TIMES * math.sqrt((one * (1 - one) + other * (1 - other)) / rows)
    return one - other > noise and one - other >= WORTH * (1 - other)


def verdicts(lines: Sequence[Mapping[str, Any]], epochs: int, class_rows: Mapping[str, int]) -> list[str]:
    """Sentences on what went wrong in a run, each with what to do; none for a run that learned.

    ``lines`` are those of ``metrics.jsonl``, ``epochs`` as many as were asked for, ``class_rows`` the rows of each
    class in the validation split. Nothing is said without a validation, or where an accuracy is not finite.
    """
    course = [line for line in lines if line.get("kind") == "validation"]
    accuracy = [line["accuracy"] for line in course]
    if not course or not all(map(math.isfinite, accuracy)):
        return []
    best = max((at for at, line in enumerate(course) if line["best"]), default=0)
    top, end, rows = accuracy[best], accuracy[-1], sum(class_rows.values())
    found = []
    largest = max(class_rows, key=lambda name: class_rows[name])
    always = class_rows[largest] / rows
    if 0 < always < 1 and top - always <= math.sqrt(always * (1 - always) / rows):
        found.append(
            f"no better than the majority class (accuracy {top:.4f} on validation, {always:.4f} for always saying "
            f"{largest!r}): more epochs, another optim.lr, or look at the labels; unequal classes are judged by "
            "balanced accuracy, and weighed by optim.class_weights"
        )
    earlier = accuracy[: len(accuracy) - max(1, round(LATE * len(accuracy)))]
    if earlier and len(course) >= epochs and best == len(course) - 1 and is_higher(end, max(earlier), rows):
        change = f"accuracy {max(earlier):.4f} after epoch {accuracy.index(max(earlier)) + 1}, {end:.4f} at the end"
        found.append(f"validation was still improving ({change}): more epochs, as in --epochs {2 * epochs}")
    after = accuracy[best + 1 :]
    if len(after) >= 2 and best + 1 <= len(course) / 2 and is_higher(top, sum(after) / len(after), rows):
        found.append(
            f"best at epoch {best + 1} of {len(course)} (accuracy {top:.4f}, at the end {end:.4f}): it overfits, or "
            "optim.lr is too high; fewer epochs, more model.dropout, or more data"
        )
    return found


def never_found(per_class: Sequence[Mapping[str, Any]]) -> str | None:
    """Classes none of whose rows is recognised, which accuracy, and F1 of another class, do not show."""
    lost = [entry for entry in per_class if entry["rows"] and not entry["recall"]]
    if not lost or len(lost) == sum(entry["rows"] > 0 for entry in per_class):
        return None
    rarest = ", ".join(f"{entry['label']!r} ({entry['rows']:,} rows)" for entry in lost[:3])
    more = f" and {len(lost) - 3:,} more classes" if len(lost) > 3 else ""
    return (
        f"no row of {rarest}{more} is recognised: judge by balanced accuracy, and weigh classes with "
        "optim.class_weights, or add rows of them"
    )
