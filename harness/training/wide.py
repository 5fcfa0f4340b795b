# SPDX-License-Identifier: Apache-2.0
"""Training of the wide part: ranks exchange the gradients of their rows, and all take the same step.

Rows of a TF-IDF matrix have norm 1 and the loss is convex, so plain gradient descent with a large learning rate that
decays to zero is enough, without optimizer state. It needs no clipping, since a row's gradient is at most its label's
weight, and no weight average, since the last steps are small. It needs warm-up: with many features per row, large first
steps would leave the influence of the first batches in the table to the end.
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
        """Update the table with the gradients of all ranks; no change if ``skip`` is 1."""
        mine = join(touched)
        if self.world.world_size > 1:
            rows = sum(-(-rows // self.world.world_size) for rows in (batch.global_rows, batch.global_unlabelled_rows))
            mine = self.exchange(mine, rows, self.wide.num_places(batch.longest))
        rate = (1 - skip.to(self.wide.table.dtype)) * (lr / batch.global_rows)
        self.wide.update(mine, rate)

    def exchange(self, mine: TableGradient, rows: int, places: int) -> TableGradient:
        """All ranks' gradients, in rank order, in one collective; a rank has at most ``rows`` rows of ``places``.

        All messages have the same size, known to every rank, so the host does not wait for the device. Ranks send
        features, not table rows: a feature is two numbers, a table row has one per class.
        """
        kind = torch.int32 if mine.value.dtype == torch.float32 else torch.int64  # as wide as the floats sent with it
        own, held = mine.value.shape
        message = torch.zeros(rows, 2 * places + mine.error.shape[1], dtype=kind, device=mine.value.device)
        message[:own, :held] = mine.bucket
        message[:own, places : places + held] = mine.value.view(kind)
        message[:own, 2 * places :] = mine.error.view(kind)
        every = self.world.gather_on_device(message, "what the wide part learned")
        bucket, value, error = every.split([places, places, mine.error.shape[1]], dim=1)
        return TableGradient(bucket.to(torch.int64), value.view(mine.value.dtype), error.view(mine.error.dtype))


def wide_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total_steps``: warm-up, then linear decay to zero."""
    climbing = config.wide_warmup * total_steps
    return config.wide_lr * (1 - step / total_steps) * min(1.0, (step + 1) / max(1.0, climbing))


COUNTED_ROWS = 200_000
"""Feature frequencies are counted on at most this many rows of a split, spread evenly."""
PIECE_TOKENS = 1 << 18
SLOTS_A_BUCKET, MOST_SLOTS = 1 << 3, 1 << 25
"""Width of the sketch that finds the most frequent n-gram of each bucket; at most 256 MiB, temporarily."""


def count_features(
    wide: WidePart,
    split: Split,
    num_classes: int,
    world: World,
    unlabelled: Split | None = None,
    weighing: Weighing = USUAL,
) -> None:
    """Set feature weights from the number of training rows with each feature, and the owners of buckets if used.

    With ``unlabelled`` rows, the frequency of features is counted over both. The association with labels comes from
    labelled rows alone: soft labels add nothing that their teacher did not know.
    """
    sources = [split] if unlabelled is None else [split, unlabelled]
    counter = WidePart(wide.buckets, 1, wide.longest, wide.tail)  # counts rows, not occurrences
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
    """int32 ``[buckets]`` on the CPU: for each bucket, the name (lower key bits) of its n-gram with the most rows, if
    these are at least ``min_rows``.

    Rows are counted in a count-min sketch (Cormode and Muthukrishnan, 2005), since most n-grams occur only once: each
    n-gram has two counters, and the lower one is the estimate. Ties go to the largest name.
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
    """This rank's share of the counted rows of a split, as ``pieces`` yields them."""
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
