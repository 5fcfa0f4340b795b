# SPDX-License-Identifier: Apache-2.0
"""Which epoch's weights are kept: the best validation so far, and how long it has not been beaten."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from harness.ranks.distributed import World
from harness.scores.calibration import Decision
from harness.scores.figures import CHOSEN_BY


@dataclass
class Selection:
    """The best validation so far."""

    metric: Literal["accuracy", "loss", "calibrated"]
    """What is compared: the highest accuracy, the lowest log loss, or the lowest once probabilities are calibrated."""
    patience: int | None = None
    """Validations in a row without a better one after which training stops; None: never."""
    best: float | None = None
    """The best value so far; a loss counts negative, so higher is always better."""
    best_step: int | None = None
    epochs_since_best: int = 0
    decision: Decision = field(default_factory=Decision)
    """How the logits of the best weights become probabilities and labels."""

    def agree(self, world: World, values: dict[str, Any], step: int, decide: Callable[[], Decision] = Decision) -> bool:
        """What ``consider`` says on rank 0, on every rank: figures of other machines may differ in the last bit.

        ``decide`` gives the decision that belongs to the weights if they are the best.
        """
        better = False
        if world.is_main:
            better = self.consider(values, step)
            self.decision = decide() if better else self.decision
        better, state = world.from_main((better, self.state()), "whether these weights are the best so far")
        self.load(state)
        return better

    def consider(self, values: dict[str, Any], step: int) -> bool:
        """Whether the validation ``values`` after ``step`` are the best so far; remembers them."""
        value = values[CHOSEN_BY[self.metric]] * (1 if self.metric == "accuracy" else -1)
        better = self.best is None or value > self.best or not math.isfinite(self.best)
        self.epochs_since_best = 0 if better else self.epochs_since_best + 1
        if better:
            self.best, self.best_step = value, step
        return better

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.epochs_since_best >= self.patience

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {key: value for key, value in asdict(self).items() if key != "patience"}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave; with another metric the best so far counts no more."""
        if state["metric"] == self.metric:
            self.best, self.best_step = state["best"], state["best_step"]
            self.epochs_since_best, self.decision = state["epochs_since_best"], Decision(**state["decision"])
