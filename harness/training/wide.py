# SPDX-License-Identifier: Apache-2.0
"""How the wide part learns: ranks exchange the gradients of their rows, and all make the same step.

Rows of a TF-IDF matrix have length 1 and the loss is convex, so plain gradient descent with a large rate that falls to
zero is enough, and there is no state beside the table. It needs no clipping, since a row's gradient is at most its
label's weight, and no average, since its last steps are small. Its first steps are not: with many features for each
row, what the first batches happen to be stays in the table to the end, unless the rate climbs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from harness.batch import StepBatch
from harness.config import OptimConfig
from harness.model.wide import (
    BITS,
    MASK,
    NONE,
    UNOWNED,
    USUAL,
    TableGradient,
    Weighing,
    WidePart,
    join,
    keys_of,
    mixed,
    runs,
)
from harness.ranks.distributed import World
from preprocessing.dataset.shards import Split


class WideDescent:
    """Gradient descent on the table of a wide part."""

    def __init__(self, wide: WidePart, world: World) -> None:
        self.wide, self.world = wide, world

    @torch.no_grad()
    def step(self, touched: Sequence[TableGradient], batch: StepBatch, lr: float, skip: torch.Tensor) -> None:
        """Learn from this rank's micro-batches and those of all others; nothing where ``skip`` is 1."""
        mine = join(touched)
        if self.world.world_size > 1:
            rows = sum(-(-rows // self.world.world_size) for rows in (batch.global_rows, batch.global_unlabelled_rows))
            mine = self.exchange(mine, rows, self.wide.num_places(batch.longest))
        rate = (1 - skip.to(self.wide.table.dtype)) * (lr / batch.global_rows)
        self.wide.update(mine, rate)

    def exchange(self, mine: TableGradient, rows: int, places: int) -> TableGradient:
        """The gradients of all ranks, in the order of ranks, by one message; none has more than ``rows`` or ``places``.

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
        return TableGradient(bucket.to(torch.int64), value.view(mine.value.dtype), error.view(mine.error.dtype))


def wide_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Rate of optimizer step ``step`` (from 0) of ``total_steps``: it falls to zero evenly, and climbs at first."""
    climbing = config.wide_warmup * total_steps
    return config.wide_lr * (1 - step / total_steps) * min(1.0, (step + 1) / max(1.0, climbing))


COUNTED_ROWS = 200_000
"""Rows of a split, spread evenly, of which the frequencies of features are counted."""
PIECE_TOKENS = 1 << 18
SLOTS_A_BUCKET, MOST_SLOTS = 1 << 3, 1 << 25
"""Width of the sketch with which the most frequent n-gram of each bucket is found; at most 256 MiB for a moment."""


def count_features(
    wide: WidePart,
    split: Split,
    num_classes: int,
    world: World,
    unlabelled: Split | None = None,
    weighing: Weighing = USUAL,
) -> None:
    """Set the weights of features by how many training rows have them, and the owners of buckets that have one.

    With ``unlabelled`` rows, how rare a feature is is counted over both, and so is which features there are. How much
    it tells of the label comes from labelled rows alone: soft labels add what their teacher knew already.
    """
    sources = [split] if unlabelled is None else [split, unlabelled]
    counter = WidePart(wide.buckets, 1, wide.longest, wide.tail)  # rows are counted, not how often they have it
    if wide.owners is not None:
        counter.owners = owners_of(wide, sources, world, weighing.min_rows)
        wide.owners.copy_(counter.owners)
    labelled, rows = torch.zeros(wide.buckets, num_classes, dtype=torch.int64), 0
    for ids, lengths, labels in share_of(split, world):
        labelled += counter.count(ids, lengths, labels, num_classes)
        rows += len(ids)
    rows_with = labelled.to(torch.float64)
    total = rows_with.sum(1)
    if unlabelled is not None:
        for ids, lengths, labels in share_of(unlabelled, world):
            total += counter.count(ids, lengths, torch.zeros_like(labels), 1)[:, 0]
            rows += len(ids)
    sums = torch.cat((rows_with.view(-1), total, torch.tensor([rows], dtype=torch.float64))).to(wide.weights.device)
    world.sum_on_device(sums, "the frequencies of n-grams")
    by_label, total = sums[: rows_with.numel()].view_as(rows_with), sums[rows_with.numel() : -1]
    with world.waiting("the frequencies of n-grams"):  # here under NCCL
        rows = int(sums[-1])
    wide.set_weights(by_label, rows, total, weighing)


def owners_of(wide: WidePart, sources: Sequence[Split], world: World, min_rows: int) -> torch.Tensor:
    """int32 ``[buckets]``: the name of the n-gram that most rows have, at least ``min_rows``, of those in a bucket, on
    the CPU.

    Rows are counted in a count-min sketch (Cormode and Muthukrishnan, 2005), since most of the n-grams that there are
    occur once: each counts in two places, of which the lower is nearer to the truth. Of several n-grams that as many
    rows have, the one with the largest name is taken.
    """
    slots = max(wide.buckets, min(wide.buckets * SLOTS_A_BUCKET, MOST_SLOTS))
    shift = BITS - (slots.bit_length() - 1)
    sketch = torch.zeros(2, slots, dtype=torch.int32)

    def places_in_sketch(key: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(sketch[0], key >> shift), (sketch[1], mixed(key ^ MASK) >> shift)]

    for source in sources:
        for ids, lengths, _ in share_of(source, world):
            key, first, _ = runs(keys_of(ids, lengths, wide.longest, wide.tail), NONE)
            for counts, slot in places_in_sketch(key[first]):
                counts.index_add_(0, slot, torch.ones_like(slot, dtype=torch.int32))
    sums = sketch.to(wide.weights.device)
    world.sum_on_device(sums, "the frequencies of n-grams")
    with world.waiting("the frequencies of n-grams"):  # here under NCCL
        sketch.copy_(sums)
    best = torch.zeros(wide.buckets, dtype=torch.int64)
    for source in sources:
        for ids, lengths, _ in share_of(source, world):
            key = keys_of(ids, lengths, wide.longest, wide.tail).flatten()
            key = key[key < NONE]
            rows_with = torch.minimum(*(counts[slot] for counts, slot in places_in_sketch(key))).to(torch.int64)
            key, rows_with = key[rows_with >= min_rows], rows_with[rows_with >= min_rows]
            best.scatter_reduce_(0, wide.bucket_of(key), rows_with << BITS | wide.name_of(key), "amax")
    best = best.to(wide.weights.device)
    world.maximum_on_device(best, "the owners of buckets")
    with world.waiting("the owners of buckets"):  # here under NCCL
        return torch.where(best > 0, best & MASK, UNOWNED).to(torch.int32).cpu()


def share_of(split: Split, world: World) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """This rank's share of the rows of a split that are counted, as ``pieces`` gives them."""
    every = -(-len(split) // COUNTED_ROWS)
    return pieces(split, every * world.world_size, every * world.rank)


def pieces(split: Split, every: int, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Ids int64 ``[rows, time]``, lengths and labels of one row in ``every`` from ``first`` on, in pieces."""
    seen = 0
    for block in split.blocks:
        chosen = np.arange((first - seen) % every, len(block.row), every)
        seen += len(block.row)
        size = max(1, PIECE_TOKENS // block.ids.shape[1])
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            lengths = block.length[rows].astype(np.int64)
            ids = block.ids[rows, : lengths.max()].astype(np.int64)
            labels = block.label[rows].astype(np.int64)
            yield torch.from_numpy(ids), torch.from_numpy(lengths), torch.from_numpy(labels)
