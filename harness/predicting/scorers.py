# SPDX-License-Identifier: Apache-2.0
"""What reads the weights, by name. A part is encoded in one thread while another scores, so there are two steps."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from harness.scores.calibration import Decision
from preprocessing.base.named import load

SCORERS = {"torch": "harness.predicting.torch_scorer:TorchScorer"}
"""Name -> ``module:class`` of each ``Scorer``."""
SAMPLE = 32
"""Rows of a part that are also computed in fp32 where the others are not."""


class Scorer(Protocol):
    """Weights and their text→ids code, opened by ``settle`` and the constructor in each process."""

    labels: list[str]
    """The classes in the order of their numbers."""

    @property
    def decision(self) -> Decision:
        """How logits become probabilities and labels."""
        ...

    def __init__(self, run: str, settled: dict[str, str], batch_rows: int) -> None:
        """Open and verify the weights of ``run``; ``settled`` is what ``settle`` gave."""

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """What was asked for as it will be on this machine: ``device`` and ``precision``, which decide the figures."""
        ...

    def encode(self, texts: list[str]) -> list[Any]:
        """The ids of each text; another thread may score meanwhile."""
        ...

    def score(self, encoded: list[Any]) -> np.ndarray:
        """Logits of what ``encode`` gave: float64 ``[texts]`` for two classes, else ``[texts, classes]``."""
        ...

    def exact(self, encoded: list[Any]) -> np.ndarray:
        """The same in fp32."""
        ...


def scorer_class(name: str) -> type[Scorer]:
    """The scorer of this name."""
    found: type[Scorer] = load(SCORERS[name])
    return found
