# SPDX-License-Identifier: Apache-2.0
"""The sorts and permutations behind an order. All are stable; numbers below 16 bits are sorted by radix."""

from __future__ import annotations

import numpy as np

from preprocessing.base.randomness import words


def spread(groups: np.ndarray, *key: int) -> np.ndarray:
    """A random permutation of ``arange(n)`` in which the members of each group are spaced evenly, with jitter.

    ``groups`` ``[n]`` has the group of each member; ``key`` seeds the permutation.
    """
    random = words(*key, count=2 * len(groups)).reshape(2, -1)
    shuffled = np.argsort(random[0], kind="stable")
    grouped = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, counts = np.unique(groups[grouped], return_index=True, return_counts=True)
    within = np.arange(len(groups)) - np.repeat(starts, counts)
    jitter = (random[1] >> np.uint64(11)) * 2.0**-53
    return grouped[np.argsort((within + jitter) / np.repeat(counts, counts), kind="stable")]


def ascending(values: np.ndarray) -> np.ndarray:
    """A stable argsort of whole numbers from 0; by radix where they fit 16 bits."""
    return np.argsort(values.astype(np.uint16) if values.max(initial=0) < 1 << 16 else values, kind="stable")


def descending(values: np.ndarray) -> np.ndarray:
    """A stable argsort, largest first; equal values keep their order."""
    return ascending(values.max(initial=0) - values)


def least_trend(values: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """The one of ``permutations`` ``[candidates, n]`` of ``values`` ``[n]`` with the least lag-1 autocorrelation.

    By chance alone, that of a single random permutation of a few dozen values is about 0.15 in size.
    """
    ordered = (values - values.mean())[permutations]
    return permutations[np.abs((ordered[:, :-1] * ordered[:, 1:]).sum(axis=1)).argmin()]


def longest_first(lengths: np.ndarray, begins: np.ndarray, sizes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """A sort key for each row: batch ``steps[0]`` comes first, then ``steps[1]``, …, each with its longest row first.

    ``lengths`` ``[rows]`` lie batch after batch: batch ``b`` begins at ``begins[b]`` and has ``sizes[b]`` rows. The
    keys of a batch follow those of the batch before it. The rows of a batch are of similar length and need few keys, so
    keys are small numbers. A stable sort by them leaves equally long rows of a batch in the order in which they lie in
    memory.
    """
    longest, shortest = (extreme.reduceat(lengths, begins)[steps] for extreme in (np.maximum, np.minimum))
    spans = longest - shortest + 1
    first = np.empty_like(longest)
    first[steps] = np.cumsum(spans) - spans + longest
    return np.repeat(first, sizes) - lengths
