# SPDX-License-Identifier: Apache-2.0
"""Which tokens the states of a language model predict, and how much each prediction counts.

With a window of one, each state predicts the next token: a language model in the usual sense. With a longer one it
predicts any of the tokens ahead, in no order, so that it has to keep what the text is about rather than its grammar
(region embeddings: Johnson and Zhang, 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from harness.settings.task import LanguageModelConfig
from preprocessing.base.randomness import permutation

STREAM = 4
"""Keeps these random numbers apart from those of the order of rows and of the candidates, which have 0 to 3 in this
place of the key."""


@dataclass(frozen=True)
class Targets:
    """What is predicted."""

    window: int = 1
    """Tokens ahead of a state of which it predicts some."""
    distances: int = 1
    """How many of the distances from 1 to ``window`` are learned in a step."""
    weights: torch.Tensor | None = None
    """float64 ``[vocabulary]``: what the prediction of a token counts, on average 1; None: all count alike."""

    @classmethod
    def of(cls, config: LanguageModelConfig, counts: np.ndarray, device: torch.device) -> Targets:
        """As a configuration says; ``counts`` int64 ``[vocabulary]`` are how often each token occurs."""
        if config.frequent is None:
            return cls(config.window, config.distances)
        weights = torch.from_numpy(token_weights(counts, config.frequent)).to(device)
        return cls(config.window, config.distances, weights)

    def drawn(self, seed: int, step: int) -> tuple[int, ...]:
        """The distances of optimizer ``step``, the same on every process."""
        return tuple((permutation(self.window, seed, step, STREAM)[: self.distances] + 1).tolist())

    @property
    def all(self) -> tuple[int, ...]:
        """Every distance."""
        return tuple(range(1, self.window + 1))

    def counts(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What the predictions of ``ids`` count, in their shape."""
        return torch.ones_like(ids, dtype=dtype) if self.weights is None else self.weights.to(dtype)[ids]


def token_weights(counts: np.ndarray, frequent: float) -> np.ndarray:
    """float64 ``[vocabulary]``: min(1, √(t / f) + t / f) for a token with a share ``f`` of all (``t``: ``frequent``),
    as word2vec keeps tokens, divided by their mean over a text. Each token counts one occurrence more than it has.
    """
    shares = (counts.astype(np.float64) + 1) / (counts.sum() + len(counts))
    ratio = frequent / shares
    weights = np.minimum(1.0, np.sqrt(ratio) + ratio)
    return weights / (shares * weights).sum()


NEXT_TOKEN = Targets()
"""A language model in the usual sense."""
