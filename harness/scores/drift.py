# SPDX-License-Identifier: Apache-2.0
"""Whether new rows are like those of the training: unknown words, lengths, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ERRORS = 3.0
"""Standard errors by which a share must differ to be reported."""
WORTH_UNKNOWN, WORTH_CLASS = 0.01, 0.1
"""Difference of the share of unknown tokens, and of a class, that is worth a sentence."""
LEAST_ROWS = 30
"""Fewer rows say nothing of lengths."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def drift(
    training: Mapping[str, Any] | None,
    *,
    names: Sequence[str],
    labels: np.ndarray,
    lengths: np.ndarray,
    unknown: np.ndarray,
    vocabulary_rate: float,
    words: Sequence[tuple[str, int]],
) -> dict[str, Any]:
    """How new rows differ from the training, as plain values; ``found`` has the differences in words.

    ``training`` is what ``training_facts`` made, or None; ``labels``, ``lengths`` and ``unknown`` are int64 ``[rows]``.
    ``vocabulary_rate`` is the share of training tokens that are not in the vocabulary, ``words`` are the most frequent
    unknown words here with their counts. The vocabulary was made of the training rows, so their own share is lower than
    that of any others.
    """
    splits = (training or {}).get("splits", {})
    tokens = max(int(lengths.sum()), 1)
    share = float(unknown.sum() / tokens)
    rates = {name: split["unknown_rate"] for name, split in splits.items() if split.get("unknown_rate") is not None}
    of_lengths = {name: quantiles(split["lengths"]) for name, split in splits.items()}
    of_lengths["here"] = quantiles(Counter(lengths.tolist()))
    of_classes = {name: dict(split["labels"]) for name, split in splits.items()}
    of_classes["here"] = dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
    unknowns = {
        **{"train": vocabulary_rate, **rates, "here": share},
        "standard_error": float(np.sqrt(((unknown - share * lengths) ** 2).sum()) / tokens),  # over rows
        "words": [list(word) for word in words],
    }
    result = {"unknown": unknowns, "lengths": of_lengths, "classes": of_classes}
    return result | {"found": sentences(unknowns, of_lengths, of_classes, len(labels))}


def quantiles(rows: Mapping[Any, int]) -> dict[str, int]:
    """The quantiles of lengths, of which ``rows`` has the number of rows."""
    lengths = sorted(rows, key=int)
    below = np.cumsum([rows[length] for length in lengths])
    places = np.searchsorted(below, np.array(QUANTILES) * below[-1])
    return {f"{point:g}": int(lengths[place]) for point, place in zip(QUANTILES, places, strict=True)}


def sentences(
    unknown: Mapping[str, Any], lengths: Mapping[str, Any], classes: Mapping[str, Any], rows: int
) -> list[str]:
    """What differs by more than chance and is worth a sentence."""
    found = []
    unseen = next((split for split in ("validation", "test") if split in unknown), None)
    if unseen and unknown["here"] - unknown[unseen] > max(WORTH_UNKNOWN, ERRORS * unknown["standard_error"]):
        some = ", ".join(f"{word} {count:,}" for word, count in unknown["words"][:5])
        before = f"{unknown[unseen]:.1%} of those of the {unseen} split"
        what = f"unknown words: {unknown['here']:.1%} of the tokens are not in the vocabulary, {before}"
        found.append(f"{what}; most often {some}" if some else what)
    if "train" not in lengths:
        return found
    here, before = lengths["here"]["0.5"], lengths["train"]
    if rows >= LEAST_ROWS and not before["0.25"] <= here <= before["0.75"]:
        way = "shorter" if here < before["0.25"] else "longer"
        found.append(f"lengths: texts are {way}: half have up to {here:,} tokens, in training up to {before['0.5']:,}")
    now, then = (shares_of(classes[place]) for place in ("here", "train"))
    most = max(now, key=lambda name: abs(now[name] - then[name]))
    error = (then[most] * (1 - then[most]) / rows) ** 0.5
    if abs(now[most] - then[most]) > max(WORTH_CLASS, ERRORS * error):
        found.append(f"classes: {most!r} is {now[most]:.1%} of the rows, {then[most]:.1%} in training")
    return found


def shares_of(counts: Mapping[str, int]) -> dict[str, float]:
    """Each class's share of the rows."""
    total = sum(counts.values()) or 1
    return {name: count / total for name, count in counts.items()}
