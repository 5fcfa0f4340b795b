# SPDX-License-Identifier: Apache-2.0
"""Which tokens a sampled softmax tells the right one from: a pure function of (seed, step), without torch.

Token ids are sorted by count, so a log-uniform distribution over them (Zipf's law) draws tokens about as often as they
occur: ``P(k) = log((k + 2) / (k + 1)) / log(n + 1)`` for the k-th of ``n`` tokens. Tokens are drawn until enough
distinct ones are found, as TensorFlow's ``log_uniform_candidate_sampler`` does with ``unique=True``; a token that was
tried ``t`` times is then a candidate with probability ``1 - (1 - P) ** t``, its expected count. The correction by
expected counts makes the loss right for any order of ids; a vocabulary that is not sorted only draws less useful ones.

``<pad>`` is never drawn, since nobody predicts it. Probabilities are whole multiples of ``2 ** -40``, so that machines
whose logarithms differ in the last bit still draw the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.base.randomness import words
from preprocessing.text.vocabulary import PAD

FIRST = PAD + 1
"""The first id that is ever predicted: that of ``<unk>``."""
BITS = 40
STREAM = 3
"""Keeps these random numbers apart from those of the order of rows, which have 0 to 2 in this place of the key."""
DRAWS = 4
"""Tokens drawn at once for each candidate; more if too few of them are distinct."""


@dataclass(frozen=True)
class Drawn:
    """The candidates of one optimizer step."""

    ids: np.ndarray
    """int64 ``[candidates]``, distinct, in the order in which they were drawn."""
    tries: int
    """How often a token was drawn until all were found; 0: nothing was drawn, every token is a candidate."""


class LogUniformSampler:
    """Draws candidates among the tokens of a vocabulary."""

    def __init__(self, vocabulary_size: int, candidates: int) -> None:
        """With ``candidates`` for half of all tokens or more, all of them are candidates: an exact softmax."""
        tokens = vocabulary_size - FIRST
        self.everything = 2 * candidates >= tokens
        self.candidates = tokens if self.everything else candidates
        borders = np.log(np.arange(1, tokens + 1, dtype=np.float64) + 1) / np.log(tokens + 1.0)
        self.borders = np.rint(borders * (1 << BITS)).astype(np.uint64)
        """uint64 ``[tokens]``: token ``k`` is drawn by numbers from ``borders[k - 1]`` (0 for the first) to below
        ``borders[k]``."""

    @property
    def log_missed(self) -> np.ndarray:
        """float64 ``[vocabulary]``: the logarithm of the probability that one draw is another token."""
        shares = np.diff(self.borders.astype(np.float64), prepend=0.0) / (1 << BITS)
        return np.concatenate((np.zeros(FIRST), np.log1p(-shares)))

    def draw(self, seed: int, step: int) -> Drawn:
        """The candidates of optimizer ``step`` of a run."""
        if self.everything:
            return Drawn(np.arange(FIRST, FIRST + self.candidates, dtype=np.int64), 0)
        count = DRAWS * self.candidates
        while True:
            numbers = words(seed, step, STREAM, count=count) >> np.uint64(64 - BITS)  # of a longer draw, the same first
            tokens = np.searchsorted(self.borders, numbers, side="right")
            places = np.sort(np.unique(tokens, return_index=True)[1])
            if len(places) >= self.candidates:
                chosen = places[: self.candidates]
                return Drawn(tokens[chosen].astype(np.int64) + FIRST, int(chosen[-1]) + 1)
            count *= 2
