# SPDX-License-Identifier: Apache-2.0
"""Which rows form step k of epoch e: a pure function (law 3). Ranks and restarts only take slices of it.

The rows of a split lie in blocks (record batches), and each block in a shard of some width. For a seed and an epoch:

1. Blocks are permuted, those of each width evenly spread, and concatenated: a virtual sequence of all rows, in which
   lengths have no trend.
2. The sequence is cut into windows of at most ``window_rows`` rows, at batch boundaries. If a window ends inside a
   block, a permutation of the block's rows decides which rows it takes.
3. Inside a window rows are sorted by length, blurred by a little seeded noise, and cut into global batches.
4. The batches of a window are permuted: of several permutations, by the one with the least correlation between the
   lengths of neighbouring batches.

Batch sizes of an epoch differ by at most one row, so the last batch is not a small remainder. A window is computed from
(seed, epoch, window) alone, so any step is reached directly, and memory is bounded by the window. Random numbers are
raw words of Philox and splitmix64, which stay the same in every version of numpy.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from harness.config import OrderConfig
from padless.core.randomness import permutation, words

if TYPE_CHECKING:
    from preprocessing.dataset.shards import Split

VERSION = 2
"""Changes when other rows form a step; stored in checkpoints. Version 1 drew one permutation of batches."""
WINDOW_ROWS = 131_072
"""A larger window means less padding and more memory."""
MAX_PERMUTATIONS, MAX_PERMUTED_BATCHES = 64, 4096
"""Limits for the permutations drawn per window: their number, and the number of batches in all of them together."""

Lengths = Callable[[int], np.ndarray]
"""A function from a block's number to the lengths ``[rows]`` of its rows. A window calls it for its own blocks only."""


@dataclass(frozen=True, kw_only=True)
class OrderSpec:
    """All parameters of an order, besides the dataset."""

    seed: int
    global_batch: int
    """Maximum rows of a step over all ranks."""
    window_rows: int = WINDOW_ROWS
    """Rows that are sorted by length together."""
    length_noise: float = OrderConfig.length_noise
    shuffle: bool = True
    """False for evaluation: blocks keep their order, and rows are only sorted inside a window."""


def steps_over(rows: int, global_batch: int) -> int:
    """Steps of an epoch over so many rows; their sizes differ by at most one row."""
    return -(-rows // global_batch)


@dataclass(frozen=True)
class Window:
    """The global batches of one window.

    The *place* of a row is its index in the concatenated blocks of the window.
    """

    first_step: int
    blocks: np.ndarray
    """int64 ``[blocks]``: the blocks that have rows in the window, some of them only in part."""
    ends: np.ndarray
    """int64 ``[blocks]``: the place after each block's last row."""
    places: np.ndarray
    """int32 ``[rows]``: batch after batch in the order of steps, longest row first within a batch."""
    lengths: np.ndarray
    """int32 ``[rows]``: of the rows at ``places``."""
    cuts: np.ndarray
    """int64 ``[steps + 1]``: batch ``i`` is ``places[cuts[i] : cuts[i + 1]]``."""

    @property
    def next_step(self) -> int:
        """The step after the window's last one."""
        return self.first_step + len(self.cuts) - 1

    def batch(self, step: int) -> slice:
        """One step's part of ``places`` and ``lengths``; ``step`` counts from the start of the epoch."""
        return slice(*self.cuts[step - self.first_step : step - self.first_step + 2])


class Order:
    """The sequence of global batches over the rows of one split."""

    def __init__(self, block_starts: np.ndarray, lengths: Lengths, spec: OrderSpec, block_widths: np.ndarray) -> None:
        """``block_starts``, int64 ``[blocks + 1]``: block ``b`` holds rows ``starts[b]`` to ``starts[b + 1]``.

        ``block_widths``, ``[blocks]``: width of each block's shard.
        """
        self.spec = spec
        self.lengths = lengths
        self.block_starts, self.block_widths = block_starts, block_widths
        self.num_rows = int(block_starts[-1])
        self.steps_per_epoch = steps_over(self.num_rows, spec.global_batch)
        self.largest_step = -(-self.num_rows // self.steps_per_epoch)
        self.num_windows = -(-self.num_rows // max(spec.window_rows - self.largest_step, self.largest_step))
        self.order_blocks = lru_cache(maxsize=2)(self._order_blocks)
        self.compute_window = lru_cache(maxsize=2)(self._compute_window)

    def window(self, epoch: int, step: int) -> Window:
        """The window with a step of an epoch, from 0."""
        assert 0 <= step < self.steps_per_epoch
        return self.compute_window(epoch, bisect.bisect_right(range(self.num_windows), step, key=self.first_step) - 1)

    def first_step(self, window: int) -> int:
        """The step at which a window begins; ``num_windows`` gives the steps of an epoch."""
        return window * self.steps_per_epoch // self.num_windows

    def _compute_window(self, epoch: int, number: int) -> Window:
        places_by_block, block_numbers = [], []
        steps = range(self.first_step(number), self.first_step(number + 1) + 1)
        offset, begins = 0, [step * self.num_rows // self.steps_per_epoch for step in steps]
        for block, rows_in_block in self.stretch(epoch, begins[0], begins[-1]):
            places_by_block.append(offset + rows_in_block)
            block_numbers.append(block)
            offset += int(self.block_starts[block + 1] - self.block_starts[block])
        blocks, places = np.array(block_numbers, np.int64), np.concatenate(places_by_block)
        ends = np.cumsum(self.block_starts[blocks + 1] - self.block_starts[blocks])
        block_lengths = [np.asarray(self.lengths(block), np.int32) for block in block_numbers]
        lengths = np.concatenate(block_lengths).take(places)
        by_step, cuts = self._batches(epoch, number, lengths, np.diff(begins))
        return Window(
            first_step=self.first_step(number),
            blocks=blocks,
            ends=ends,
            places=places[by_step].astype(np.int32),
            lengths=lengths[by_step],
            cuts=cuts,
        )

    def _batches(
        self, epoch: int, number: int, lengths: np.ndarray, sizes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """A window's rows in the order of its steps, as indices into ``lengths``; and ``cuts``, as in ``Window``.

        ``sizes`` ``[steps]``: rows of each batch. Sort keys have 16 bits, which numpy sorts by radix.
        """
        num_words = len(sizes) * max(1, min(MAX_PERMUTATIONS, MAX_PERMUTED_BATCHES // len(sizes)))
        random = words(self.spec.seed, epoch, 1, number, count=num_words + -(-len(lengths) // 4))
        keys = self._blur(lengths, random[num_words:].view(np.uint16)[: len(lengths)])
        by_length = np.argsort(~keys, kind="stable")  # the longest first; equal ones keep their order
        batches = np.arange(len(sizes))
        if self.spec.shuffle:
            mean = np.add.reduceat(lengths[by_length], np.cumsum(sizes) - sizes) / sizes
            batches = least_trend(mean, np.argsort(random[:num_words].reshape(-1, len(sizes)), kind="stable"))
        step_by_row = np.empty(len(lengths), np.int32)
        step_by_row[by_length] = np.repeat(np.argsort(batches), sizes)
        by_step = np.lexsort((-lengths, step_by_row))  # the longest first within a step; equal ones keep their order
        return by_step, np.concatenate(([0], np.cumsum(sizes[batches])))

    def _blur(self, lengths: np.ndarray, random: np.ndarray) -> np.ndarray:
        """uint16 sort keys: each length times 1 ± noise, plus less than one token, so that equal lengths mix too."""
        if not self.spec.shuffle:
            return lengths
        noise = self.spec.length_noise
        share = random / 65536.0
        keys = share * (2 * noise)
        keys += 1 - noise
        keys *= lengths
        keys += share
        keys *= 65535.0 / (float(lengths.max()) * (1 + noise) + 1)
        return keys.astype(np.uint16)

    def stretch(self, epoch: int, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks at positions ``start..stop`` of the virtual sequence, each with its rows in that range."""
        blocks, ends = self.order_blocks(epoch)
        index = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            block = int(blocks[index])
            size = int(self.block_starts[block + 1] - self.block_starts[block])
            offset = start - (int(ends[index]) - size)
            count = min(size - offset, stop - start)
            rows = np.arange(offset, offset + count)
            if self.spec.shuffle and count < size:
                rows = permutation(size, self.spec.seed, epoch, 2, block)[rows]
            yield block, rows
            start += count
            index += 1

    def _order_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in the epoch's order, and the end of each block in the virtual sequence."""
        sizes = np.diff(self.block_starts)
        blocks = np.flatnonzero(sizes)
        if self.spec.shuffle:
            blocks = blocks[spread_groups(self.block_widths[blocks], self.spec.seed, epoch, 0, 0)]
        return blocks, np.cumsum(sizes[blocks])


def order_over(split: Split, spec: OrderSpec) -> Order:
    """The order of an open split's rows; each block is checked when a window first contains it."""
    return Order(split.block_starts, lambda block: split.blocks[block].length, spec, split.block_widths)


def spread_groups(groups: np.ndarray, *key: int) -> np.ndarray:
    """A random permutation of ``arange(n)`` in which the members of each group are spaced evenly, with jitter.

    ``groups`` ``[n]``: the group of each member; ``key`` seeds the permutation.
    """
    random = words(*key, count=2 * len(groups)).reshape(2, -1)
    shuffled = np.argsort(random[0], kind="stable")
    by_group = shuffled[np.argsort(groups[shuffled], kind="stable")]
    _, starts, counts = np.unique(groups[by_group], return_index=True, return_counts=True)
    ranks = np.arange(len(groups)) - np.repeat(starts, counts)
    jitter = (random[1] >> np.uint64(11)) * 2.0**-53
    return by_group[np.argsort((ranks + jitter) / np.repeat(counts, counts), kind="stable")]


def least_trend(values: np.ndarray, permutations: np.ndarray) -> np.ndarray:
    """The one of ``permutations`` ``[candidates, n]`` of ``values`` ``[n]`` with the least lag-1 autocorrelation.

    A single random permutation of a few dozen values has an autocorrelation of about ±0.15.
    """
    ordered = (values - values.mean())[permutations]
    return permutations[np.abs((ordered[:, :-1] * ordered[:, 1:]).sum(axis=1)).argmin()]
