# SPDX-License-Identifier: Apache-2.0
"""Batch types shared by loader and model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

Layout = Literal["padded", "packed"]


def send(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to ``device`` without blocking the host; used for every copy of a step.

    CUDA blocks the host while it copies from pageable memory, so the values move to pinned memory first; torch keeps
    that memory until the copy is done. On the CPU this returns ``values``.
    """
    if device.type == "cpu":
        return values
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


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
    """int64 ``[rows]``; all ``NO_LABEL`` where the rows have none."""
    rows: np.ndarray
    """int64 ``[rows]``: the rows' numbers in the source."""
    batch_sizes: torch.Tensor | None = None
    """Packed layout only: int64 ``[time]`` on the CPU, how many rows are still running at each time step."""
    sent_lengths: torch.Tensor | None = None
    """``lengths`` on the device of the ids, if the loader sent them; see ``device_lengths``."""
    targets: torch.Tensor | None = None
    """Soft labels: fp32 ``[rows]``, the probability of class 1, for two classes; ``[rows, classes]`` for more; None
    without them."""
    labelled: bool = True
    """Whether the rows have labels: all rows of a batch, or none."""

    @property
    def device_lengths(self) -> torch.Tensor:
        """int64 ``[rows]`` on the device of the ids. Unless the loader sent them, the host waits for a copy."""
        return self.lengths.to(self.ids.device) if self.sent_lengths is None else self.sent_lengths

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
        """Positions that the recurrent layers compute, including padding."""
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
    """Labelled rows of the step over all processes: the divisor of their loss."""
    global_tokens: int = 0
    """Real tokens of the step over all processes, if the loader counts them; else 0."""
    wait_s: float = 0.0
    """Seconds that the training loop waited for this batch."""
    copied: torch.cuda.Event | None = None
    """CUDA only: recorded when the batch is on the device."""
    unlabelled: list[Batch] = field(default_factory=list)
    """Micro-batches of unlabelled rows for the same step."""
    global_unlabelled_rows: int = 0
    """Unlabelled rows of the step over all processes: the divisor of their loss."""

    def take_unlabelled(self, other: StepBatch) -> None:
        """Add the unlabelled rows of ``other`` to this step."""
        self.unlabelled, self.global_unlabelled_rows = other.micro_batches, other.global_rows
        self.wait_s += other.wait_s
