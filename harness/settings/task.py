# SPDX-License-Identifier: Apache-2.0
"""What a network learns to do, and the keys that only a language model has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preprocessing.base.errors import require

Task = Literal["classifier", "language_model"]
CLASSIFIER: Task = "classifier"
LANGUAGE_MODEL: Task = "language_model"


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Pretraining: each direction of the first recurrent layer learns to predict its next token."""

    candidates: int = 1024
    """Tokens that each right one is told from in a step, drawn from the whole vocabulary; more cost time and learn more
    from a step. Half of the vocabulary or more: all of it, which is exact."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.candidates >= 1, "language_model.candidates", self.candidates, "at least 1")
