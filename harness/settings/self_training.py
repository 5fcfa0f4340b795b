# SPDX-License-Identifier: Apache-2.0
"""Keys of learning from soft labels: the probabilities that another model, a teacher, gave to the rows of a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from preprocessing.base.errors import ConfigError, require

NONE = "none"
"""No file of soft labels."""
MOST_TRAININGS = 100


@dataclass(frozen=True, kw_only=True)
class SelfTrainingConfig:
    """Which soft labels are learned, and how much they count."""

    rounds: int = 0
    """Trainings before the last one, in RUN/round-0, RUN/round-1, …: the first learns from labelled rows alone, and
    every model labels the unlabelled rows for the next. `python -m harness launch` does all of them; 0: none."""
    first: dict[str, Any] = field(default_factory=dict)
    """Key -> value of the first of these trainings where they are others, as in {epochs: 6, global_batch: 64}."""
    labels: str = NONE
    """Soft labels of `python -m harness label`: a file, or the name of one beside the dataset. They are what the
    unlabelled rows of each step (order.unlabelled_batch) are to learn."""
    weight: float = 1.0
    """What the mean loss of a step's unlabelled rows is multiplied by before that of its labelled rows is added."""
    any_teacher: bool = False
    """Learn also from a teacher that is no better than chance on validation; such soft labels are refused otherwise."""

    def __post_init__(self) -> None:
        """Check ranges, and that nothing is set that soft labels alone give a meaning."""
        require(bool(self.labels), "self_training.labels", self.labels, "none, a file or the name of one")
        require(0 < self.weight < math.inf, "self_training.weight", self.weight, "above 0, and finite")
        require(0 <= self.rounds <= MOST_TRAININGS, "self_training.rounds", self.rounds, f"from 0 to {MOST_TRAININGS}")
        if self.rounds and self.labels != NONE:
            raise ConfigError("self_training.labels: rounds make soft labels of their own; set one of the two")
        if self.first and not self.rounds:
            raise ConfigError("self_training.first: is about rounds; set self_training.rounds, or leave it")
        if self.labels == NONE and not self.rounds:
            for key, default in {"weight": 1.0, "any_teacher": False}.items():
                if getattr(self, key) != default:
                    raise ConfigError(
                        f"self_training.{key}: {getattr(self, key)} does nothing without soft labels; set "
                        "self_training.labels to what python -m harness label has written"
                    )

    @property
    def is_on(self) -> bool:
        """Whether there are soft labels to learn."""
        return self.labels != NONE
