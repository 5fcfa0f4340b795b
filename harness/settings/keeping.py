# SPDX-License-Identifier: Apache-2.0
"""Keys of what a run keeps: checkpoints, and how its probabilities become labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preprocessing.base.errors import check_wait, require


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the run is saved and what is kept; it is saved after each epoch and when asked to stop in any case."""

    every_s: float = 300.0
    """Seconds between two checkpoints inside an epoch: at most so much work is ever repeated. The first one of a start
    comes after 60."""
    every_steps: int | None = None
    """Also save after every so many steps; null: by time alone."""
    keep_last: int = 2
    """Newest checkpoints to keep; the one of the best validation is kept too."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_wait("checkpoint.every_s", self.every_s)
        require(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "at least 1")
        steps = self.every_steps
        require(steps is None or steps >= 1, "checkpoint.every_steps", steps, "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How probabilities become labels; decided on the validation split, kept in the bundle, used by predict."""

    threshold: Literal["fixed", "accuracy", "f1", "recall"] = "fixed"
    """From which probability class 1 is predicted, for two classes. fixed: 0.5, the more probable class, as everywhere
    else; accuracy, f1: the best one on validation; recall: the highest that finds ``recall`` of class 1 there."""
    recall: float = 0.95
    """Share of the validation rows of class 1 that `threshold: recall` must find."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(0 < self.recall <= 1, "evaluation.recall", self.recall, "a share above 0, at most 1")
