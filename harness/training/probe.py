# SPDX-License-Identifier: Apache-2.0
"""What fits and how long it takes, found out with the longest batch of the run before any step counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from harness.data.order import Order
from harness.ranks.distributed import World
from harness.ranks.precision import Choice
from preprocessing.base.errors import ConfigError


def heaviest_step(order: Order, longest: Callable[[int], int], limit: int = 2000) -> int:
    """The step of the first epoch whose rows times longest row is the largest, among the first ``limit`` steps.

    ``longest(row)`` is the length of a global row; the first row of a batch is its longest.
    """
    batches = (order.batch_rows(0, step) for step in range(min(limit, order.steps_per_epoch)))
    return int(np.argmax([len(batch) * longest(int(batch[0])) for batch in batches]))


def choose_micro_batch(
    share: int, attempt: Callable[[int], None], world: World, device: torch.device
) -> tuple[int | None, Choice]:
    """The largest of ``share``, ``share / 2``, … rows with which ``attempt`` does not run out of device memory.

    ``attempt(rows)`` runs the longest batch forward and backward in micro-batches of that size. All ranks try the same
    size and agree; raises ``ConfigError`` when one row is too much.
    """
    if device.type != "cuda":
        return None, Choice("no limit", "only CUDA devices run out of memory in a way that can be caught")
    rows = share
    while True:
        failed = 0
        try:
            attempt(rows)
        except torch.OutOfMemoryError:
            failed = 1
        torch.cuda.empty_cache()
        if not world.gather_numbers(np.array([failed]), "trying out a micro-batch").any():
            reason = "the whole share of a step fits" if rows == share else f"{rows * 2} rows ran out of memory"
            return (None if rows == share else rows), Choice(f"{rows} rows", reason)
        if rows == 1:
            with world.together("trying out a micro-batch"):
                raise ConfigError(
                    "micro_batch: one row of the longest text does not fit into the device's memory; build the dataset "
                    "with a smaller text.max_tokens or lower model.hidden_size"
                )
        rows = (rows + 1) // 2


@dataclass(frozen=True)
class Rehearsal:
    """What one real step of the longest batch cost."""

    step_s: float
    tokens: int
    """Real tokens of that step, on this rank."""
    memory_bytes: int

    def full_run_s(self, tokens: int) -> float:
        """Seconds for this many tokens on this rank at the same speed."""
        return self.step_s * tokens / self.tokens


def rehearse(update: Callable[[], int], memory: Callable[[], int], repeats: int = 3) -> Rehearsal:
    """Time ``update``, which runs one step and returns its real tokens; the best of a few, after one to warm up."""
    tokens, best = update(), float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        update()
        best = min(best, time.perf_counter() - started)
    return Rehearsal(best, tokens, memory())
