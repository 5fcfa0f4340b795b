# SPDX-License-Identifier: Apache-2.0
"""The classes of the whole corpus, from what was found in its parts; and what is to be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preprocessing.base.split_names import NO_LABEL, SPLITS
from preprocessing.config import SourceConfig
from preprocessing.job.parts import Summary
from preprocessing.labels import LabelType, alike, common_type, in_order

NAMED = 12
"""Classes that a line names before it says how many more there are."""


@dataclass(frozen=True)
class Classes:
    """The classes of a corpus."""

    names: list[str]
    """In the order of their numbers."""
    numbers: list[np.ndarray]
    """For each part int32 ``[its classes]``: what its class numbers are here."""
    type: LabelType
    """Of the column that they were found in."""
    found: dict[str, int] | None
    """``auto``: each value that was found, and the number of its class; None where the classes are given."""

    @classmethod
    def of(cls, source: SourceConfig, summaries: Sequence[Summary]) -> Classes:
        """Put what was found in all parts into one order."""
        given = source.label_map()
        if given is not None:
            return cls(given.names, [np.arange(len(given.names), dtype=np.int32)] * len(summaries), "text", None)
        known = list(dict.fromkeys(name for summary in summaries for name in summary.known))
        names, found = in_order({name for summary in summaries for name in summary.classes}, known)
        own = [np.array([found[name] for name in summary.classes], np.int32) for summary in summaries]
        return cls(names, own, common_type((summary.label_type for summary in summaries), names), found)


def in_words(classes: Classes, label: np.ndarray, decision: np.ndarray) -> list[str]:
    """Lines for people: the classes, those that look like one, and those too small for a split."""
    names = classes.names
    counts = np.bincount(label[(decision >= 0) & (label != NO_LABEL)], minlength=len(names))
    listed = ", ".join(f"{name} {count:,}" for name, count in list(zip(names, counts, strict=True))[:NAMED])
    more = f", and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    lines = [f"labels: {len(names):,} classes{' found' if classes.found is not None else ''}: {listed}{more}"]
    if classes.found is not None:
        for same in alike(names):
            spelt = " and ".join(map(repr, same))
            lines.append(f"labels: {spelt} differ only by case or spaces and stay apart; source.labels can join them")
        for number, name in enumerate(names):
            spellings = [value for value, its in sorted(classes.found.items()) if its == number]
            if len(spellings) > 1:
                lines.append(f"labels: {', '.join(map(repr, spellings))} are spellings of the class {name}")
    lines += [few] if (few := too_few(names, label, decision, counts)) else []
    return lines


def too_few(names: list[str], label: np.ndarray, decision: np.ndarray, counts: np.ndarray) -> str | None:
    """A line on the classes without a row in some split."""
    without: dict[int, list[str]] = {}
    for number, split in enumerate(SPLITS):
        there = np.bincount(label[decision == number], minlength=len(names))
        for place in np.flatnonzero(there == 0) if there.any() else ():
            without.setdefault(int(place), []).append(split)
    if not without:
        return None
    some = [
        f"{names[place]!r} ({rows_of(int(counts[place]))}, none in {' and '.join(without[place])})"
        for place in sorted(without)[:NAMED]
    ]
    more = f", and {len(without) - NAMED:,} more" if len(without) > NAMED else ""
    return f"labels: too few rows for every split: {', '.join(some)}{more}"


def rows_of(number: int) -> str:
    """``1 row`` or ``12 rows``."""
    return f"{number:,} row" if number == 1 else f"{number:,} rows"
