# SPDX-License-Identifier: Apache-2.0
"""Word vectors that a run learns from its dataset before the first step: it counts which words occur near each other
(the most frequent words as neighbours), takes positive pointwise mutual information of the counts, and its
truncated singular value decomposition (Levy, Goldberg and Dagan, 2015).

Words are processed ``WORDS_AT_ONCE`` at a time, so memory is bounded; the directions of the most frequent ones are used
for all. The same dataset gives the same vectors, on any number of cores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from padless.core.randomness import permutation
from padless.core.split_names import TRAIN, UNLABELLED
from preprocessing.dataset.shards import Block, Split

LEARN_FROM = (TRAIN, UNLABELLED)
"""The splits to learn from, if the dataset has them; never validation or test."""
WINDOW = 8
"""Words to the left and to the right that count as near; the nearer ones count more."""
MOST_TOKENS = 30_000_000
"""Of more tokens, blocks chosen at random are read: about a minute of one core, as other ranks wait for it."""
CONTEXTS = 4096
"""How many of the most frequent words are counted as neighbours."""
WORDS_AT_ONCE = 1 << 15
"""Words whose counts are in memory at a time: 512 MiB with ``CONTEXTS``."""
SMOOTHING = 0.75
"""Power of the neighbours' shares: without it the rarest neighbours have the largest associations."""
OVERSAMPLING, ITERATIONS = 30, 3
"""Of the randomized decomposition (Halko, Martinsson and Tropp, 2011)."""
SAMPLE = 0x73766473
"""Seed; makes random choices differ from others of the project."""


def sample(splits: Sequence[Split]) -> list[Block]:
    """The blocks to learn from: all, or random ones with ``MOST_TOKENS`` tokens."""
    candidates = [(split, number) for split in splits for number in range(len(split.blocks))]
    blocks, tokens = {}, 0
    for index in permutation(len(candidates), SAMPLE).tolist():
        if tokens < MOST_TOKENS:
            split, number = candidates[index]
            blocks[index] = split.blocks[number]
            tokens += int(blocks[index].length.sum())
    return [blocks[index] for index in sorted(blocks)]


@threadpool_limits.wrap(limits=1)
def learn_vectors(blocks: Sequence[Block], vocabulary_size: int, dim: int) -> np.ndarray:
    """float32 ``[vocabulary, dim]``: a vector for each id that has a neighbour, zeros for the others; only zeros if all
    would be the same.
    """
    vectors = np.zeros((vocabulary_size, dim), np.float32)
    directions = shares = None
    for first in range(0, vocabulary_size, WORDS_AT_ONCE):
        words = range(first, min(first + WORDS_AT_ONCE, vocabulary_size))
        counts = count_neighbours(blocks, words, min(CONTEXTS, vocabulary_size))
        if shares is None:  # the ids are in order of frequency, so these words are most of the text
            shares = counts.sum(axis=0) ** SMOOTHING
            shares /= max(shares.sum(), 1.0)
        associations = associate(counts, shares)
        if directions is None:
            directions = principal_directions(associations, dim)
        vectors[words.start : words.stop, : directions.shape[1]] = associations @ directions
    learned = vectors[vectors.any(axis=1)]
    return vectors if learned.size and np.ptp(learned) > 0 else np.zeros_like(vectors)


def count_neighbours(blocks: Sequence[Block], words: range, contexts: int) -> np.ndarray:
    """float32 ``[words, contexts]``: how often each of ``words`` has each context near it, a pair d words apart counted
    1 / d times.
    """
    counts = np.zeros(len(words) * contexts, np.float32)
    for block in blocks:
        ids = np.pad(block.ids.astype(np.int64), ((0, 0), (0, WINDOW)))  # <pad> between texts
        column, length = np.arange(ids.shape[1]), block.length[:, None]
        ids[column >= length] = 0
        stream = ids[column < length + WINDOW]
        for distance in range(1, WINDOW + 1):
            earlier, later = stream[:-distance], stream[distance:]
            for word, context in ((earlier, later), (later, earlier)):
                is_counted = (word >= max(words.start, 1)) & (word < words.stop) & (context > 0) & (context < contexts)
                np.add.at(
                    counts, (word[is_counted] - words.start) * contexts + context[is_counted], np.float32(1 / distance)
                )
    return counts.reshape(len(words), contexts)


def associate(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Positive pointwise mutual information of ``counts`` [words, contexts], in place: log of how many times as often a
    context is near a word as near any word, 0 where that is less than once. ``shares`` [contexts]: of any word.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        for start in range(0, len(counts), 1024):  # small enough for the cache
            part = counts[start : start + 1024]
            part /= part.sum(axis=1, keepdims=True) * shares
            np.log(part, out=part)
            np.fmax(part, 0, out=part)
    return counts


def principal_directions(associations: np.ndarray, dim: int) -> np.ndarray:
    """float32 ``[contexts, dim or contexts]``: maps associations to the left singular vectors of the largest singular
    values, each times the root of its value.
    """
    contexts = associations.shape[1]
    random = np.random.default_rng(SAMPLE).standard_normal((contexts, min(dim + OVERSAMPLING, contexts)), np.float32)
    basis = np.linalg.qr(random)[0]
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(associations.T @ (associations @ basis))[0]
    _, values, right = np.linalg.svd(np.linalg.qr(associations @ basis, mode="r"), full_matrices=False)
    rank = np.count_nonzero(values[:dim] > values[0] * 1e-6)  # the values fall
    return (basis @ right[:rank].T / np.sqrt(values[:rank])).astype(np.float32)
