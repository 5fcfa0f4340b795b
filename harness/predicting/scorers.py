# SPDX-License-Identifier: Apache-2.0
"""What reads the weights of each process, by the name of its engine."""

from __future__ import annotations

from typing import Protocol

from harness.inference import scorers
from preprocessing.base.installed import load

SCORERS = {
    "torch": "harness.predicting.torch_scorer:TorchScorer",
    "onnx": "harness.predicting.onnx_scorer:OnnxScorer",
    "onnx-int8": "harness.predicting.onnx_scorer:Int8Scorer",
}
"""Engine -> ``module:class`` of its ``Scorer``."""
SAMPLE = 32
"""Rows of a part that are also computed in fp32 where the others are not."""


class Scorer(scorers.Scorer, Protocol):
    """A scorer that every process opens alike, after one of them has settled how."""

    def __init__(self, run: str, settled: dict[str, str], batch_rows: int) -> None:
        """Open and verify the weights of ``run``; ``settled`` is what ``settle`` gave."""

    @staticmethod
    def settle(device: str, precision: str) -> dict[str, str]:
        """What was asked for as it will be on this machine: ``device`` and ``precision``, which decide the figures."""
        ...


def scorer_class(name: str) -> type[Scorer]:
    """The scorer of this name."""
    found: type[Scorer] = load(SCORERS[name])
    return found
