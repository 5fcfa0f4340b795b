# SPDX-License-Identifier: Apache-2.0
"""How the wide part learns: ranks exchange what their rows touched, and each makes the same step on those rows alone.

Rows of a TF-IDF matrix have length 1 and the loss is convex, so plain gradient descent with a large rate that falls to
zero is enough, and there is no state beside the table. It needs no clipping, since a row's gradient is at most its
label's weight, and no average, since its last steps are small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from harness.batch import StepBatch
from harness.model.wide import Touched, WidePart, join
from harness.ranks.distributed import World
from preprocessing.dataset.shards import Split

COUNTED_ROWS = 200_000
"""Training rows, spread evenly, of which the frequencies of features are counted."""
PIECE_TOKENS = 1 << 18


class WideDescent:
    """Gradient descent on the table of a wide part."""

    def __init__(self, wide: WidePart, lr: float, world: World) -> None:
        """``lr`` is the rate at the first step."""
        self.wide, self.lr, self.world = wide, lr, world

    @torch.no_grad()
    def step(self, touched: Sequence[Touched], batch: StepBatch, progress: float, skip: torch.Tensor) -> None:
        """Learn from this rank's micro-batches and those of all others; nothing where ``skip`` is 1.

        ``progress`` is the share of all steps that are behind.
        """
        rate = (1 - skip.to(self.wide.table.dtype)) * (self.lr * (1 - progress) / batch.global_rows)
        self.wide.update(self.exchange(join(touched)), rate)

    def exchange(self, mine: Touched) -> Touched:
        """What all ranks touched, in the order of ranks. Features travel, not rows of the table: a feature is two
        numbers, a row of the table as many as there are classes.
        """
        if self.world.world_size == 1:
            return mine
        messages = self.world.gather_on_device(as_message(mine), "what the wide part learned")
        return join(from_message(message, mine.error) for message in messages)


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


@dataclass(frozen=True)
class Beside:
    """Unlabelled rows whose features are counted beside those of the training rows."""

    split: Split
    targets: np.ndarray | None = None
    """Their soft labels, as a ``Loader`` takes them, if these say what a feature tells too; None: labels alone do."""


def count_features(wide: WidePart, split: Split, num_classes: int, world: World, beside: Beside | None = None) -> None:
    """Set the weights of features by how many training rows have them; every rank counts a share of the rows.

    With rows ``beside`` them, how rare a feature is is counted over both, and so is which features there are.
    """
    if beside is not None:
        count_both(wide, split, num_classes, world, beside)
        return
    every = -(-len(split) // COUNTED_ROWS)
    here = wide.weights.device
    counter = WidePart(wide.buckets, 1)  # counts on the CPU, where the rows are
    rows_with = torch.zeros(wide.buckets, num_classes, dtype=torch.int64)
    rows = 0
    for ids, lengths, labels, _ in pieces(split, every * world.world_size, every * world.rank):
        rows_with += counter.count(ids, lengths, labels, num_classes)
        rows += len(ids)
    counts = torch.cat((rows_with.view(-1), torch.tensor([rows]))).to(here)
    world.sum_on_device(counts, "the frequencies of words and pairs")
    wide.set_weights(counts[:-1].view(wide.buckets, num_classes), int(counts[-1]))


def count_both(wide: WidePart, split: Split, num_classes: int, world: World, beside: Beside) -> None:
    """``count_features`` over labelled and unlabelled rows, of each at most ``COUNTED_ROWS``.

    The linear model that soft labels came from may be no better than this one: what its probabilities say of a word is
    then what it knew already, so that ratios of labelled rows alone are what is asked for unless told otherwise.
    """
    counter = WidePart(wide.buckets, 1)
    rows_with = torch.zeros(wide.buckets, num_classes, dtype=torch.float64)
    total = torch.zeros(wide.buckets, dtype=torch.float64)
    rows = 0
    for source in (split, beside.split):
        every = -(-len(source) // COUNTED_ROWS)
        for ids, lengths, labels, places in pieces(source, every * world.world_size, every * world.rank):
            rows += len(ids)
            if source is split:
                counts = counter.count(ids, lengths, labels, num_classes).to(torch.float64)
                rows_with += counts
                total += counts.sum(1)
                continue
            total += counter.count(ids, lengths, torch.zeros_like(labels), 1)[:, 0]
            if beside.targets is not None:
                chances = torch.from_numpy(beside.targets[places]).to(torch.float64)
                both = chances if chances.dim() > 1 else torch.stack((1 - chances, chances), 1)
                rows_with += counter.count_soft(ids, lengths, both)
    sums = torch.cat((rows_with.view(-1), total, torch.tensor([rows], dtype=torch.float64))).to(wide.weights.device)
    world.sum_on_device(sums, "the frequencies of words and pairs")
    by_label, total = sums[: rows_with.numel()].view_as(rows_with), sums[rows_with.numel() : -1]
    wide.set_weights(by_label, int(sums[-1]), total)


def pieces(
    split: Split, every: int, first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]]:
    """Ids int64 ``[rows, time]``, lengths, labels, global rows of one row in ``every`` from ``first`` on, in pieces."""
    seen = 0
    for block in split.blocks:
        begin = seen
        chosen = np.arange((first - seen) % every, len(block.row), every)
        seen += len(block.row)
        size = max(1, PIECE_TOKENS // block.ids.shape[1])
        for start in range(0, len(chosen), size):
            rows = chosen[start : start + size]
            lengths = block.length[rows].astype(np.int64)
            ids = block.ids[rows, : lengths.max()].astype(np.int64)
            labels = block.label[rows].astype(np.int64)
            yield torch.from_numpy(ids), torch.from_numpy(lengths), torch.from_numpy(labels), begin + rows
