# SPDX-License-Identifier: Apache-2.0
"""Whether new rows are like those of the training: unknown words, lengths, classes.

Shares of groups are compared by the population stability index, the sum of ``(p - q) ln(p / q)`` over the groups: below
0.1 there is nothing to speak of, above 0.25 much is another (Siddiqi, 2006, Credit Risk Scorecards). By chance alone it
is about ``(groups - 1) (1 / n + 1 / m)`` for ``n`` and ``m`` rows, which is taken off before anything is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MODERATE = 0.1
"""Stability index beyond chance from which on a difference is said."""
BINS = 10
"""Groups of lengths, cut at the quantiles of the training."""
ERRORS = 3.0
"""Standard errors by which the share of unknown tokens must differ to be said."""
WORTH = 0.01
"""Difference of that share that is worth a sentence."""
QUANTILES = (0.05, 0.5, 0.95)


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
    """What new rows have in common with the training, as plain values, and what is to be said of it in ``found``.

    ``training`` is what ``training_facts`` made, or None; ``labels``, ``lengths`` and ``unknown`` are int64 ``[rows]``.
    ``vocabulary_rate`` is the share of training tokens that are not in the vocabulary, ``words`` are the most frequent
    unknown words here with their counts.
    """
    splits = dict((training or {}).get("splits", {}))
    counts = np.bincount(labels, minlength=len(names))
    result: dict[str, Any] = {
        "unknown": unknown_words(splits, lengths, unknown, vocabulary_rate, words),
        "lengths": {"here": quantiles(lengths, np.ones(len(lengths), np.int64))},
        "classes": {"here": {name: int(count) for name, count in zip(names, counts, strict=True)}},
    }
    if "train" in splits:
        result["lengths"] |= lengths_against(splits["train"]["lengths"], lengths)
        result["classes"] |= classes_against(splits["train"]["labels"], names, counts)
    for name, split in splits.items():
        points, rows = histogram(split["lengths"])
        result["lengths"][name] = quantiles(points, rows)
        result["classes"][name] = dict(split["labels"])
    return result | {"found": sentences(result, list(names))}


def unknown_words(
    splits: Mapping[str, Any], lengths: np.ndarray, unknown: np.ndarray, rate: float, words: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """The share of unknown tokens here with its standard error over rows, and in each split of the training.

    The vocabulary was made of the training rows, so that their own share is lower than that of any others.
    """
    total = max(int(lengths.sum()), 1)
    here = float(unknown.sum() / total)
    error = float(np.sqrt(((unknown - here * lengths) ** 2).sum()) / total)
    known = {name: split["unknown_rate"] for name, split in splits.items() if split.get("unknown_rate") is not None}
    return {"train": rate, **known, "here": here, "standard_error": error, "words": [list(word) for word in words]}


def lengths_against(known: Mapping[str, int], lengths: np.ndarray) -> dict[str, float]:
    """The stability index of lengths in groups that are equally large in the training."""
    points, rows = histogram(known)
    cuts = np.unique(np.repeat(points, rows)[(np.arange(1, BINS) * rows.sum()) // BINS])
    before = np.bincount(np.searchsorted(cuts, points, side="left"), rows, len(cuts) + 1)
    after = np.bincount(np.searchsorted(cuts, lengths, side="left"), minlength=len(cuts) + 1)
    return stability(before, after)


def classes_against(known: Mapping[str, int], names: Sequence[str], counts: np.ndarray) -> dict[str, float]:
    """The stability index of the classes."""
    return stability(np.array([known.get(name, 0) for name in names]), counts)


def stability(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The population stability index of two counts over the same groups, and what it would be by chance.

    Half a row is added to every group, so that an empty one has a logarithm.
    """
    groups = (before + after) > 0
    shares = [(counts[groups] + 0.5) / (counts[groups] + 0.5).sum() for counts in (before, after)]
    index = float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())
    chance = float((groups.sum() - 1) * (1 / max(before.sum(), 1) + 1 / max(after.sum(), 1)))
    return {"stability_index": index, "by_chance": chance}


def histogram(known: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and their rows, int64 each, ascending by length."""
    ordered = sorted((int(length), rows) for length, rows in known.items())
    points, rows = np.array(ordered, np.int64).T
    return points, rows


def quantiles(points: np.ndarray, rows: np.ndarray) -> dict[str, int]:
    """Some quantiles of lengths, of which each occurs in so many rows."""
    values = np.quantile(np.repeat(points, rows), QUANTILES, method="inverted_cdf")
    return {f"{point:g}": int(value) for point, value in zip(QUANTILES, values, strict=True)}


def sentences(values: Mapping[str, Any], names: list[str]) -> list[str]:
    """What differs by more than chance and is worth a sentence."""
    found = []
    unknown, lengths, classes = values["unknown"], values["lengths"], values["classes"]
    unseen = next((split for split in ("validation", "test") if split in unknown), None)
    if unseen and unknown["here"] - unknown[unseen] > max(WORTH, ERRORS * unknown["standard_error"]):
        some = ", ".join(f"{word} {count:,}" for word, count in unknown["words"][:5])
        before = f"{unknown[unseen]:.1%} of those of the {unseen} split"
        what = f"unknown words: {unknown['here']:.1%} of the tokens are not in the vocabulary, {before}"
        found.append(f"{what}; most often {some}" if some else what)
    if differs(lengths):
        here, before = lengths["here"]["0.5"], lengths["train"]["0.5"]
        way = "shorter" if here < before else "longer" if here > before else "of other lengths"
        found.append(f"lengths: texts are {way}: half have up to {here:,} tokens, in training up to {before:,}")
    if differs(classes):
        total = {place: max(sum(classes[place].values()), 1) for place in ("here", "train")}
        shares = {name: [classes[place][name] / total[place] for place in ("here", "train")] for name in names}
        most = max(names, key=lambda name: abs(shares[name][0] - shares[name][1]))
        here, before = shares[most]
        found.append(f"classes: {most!r} is {here:.1%} of the rows, {before:.1%} in training")
    return found


def differs(values: Mapping[str, Any]) -> bool:
    """Whether a stability index is beyond chance and worth a sentence."""
    return "stability_index" in values and values["stability_index"] - 2 * values["by_chance"] > MODERATE
