# SPDX-License-Identifier: Apache-2.0
"""What fits and how long it takes, tried with the longest batch of the run before any step counts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from harness.batch import StepBatch
from harness.data.loader import Loader
from harness.ranks.precision import Choice
from harness.training.throughput import memory_bytes, reset_peak_memory, synchronize
from harness.training.trainer import Trainer
from preprocessing.base.errors import ConfigError

STEPS_LOOKED_AT = 2000


def heaviest_batch(loader: Loader) -> StepBatch:
    """This rank's share of the step whose rows times longest row is the largest, in the first steps of epoch 0.

    Where steps have unlabelled rows, they are the ones of the step that has the most of those.
    """
    heaviest = heaviest_step(loader)
    (batch,) = loader.steps(0, heaviest, heaviest + 1)
    if loader.unlabelled is not None:
        heaviest = heaviest_step(loader.unlabelled)
        (other,) = loader.unlabelled.steps(0, heaviest, heaviest + 1)
        batch.take_unlabelled(other)
    return batch


def heaviest_step(loader: Loader) -> int:
    """The step of epoch 0 that computes the most positions, of the first ones."""
    order, split = loader.order, loader.split
    sizes = []
    for step in range(min(STEPS_LOOKED_AT, order.steps_per_epoch)):
        rows = order.batch_rows(0, step)  # longest first
        block = int(np.searchsorted(split.block_starts, rows[0], side="right")) - 1
        sizes.append(len(rows) * int(split.blocks[block].length[rows[0] - split.block_starts[block]]))
    return int(np.argmax(sizes))


def choose_micro_batch(trainer: Trainer) -> Choice:
    """Give the loader the largest of the whole share of a step, its half, … with which the longest batch fits.

    All ranks try the same size and agree. What training holds between two steps is there already: Adam's moments, the
    average, DDP's buckets. Raises ``ConfigError`` when one row is too much.
    """
    loader, world, device = trainer.loader, trainer.world, trainer.device
    if device.type != "cuda":
        loader.micro_batch = None
        return Choice("no limit", "only CUDA devices run out of memory in a way that can be caught")
    loaders = [one for one in (loader, loader.unlabelled) if one is not None]
    share = rows = max(-(-one.order.largest_step // world.world_size) for one in loaders)
    while True:
        loader.micro_batch = rows
        failed = runs_out_of_memory(trainer)
        torch.cuda.empty_cache()
        reset_peak_memory(device)
        if not world.gather_numbers(np.array([int(failed)]), "trying out a micro-batch").any():
            break
        if rows == 1:
            with world.together("trying out a micro-batch"):
                raise ConfigError(
                    "micro_batch: one row of the longest text does not fit into the device's memory; build the dataset "
                    "with a smaller text.max_tokens or lower model.hidden_size"
                )
        rows = (rows + 1) // 2
    if rows == share:
        loader.micro_batch = None
        return Choice(f"{rows} rows", "the whole share of a step fits")
    return Choice(f"{rows} rows", f"{rows * 2} rows ran out of memory")


def runs_out_of_memory(trainer: Trainer) -> bool:
    """Whether the longest batch fails for want of memory, forward and backward; no gradient is exchanged or kept."""
    try:
        batch = heaviest_batch(trainer.loader)
        for micro_batch in [*batch.micro_batches, *batch.unlabelled]:
            with trainer.accelerator.no_sync(trainer.model):
                loss = trainer.model(micro_batch, 0)
                trainer.accelerator.backward(loss)
    except torch.OutOfMemoryError:
        return True
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
    return False


@dataclass(frozen=True)
class Rehearsal:
    """What one real step of the longest batch cost."""

    step_s: float
    rows: int
    """Labelled rows of that step over all ranks."""
    tokens: int
    """Real tokens of that step, on this rank."""
    memory_bytes: int

    def full_run_s(self, tokens: int) -> float:
        """Seconds for this many tokens on this rank at the same speed."""
        return self.step_s * tokens / self.tokens


def rehearse(trainer: Trainer, repeats: int = 3) -> Rehearsal:
    """Run the longest batch as real steps: the fastest of a few, after one to warm up. The weights change."""
    batch = heaviest_batch(trainer.loader)
    device = trainer.device
    trainer.model.train()
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        with trainer.world.waiting("the gradients of the longest batch"):
            trainer.update(batch)
            synchronize(device)
        seconds.append(time.perf_counter() - started)
    tokens = sum(micro.num_tokens for micro in [*batch.micro_batches, *batch.unlabelled])
    return Rehearsal(min(seconds[1:]), batch.global_rows, tokens, memory_bytes(device))
