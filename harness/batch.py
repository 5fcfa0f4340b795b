# SPDX-License-Identifier: Apache-2.0
"""Batch types shared by loader and model."""

from __future__ import annotations

from collections.abc import Mapping
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
    return values.pin_memory().to(device, non_blocking=True)


def record_event(device: torch.device) -> torch.cuda.Event | None:
    """An event of the work that is queued on the current stream of a CUDA device; None on a CPU, whose work is done."""
    if device.type == "cpu":
        return None
    event = torch.cuda.Event()
    event.record()
    return event


@dataclass(frozen=True, slots=True)
class Masks:
    """Dropout masks of a batch, on its device."""

    keep: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """Site -> ``[rows, features]``: 0 where a feature is dropped, else the factor of those that stay; only sites with
    dropout."""
    unknown_tokens: torch.Tensor | None = None
    """Bool, in the shape of the batch's ids: tokens that are read as ``<unk>``; None: none."""


@dataclass(frozen=True, slots=True)
class PackedIndex:
    """Where each token of a packed batch is; all int64, computed on the device of the batch."""

    row: torch.Tensor
    """``[tokens]``: index of the row, longest first."""
    time: torch.Tensor
    """``[tokens]``."""
    position: torch.Tensor
    """``[tokens]``: ``time * rows + row``, the place in padded ``[longest * rows]``."""
    starts: torch.Tensor
    """``[longest]``: the first token of each time step."""
    grid: torch.Tensor
    """``[longest * rows]``: the token at each place; 0 in the padding."""
    num_rows: int

    @classmethod
    def build(cls, lengths: torch.Tensor, longest: int, num_tokens: int) -> PackedIndex:
        """For rows with ``lengths`` int64 ``[rows]`` on the device, longest first. The host gives the longest length
        and the number of tokens, so it does not wait for the device.
        """
        rows, times = torch.arange(len(lengths), device=lengths.device), torch.arange(longest, device=lengths.device)
        is_token = times[:, None] < lengths
        batch_sizes = is_token.sum(1)
        starts = batch_sizes.cumsum(0) - batch_sizes
        time = torch.repeat_interleave(times, batch_sizes, output_size=num_tokens)
        row = torch.arange(num_tokens, device=lengths.device) - starts[time]
        position = torch.add(row, time, alpha=len(rows))
        grid = (starts[:, None] + rows).mul_(is_token).view(-1)
        return cls(row, time, position, starts, grid, len(rows))

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All of them."""
        return self.row, self.time, self.position, self.starts, self.grid


@dataclass(slots=True)
class Batch:
    """A micro-batch on the device, longest row first.

    ``ids`` is ``[rows, time]`` when padded, ``[tokens]`` time-major when packed.
    """

    ids: torch.Tensor
    """Narrow token ids: int16 bits of a uint16, or int32; ``widen_ids`` gives what an embedding takes."""
    lengths: torch.Tensor
    """int64 ``[rows]`` on the CPU."""
    labels: torch.Tensor
    """int64 ``[rows]``; ``NO_LABEL`` where a row has none."""
    rows: np.ndarray
    """int64 ``[rows]``: the rows' numbers in the source."""
    targets: torch.Tensor | None = None
    """float32 ``[rows, classes]``: the probabilities that a teacher gives each row; None: its label."""
    batch_sizes: torch.Tensor | None = None
    """Packed layout only: int64 ``[time]`` on the CPU, how many rows are still running at each time step."""
    sent_lengths: torch.Tensor | None = None
    """``lengths`` on the device of the ids, if the loader sent them; see ``device_lengths``."""
    masks: Masks | None = None
    """In training, as ``prepare`` of the objective adds them; None: no dropout."""
    candidates: tuple[torch.Tensor, int] | None = None
    """Training of a language model only: ids of candidates, int64, and the number of draws."""
    index: PackedIndex | None = None
    """Packed layout only: if the loader has computed it; see ``build_index``."""

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

    def build_index(self) -> PackedIndex:
        """``index``, or the same computed now."""
        if self.index is not None:
            return self.index
        return PackedIndex.build(self.device_lengths, int(self.lengths[0]), self.num_tokens)

    @classmethod
    def without_labels(cls, ids: torch.Tensor, lengths: torch.Tensor, device: torch.device) -> Batch:
        """Padded rows, longest first, from ids int32 ``[rows, time]`` and lengths int64 ``[rows]`` on the CPU."""
        labels, rows = torch.zeros(len(lengths), dtype=torch.int64), np.arange(len(lengths))
        return cls(send(ids, device), lengths, labels, rows, sent_lengths=send(lengths, device))

    def widen_ids(self) -> torch.Tensor:
        """The ids as int32, on their device."""
        return self.ids.view(torch.uint16).to(torch.int32) if self.ids.dtype == torch.int16 else self.ids


@dataclass(slots=True)
class StepBatch:
    """What one process computes in one optimizer step."""

    step: int
    """Step within the epoch."""
    micro_batches: list[Batch]
    global_rows: int
    """Rows of the step over all processes: the divisor of their loss."""
    global_tokens: int = 0
    """Real tokens of the step over all processes."""
    wait_s: float = 0.0
    """Seconds that the training loop waited for this batch."""
    copied: torch.cuda.Event | None = None
    """CUDA only: recorded when the batch is on the device."""
