# SPDX-License-Identifier: Apache-2.0
"""Which rows form step k of epoch e: a pure function that ranks, workers and restarts only slice (law 3).

The rows of a split lie in blocks (record batches). For a seed and an epoch:

1. blocks are permuted and laid end to end, rows inside a block permuted too: a virtual sequence of all rows;
2. the sequence is cut into windows of at most ``window_rows`` rows, at batch boundaries;
3. inside a window rows are sorted by length, blurred by a little seeded noise, and cut into global batches;
4. the batches of a window are permuted.

Batch sizes of an epoch differ by at most one row, so there is no runt. A window is computed from (seed, epoch, window)
alone, so any step is reached without replaying the ones before it, and memory is bounded by the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from preprocessing.errors import ConfigError, DataError

Lengths = Callable[[int], np.ndarray]
"""Gives the lengths ``[rows]`` of a block's rows; called for the blocks of one window only."""


@dataclass(frozen=True, kw_only=True)
class OrderSpec:
    """All that decides an order, besides the dataset."""

    seed: int
    global_batch: int
    window_rows: int = 131_072
    length_noise: float = 0.05
    shuffle: bool = True
    """False: rows keep their place in the dataset and are only sorted inside a window, for evaluation."""


def generator(*key: int) -> np.random.Generator:
    """A random generator that is a function of ``key`` alone, on every machine (Philox is counter-based)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


class Order:
    """The sequence of global batches over the rows of one split."""

    def __init__(self, block_starts: np.ndarray, lengths: Lengths, spec: OrderSpec) -> None:
        """``block_starts``, int64 ``[blocks + 1]``: block ``b`` holds rows ``starts[b]`` to ``starts[b + 1]``."""
        self.spec = spec
        self.block_starts = np.asarray(block_starts, dtype=np.int64)
        self.lengths = lengths
        self.num_rows = int(self.block_starts[-1])
        if self.num_rows == 0:
            raise DataError("the split has no rows, so there is no order over them")
        self.steps_per_epoch = -(-self.num_rows // spec.global_batch)
        largest = max(1, spec.window_rows // spec.global_batch)
        self.num_windows = -(-self.steps_per_epoch // largest)
        self.batches_per_window = -(-self.steps_per_epoch // self.num_windows)
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None
        self._window: tuple[tuple[int, int], list[np.ndarray]] | None = None

    def batch_start(self, number: int) -> int:
        """Where batch ``number`` of an epoch begins in the virtual sequence; near-equal cuts, sizes differ by one."""
        return number * self.num_rows // self.steps_per_epoch

    def batch_rows(self, epoch: int, step: int) -> np.ndarray:
        """Global rows (int64) of one step, longest first. ``step`` counts from 0 within the epoch."""
        assert 0 <= step < self.steps_per_epoch
        number, position = divmod(step, self.batches_per_window)
        return self.window(epoch, number)[position]

    def rank_rows(self, epoch: int, step: int, rank: int, world_size: int) -> np.ndarray:
        """The slice of a step that one process takes: every ``world_size``-th row, so that all see the same lengths."""
        return self.batch_rows(epoch, step)[rank::world_size]

    def window(self, epoch: int, number: int) -> list[np.ndarray]:
        """All global batches of one window, in the order of their steps. The latest window is kept."""
        if self._window is None or self._window[0] != (epoch, number):
            self._window = ((epoch, number), self._compute_window(epoch, number))
        return self._window[1]

    def _compute_window(self, epoch: int, number: int) -> list[np.ndarray]:
        first = number * self.batches_per_window
        last = min(first + self.batches_per_window, self.steps_per_epoch)
        cuts = np.array([self.batch_start(batch) for batch in range(first, last + 1)])
        rows, lengths = self._window_rows(epoch, int(cuts[0]), int(cuts[-1]))
        spread = self.spec.length_noise if self.spec.shuffle else 0.0
        random = generator(self.spec.seed, epoch, 1, number)
        blurred = lengths * (1 + spread * random.uniform(-1, 1, len(rows)))
        by_length = np.argsort(-blurred, kind="stable")
        batches = [by_length[start:stop] for start, stop in zip(cuts[:-1] - cuts[0], cuts[1:] - cuts[0], strict=True)]
        if self.spec.shuffle:
            batches = [batches[i] for i in random.permutation(len(batches))]
        return [rows[batch[np.argsort(-lengths[batch], kind="stable")]] for batch in batches]

    def _window_rows(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Global rows and lengths at positions ``start..stop`` of the epoch's virtual sequence."""
        blocks, ends = self._epoch_blocks(epoch)
        rows, lengths = [], []
        place = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            block = int(blocks[place])
            base, size = int(self.block_starts[block]), int(self.block_starts[block + 1] - self.block_starts[block])
            offset = start - (int(ends[place]) - size)
            count = min(size - offset, stop - start)
            inside = np.arange(offset, offset + count)
            if self.spec.shuffle:
                inside = generator(self.spec.seed, epoch, 2, block).permutation(size)[inside]
            rows.append(base + inside)
            lengths.append(np.asarray(self.lengths(block))[inside])
            start += count
            place += 1
        return np.concatenate(rows), np.concatenate(lengths)

    def _epoch_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks in the epoch's order, and where each of them ends in the virtual sequence."""
        if self._epoch is None or self._epoch[0] != epoch:
            count = len(self.block_starts) - 1
            blocks = generator(self.spec.seed, epoch, 0).permutation(count) if self.spec.shuffle else np.arange(count)
            self._epoch = (epoch, blocks, np.cumsum(np.diff(self.block_starts)[blocks]))
        return self._epoch[1], self._epoch[2]


def micro_batches(batch_rows: int, world_size: int, micro_batch: int | None) -> int:
    """How many micro-batches every rank cuts its slice of a global batch into: the same number on all ranks.

    The slices differ by at most one row; a rank never gets an empty micro-batch. With ``micro_batch=1`` and an uneven
    slice, one micro-batch of the longer slices holds two rows.
    """
    shortest, longest = batch_rows // world_size, -(-batch_rows // world_size)
    if shortest == 0:
        raise ConfigError(f"global_batch: a step of {batch_rows} rows cannot be shared by {world_size} processes")
    return 1 if micro_batch is None else min(shortest, -(-longest // micro_batch))


def row_hash(rows: np.ndarray, step: int) -> int:
    """Hash of the rows that a step consumed, as an unsigned 64-bit number; sums (modulo 2**64) over ranks and steps.

    Adding is order-free, so every split of the rows over ranks and micro-batches gives the same total, while a row that
    is missing, repeated or moved to another step changes it (splitmix64 mixing, Steele et al. 2014).
    """
    mixed = splitmix64(rows.astype(np.uint64) ^ splitmix64(np.full(1, step + 1, np.uint64)))
    return int(np.add.reduce(mixed, dtype=np.uint64))


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The finalizer of the splitmix64 generator, elementwise on uint64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
