# SPDX-License-Identifier: Apache-2.0
"""Which rows of a step a process takes, and how they are split into micro-batches: pure functions of numbers."""

from __future__ import annotations

import numpy as np

from harness.data.order import Window


class RankSlice:
    """The rows of one process in some steps of a window, concatenated, and their split into micro-batches."""

    def __init__(
        self, window: Window, steps: range, rank: int, world_size: int, micro_batch: int | None, *, trains: bool
    ) -> None:
        """In training all processes have the same number of micro-batches in each step, of at most ``micro_batch``
        rows. In evaluation a process has one micro-batch per step, and none in a step without its rows.
        """
        begins = window.cuts[steps.start - window.first_step : steps.stop - window.first_step + 1]
        self.begins = begins
        """int64 ``[steps + 1]``: start of each step's rows, of all processes, in ``window.places``."""
        sizes = np.diff(begins)
        rank_sizes = (sizes - rank + world_size - 1) // world_size
        rows: slice | np.ndarray = slice(begins[0], begins[-1])
        if world_size > 1:
            rows = np.repeat(begins[:-1] + rank, rank_sizes) + world_size * count_up(rank_sizes)
        self.places, self.lengths = window.places[rows], window.lengths[rows].astype(np.int64)
        self.global_rows: list[int] = sizes.tolist()
        if trains:
            count_by_size = {size: micro_batches(size, world_size, micro_batch) for size in set(sizes.tolist())}
            counts = np.array([count_by_size[size] for size in self.global_rows])
        else:
            counts = np.minimum(rank_sizes, 1)
        self.bounds: list[int] = [0, *np.cumsum(counts).tolist()]
        """Step ``i`` has the micro-batches from ``bounds[i]`` to below ``bounds[i + 1]``."""
        rows_of_step, counts_of_step = np.repeat(rank_sizes, counts), np.repeat(counts, counts)
        self.rows = rows_of_step // counts_of_step + (count_up(counts) < rows_of_step % counts_of_step)
        """int64 ``[micro-batches]``: rows of each; within a step they differ by at most one."""


def count_up(sizes: np.ndarray) -> np.ndarray:
    """``0, 1, …, size - 1`` for each of the ``sizes``, concatenated."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def micro_batches(batch_rows: int, world_size: int, micro_batch: int | None) -> int:
    """Number of micro-batches of each rank's slice of a global batch; the same on all ranks.

    The slices of ranks differ by at most one row, and no micro-batch is empty. With ``micro_batch=1`` and slices of two
    sizes, one micro-batch of each longer slice holds two rows. A step has a row for each rank (``check_fit``).
    """
    shortest, longest = batch_rows // world_size, -(-batch_rows // world_size)
    assert shortest, "checked before"
    return 1 if micro_batch is None else min(shortest, -(-longest // micro_batch))
