# SPDX-License-Identifier: Apache-2.0
"""What a network learns to do, and the keys that only a language model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preprocessing.base.errors import require

Task = Literal["classifier", "language_model"]
CLASSIFIER: Task = "classifier"
LANGUAGE_MODEL: Task = "language_model"
FARTHEST = 1024
"""Tokens between a state and what it predicts."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Pretraining: each direction of the first recurrent layer learns to predict its next token."""

    candidates: int = 1024
    """Tokens that each right one is told from in a step, drawn from the whole vocabulary; more cost time and learn more
    from a step. Half of the vocabulary or more: all of it, which is exact."""
    window: int = 1
    """Tokens ahead of which each state predicts some, in no order. 1: the next one. Some ten teach more of what a text
    is about, and less of its grammar."""
    distances: int = 1
    """How many of the distances 1 to window are learned in a step, drawn anew for each."""
    frequent: float | None = None
    """Share of all tokens from which on a token's predictions count the less, the more often it occurs (word2vec's
    sample), as in 3e-4; null: all predictions count alike."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.candidates >= 1, "language_model.candidates", self.candidates, "at least 1")
        require(1 <= self.window <= FARTHEST, "language_model.window", self.window, f"from 1 to {FARTHEST:,}")
        fits = 1 <= self.distances <= self.window
        require(fits, "language_model.distances", self.distances, f"from 1 to the window ({self.window})")
        fits = self.frequent is None or 0 < self.frequent <= 1
        require(fits, "language_model.frequent", self.frequent, "above 0 and at most 1, or null")
