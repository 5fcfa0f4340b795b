# SPDX-License-Identifier: Apache-2.0
"""The registries of poolings and of recurrent cells: what ``model.pooling`` and ``model.cell`` may be, and where the
code is.

Nothing here imports torch: ``plan`` and the launcher refuse an unknown name, and count parameters, at once. Adding one
is a line here and a file of its own; docs/extending.md shows both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from harness.settings.model import ModelConfig
from preprocessing.base.errors import require


def none(output_size: int) -> int:
    """A pooling that learns nothing."""
    return 0


@dataclass(frozen=True, kw_only=True)
class PoolingEntry:
    """One pooling."""

    code: str
    """``module:class`` of a ``harness.model.poolings.Pooling``."""
    vectors: int = 1
    """How many times the outputs' size the pooled vector has."""
    parameters: Callable[[int], int] = none
    """How many numbers it learns, given the outputs' size."""


@dataclass(frozen=True, kw_only=True)
class CellEntry:
    """One recurrent cell."""

    code: str
    """``module:name`` of a ``harness.model.cells.Cell``."""
    gates: int
    """Matrices of inputs, and of states: 4 for an LSTM."""
    bf16_on_cpu: bool = False
    """Whether oneDNN computes it in bf16; if not, it stays in fp32 on a CPU."""


POOLINGS = {
    "last": PoolingEntry(code="harness.model.poolings:Last"),
    "max": PoolingEntry(code="harness.model.poolings:Maximum"),
    "mean": PoolingEntry(code="harness.model.poolings:Mean"),
    "max+mean": PoolingEntry(code="harness.model.poolings:MaximumAndMean", vectors=2),
}
CELLS = {
    "lstm": CellEntry(code="harness.model.recurrent:LSTM", gates=4, bf16_on_cpu=True),
    "gru": CellEntry(code="harness.model.cells:GRU", gates=3),
}


def check_model(config: ModelConfig) -> None:
    """Raise ``ConfigError`` that names the known ones for an unknown pooling or cell."""
    for key, value, known in (("pooling", config.pooling, POOLINGS), ("cell", config.cell, CELLS)):
        require(value in known, f"model.{key}", value, f"one of {', '.join(known)}")
