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
"""Standard errors by which the share of unknown tokens must differ to be reported."""
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
    """How new rows differ from the training, as plain values; ``found`` has the differences in words.

    ``training`` is what ``training_facts`` made, or None; ``labels``, ``lengths`` and ``unknown`` are int64 ``[rows]``.
    ``vocabulary_rate`` is the share of training tokens that are not in the vocabulary, ``words`` are the most frequent
    unknown words here with their counts. The vocabulary was made of the training rows, so their own share is lower than
    that of any others.
    """
    splits = (training or {}).get("splits", {})
    counts = np.bincount(labels, minlength=len(names))
    total = max(int(lengths.sum()), 1)
    share = float(unknown.sum() / total)
    known = {name: split["unknown_rate"] for name, split in splits.items() if split.get("unknown_rate") is not None}
    error = float(np.sqrt(((unknown - share * lengths) ** 2).sum()) / total)  # over rows
    of_lengths: dict[str, Any] = {"here": quantiles(lengths)}
    of_classes: dict[str, Any] = {"here": dict(zip(names, counts.tolist(), strict=True))}
    for name, split in splits.items():
        there = np.repeat(*np.array([(int(length), rows) for length, rows in split["lengths"].items()], np.int64).T)
        of_lengths[name], of_classes[name] = quantiles(there), dict(split["labels"])
        if name == "train":
            cuts = np.unique(np.quantile(there, np.arange(1, BINS) / BINS, method="inverted_cdf"))
            groups = [np.bincount(np.searchsorted(cuts, one), minlength=len(cuts) + 1) for one in (there, lengths)]
            of_lengths |= stability(*groups)
            of_classes |= stability(np.array([split["labels"].get(label, 0) for label in names]), counts)
    result: dict[str, Any] = {
        "unknown": {
            **{"train": vocabulary_rate, **known, "here": share, "standard_error": error},
            "words": [list(word) for word in words],
        },
        "lengths": of_lengths,
        "classes": of_classes,
    }
    return result | {"found": sentences(result, names)}


def stability(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The population stability index of two counts over the same groups, and what it would be by chance.

    Half a row is added to every group, so that an empty one has a logarithm.
    """
    groups = (before + after) > 0
    shares = [(counts[groups] + 0.5) / (counts[groups] + 0.5).sum() for counts in (before, after)]
    index = float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())
    chance = float((groups.sum() - 1) * (1 / max(before.sum(), 1) + 1 / max(after.sum(), 1)))
    return {"stability_index": index, "by_chance": chance}


def quantiles(lengths: np.ndarray) -> dict[str, int]:
    """The quantiles of lengths that are shown."""
    values = np.quantile(lengths, QUANTILES, method="inverted_cdf")
    return {f"{point:g}": int(value) for point, value in zip(QUANTILES, values, strict=True)}


def sentences(values: Mapping[str, Any], names: Sequence[str]) -> list[str]:
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
        now, then = (
            {name: classes[place][name] / max(sum(classes[place].values()), 1) for name in names}
            for place in ("here", "train")
        )
        most = max(names, key=lambda name: abs(now[name] - then[name]))
        found.append(f"classes: {most!r} is {now[most]:.1%} of the rows, {then[most]:.1%} in training")
    return found


def differs(values: Mapping[str, Any]) -> bool:
    """Whether a stability index is beyond chance and worth a sentence."""
    return "stability_index" in values and values["stability_index"] - 2 * values["by_chance"] > MODERATE
