# SPDX-License-Identifier: Apache-2.0
"""How the wide part learns: ranks exchange what their rows touched, and each makes the same step on those rows alone.

Rows of a TF-IDF matrix have length 1 and the loss is convex, so plain gradient descent with a large rate that falls to
zero is enough, and there is no state beside the table. It needs no clipping, since a row's gradient is at most its
label's weight, and no average, since its last steps are small. Its first steps are not: with many features for each
row, what the first batches happen to be stays in the table to the end, unless the rate climbs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.batch import StepBatch
from harness.config import OptimConfig
from harness.model.wide import Touched, WidePart, join
from harness.ranks.distributed import World


class WideDescent:
    """Gradient descent on the table of a wide part."""

    def __init__(self, wide: WidePart, world: World) -> None:
        self.wide, self.world = wide, world

    @torch.no_grad()
    def step(self, touched: Sequence[Touched], batch: StepBatch, lr: float, skip: torch.Tensor) -> None:
        """Learn from this rank's micro-batches and those of all others; nothing where ``skip`` is 1."""
        rate = (1 - skip.to(self.wide.table.dtype)) * (lr / batch.global_rows)
        self.wide.update(self.exchange(join(touched)), rate)

    def exchange(self, mine: Touched) -> Touched:
        """What all ranks touched, in the order of ranks. Features travel, not rows of the table: a feature is two
        numbers, a row of the table as many as there are classes.
        """
        if self.world.world_size == 1:
            return mine
        messages = self.world.gather_on_device(as_message(mine), "what the wide part learned")
        return join(from_message(message, mine.error) for message in messages)


def wide_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of optimizer step ``step`` (from 0) of ``total_steps``: it falls to zero evenly, and climbs at first."""
    climbing = config.wide_warmup * total_steps
    return config.wide_lr * (1 - step / total_steps) * min(1.0, (step + 1) / max(1.0, climbing))


def as_message(touched: Touched) -> torch.Tensor:
    """What there is as one int64 tensor, so that ranks wait once: entries, buckets, rows, values, errors.

    Numbers travel as the bits of float64, which holds each of them.
    """
    there = touched.value != 0
    bucket, row, value = touched.bucket[there], touched.row[there], touched.value[there]
    head = torch.tensor([len(bucket)], device=bucket.device)
    bits = [numbers.to(torch.float64).view(torch.int64).reshape(-1) for numbers in (value, touched.error)]
    return torch.cat((head, bucket, row, *bits))


def from_message(message: torch.Tensor, like: torch.Tensor) -> Touched:
    """The other way round; ``like`` has the dtype and the outputs of the errors."""
    entries, rest = int(message[0]), message[1:]
    bucket, row, bits = rest[:entries], rest[entries : 2 * entries], rest[2 * entries :]
    numbers = bits.view(torch.float64).to(like.dtype)
    return Touched(bucket, numbers[:entries], row, numbers[entries:].reshape(-1, like.shape[1]))
