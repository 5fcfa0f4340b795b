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
        mine = join(touched)
        if self.world.world_size > 1:
            streams = [
                batch.global_rows,
                batch.global_unlabelled_rows if len(touched) > len(batch.micro_batches) else 0,
            ]
            rows = sum(-(-rows // self.world.world_size) for rows in streams)
            mine = self.exchange(mine, rows, self.wide.num_places(batch.longest))
        rate = (1 - skip.to(self.wide.table.dtype)) * (lr / batch.global_rows)
        self.wide.update(mine, rate)

    def exchange(self, mine: Touched, rows: int, places: int) -> Touched:
        """What all ranks touched, in the order of ranks, by one message; none has more than ``rows`` or ``places``.

        The messages of all ranks are of one size that each rank knows, so the host asks no device for it. Features
        travel, not rows of the table: a feature is two numbers, a row of the table as many as there are classes.
        """
        kind = torch.int32 if mine.value.dtype == torch.float32 else torch.int64  # buckets travel beside bits of floats
        own, held = mine.value.shape
        message = torch.zeros(rows, 2 * places + mine.error.shape[1], dtype=kind, device=mine.value.device)
        message[:own, :held] = mine.bucket
        message[:own, places : places + held] = mine.value.view(kind)
        message[:own, 2 * places :] = mine.error.view(kind)
        every = self.world.gather_on_device(message, "what the wide part learned")
        bucket, value, error = every.split([places, places, mine.error.shape[1]], dim=1)
        return Touched(bucket.to(torch.int64), value.view(mine.value.dtype), error.view(mine.error.dtype))


def wide_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of optimizer step ``step`` (from 0) of ``total_steps``: it falls to zero evenly, and climbs at first."""
    climbing = config.wide_warmup * total_steps
    return config.wide_lr * (1 - step / total_steps) * min(1.0, (step + 1) / max(1.0, climbing))
