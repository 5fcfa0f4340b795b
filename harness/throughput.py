# SPDX-License-Identifier: Apache-2.0
"""Where time goes between two log lines: tokens/s, rows/s, padding, data wait; sums over ranks, exact."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch

from harness.data.loader import StepBatch
from harness.data.order import row_hash
from harness.distributed import World

MASK = (1 << 64) - 1


@dataclass
class Meter:
    """Adds up what this rank did since the last log line; ``read`` sums over ranks and starts again.

    The loss stays on the device until it is read, so that logging is the only moment at which the host waits for it.
    """

    rows: int = 0
    tokens: int = 0
    cells: int = 0
    steps: int = 0
    wait_s: float = 0.0
    paused_s: float = 0.0
    rows_hash: int = 0
    """Sum (modulo 2**64) of the hashes of all rows this rank consumed since the start of the run."""
    loss_sum: torch.Tensor | None = None
    started: float = field(default_factory=time.perf_counter)

    def add(self, batch: StepBatch, global_step: int, loss_sum: torch.Tensor) -> None:
        """Count one step's micro-batches and the sum of their rows' losses."""
        for micro in batch.micro_batches:
            self.rows += micro.num_rows
            self.tokens += micro.num_tokens
            self.cells += micro.num_cells
            self.rows_hash = (self.rows_hash + row_hash(micro.rows, global_step)) & MASK
        self.steps += 1
        self.wait_s += batch.wait_s
        self.loss_sum = loss_sum if self.loss_sum is None else self.loss_sum + loss_sum

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent training, such as a validation."""
        self.paused_s += seconds

    def read(self, world: World) -> dict[str, float | int | str]:
        """Figures since the last call, over all ranks: loss per row, speeds, shares of padding and data wait."""
        seconds = time.perf_counter() - self.started - self.paused_s
        loss = 0.0 if self.loss_sum is None else float(self.loss_sum)
        counts = np.array([self.rows, self.tokens, self.cells, 0], dtype=np.int64)
        counts[3] = np.uint64(self.rows_hash).astype(np.int64)
        floats = np.array([loss, self.wait_s, seconds]).view(np.int64)
        table = world.gather_numbers(np.concatenate((counts, floats)), "the figures of a log line")
        rows, tokens, cells = (int(total) for total in table[:, :3].sum(axis=0))
        total_hash = sum(int(value) for value in table[:, 3].view(np.uint64)) & MASK
        losses, waits, times = np.ascontiguousarray(table[:, 4:]).view(np.float64).T
        elapsed = float(times.max())
        self.rows = self.tokens = self.cells = self.steps = 0
        self.wait_s = self.paused_s = 0.0
        self.loss_sum, self.started = None, time.perf_counter()
        return {
            "loss": float(losses.sum()) / rows,
            "rows": rows,
            "rows_per_s": rows / elapsed,
            "tokens_per_s": tokens / elapsed,
            "padding": 1 - tokens / cells,
            "data_wait": float((waits / times).max()),
            "row_hash": f"{total_hash:016x}",
        }
