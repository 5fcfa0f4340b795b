# SPDX-License-Identifier: Apache-2.0
"""A batch on its device: what a loader makes and a model reads. Everything above stands on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Layout = Literal["padded", "packed"]


@dataclass(slots=True)
class Batch:
    """A micro-batch on the device, longest row first.

    ``ids`` is ``[rows, time]`` when padded, ``[tokens]`` time-major when packed.
    """

    ids: torch.Tensor
    """Narrow token ids: int16 bits of a uint16, or int32; ``widened`` gives what an embedding takes."""
    lengths: torch.Tensor
    """int64 ``[rows]`` on the CPU."""
    labels: torch.Tensor
    """int64 ``[rows]``."""
    rows: np.ndarray
    """int64 ``[rows]``: the rows' numbers in the source."""
    batch_sizes: torch.Tensor | None = None
    """Packed layout only: int64 ``[time]`` on the CPU, how many rows are still running at each time step."""

    @property
    def num_rows(self) -> int:
        """Rows in this micro-batch."""
        return len(self.rows)

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.lengths.sum())

    @property
    def num_padded_tokens(self) -> int:
        """Positions that the recurrent layers compute, padding included."""
        return self.ids.numel()

    def widened(self) -> torch.Tensor:
        """The ids as int32, on their device."""
        return self.ids.to(torch.int32) & 0xFFFF if self.ids.dtype == torch.int16 else self.ids


@dataclass(slots=True)
class StepBatch:
    """What one process computes in one optimizer step."""

    epoch: int
    step: int
    """Step within the epoch."""
    micro_batches: list[Batch]
    global_rows: int
    """Rows of the step over all processes: what the loss is divided by."""
    wait_s: float = 0.0
    """How long the training loop waited for this batch."""
    copied: torch.cuda.Event | None = None
    """CUDA only: recorded when the batch is on the device."""
