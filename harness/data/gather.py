# SPDX-License-Identifier: Apache-2.0
"""Copies rows out of a split's record batches into a buffer of the caller's: one gather per shard width and batch."""

from __future__ import annotations

import ctypes

import numpy as np
import torch

from harness.data.order import Window
from preprocessing.shards import Split

LENGTH, LABEL, ROW, BEGIN = range(4)
"""Columns of a window's table: one line of it is half a cache line, so a row costs one miss."""


class Gather:
    """Gathers rows of one window at a time, wherever their record batches lie in memory.

    One tensor spans the addresses of all record batches, those in between too: a row is then its distance from the
    start, and one ``index_select`` over overlapping slices ``[n, time]`` with strides ``(1, 1)`` copies the rows of a
    batch out of any number of mapped shards, and of each row no more than the batch's longest one needs. Nothing but
    the rows asked for is ever read.
    """

    def __init__(self, split: Split) -> None:
        """``split`` stays open for as long as this object lives."""
        self.split = split
        self.narrow = torch.int16 if split.blocks[0].ids.dtype == np.uint16 else torch.int32
        self.itemsize = split.blocks[0].ids.itemsize
        self.window: Window | None = None
        first = np.array([block.ids.ctypes.data for block in split.blocks], np.int64)
        self._base = int(first.min())
        self._first = (first - self._base) // self.itemsize
        assert not ((first - self._base) % self.itemsize).any()
        last = max(block.ids.ctypes.data + block.ids.nbytes for block in split.blocks)
        span = (ctypes.c_byte * (last - self._base)).from_address(self._base)
        self._span = torch.frombuffer(span, dtype=self.narrow)
        self._size = len(self._span)

    def enter(self, window: Window) -> None:
        """Make the small columns of a window's blocks one array each, so that a batch takes from them at once."""
        if window is self.window:
            return
        blocks = [self.split.blocks[block] for block in window.blocks]
        self.window = window
        self._columns = np.empty((int(window.ends[-1]), 4), np.int64)
        begins = zip(window.ends.tolist(), self._first[window.blocks].tolist(), blocks, strict=True)
        for end, begin, block in begins:
            table = self._columns[end - len(block.row) : end]
            table[:, LENGTH], table[:, LABEL], table[:, ROW] = block.length, block.label, block.row
            table[:, BEGIN] = begin + np.arange(len(block.row)) * block.ids.shape[1]
        widths = self.split.block_widths[window.blocks]
        mixed = len(np.unique(widths)) > 1
        self._width = np.repeat(widths, np.diff(window.ends, prepend=0)) if mixed else None

    def columns(self, places: np.ndarray) -> np.ndarray:
        """int64 ``[4, rows]``: length, label, source row and begin in the span of some places of the window."""
        return np.ascontiguousarray(self._columns.take(places, axis=0).T)

    def padded(self, places: np.ndarray, out: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
        """Copy the rows at some places of the window into the flat buffer ``out`` (rows x widest shard elements).

        Returns narrow ids ``[rows, time]``, a view of ``out``, as long as the longest row, and the columns, all in the
        order in which the rows lie on disk, which is as good as any inside a micro-batch.
        """
        assert self.window is not None
        places = np.sort(places)
        widths = None if self._width is None else self._width.take(places)
        if widths is not None and widths.min() < widths.max():
            by_width = np.argsort(widths, kind="stable")
            places, widths = places[by_width], widths[by_width]
        columns = self.columns(places)
        time, rows = int(columns[LENGTH].max()), len(places)
        ids = out[: rows * time].view(rows, time)
        index = torch.from_numpy(columns[BEGIN])
        if widths is None or widths[0] >= time:
            self._take(index, ids)
            return ids, columns
        first = 0
        for width in np.unique(widths).tolist():
            last = int(np.searchsorted(widths, width, side="right"))
            self._take(index[first:last], ids[first:last, :width])
            ids[first:last, width:] = 0
            first = last
        return ids, columns

    def _take(self, index: torch.Tensor, out: torch.Tensor) -> None:
        """Rows that begin at ``index`` elements from the start of the span, as far as ``out`` is wide."""
        time = out.shape[1]
        slices = self._span.as_strided((self._size - time + 1, time), (1, 1))
        torch.index_select(slices, 0, index, out=out)


def pack(ids: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Time-major real tokens of a padded array, as ``pack_padded_sequence`` would order them.

    Returns the permutation that sorts rows longest first, the packed ids ``[tokens]`` and the batch sizes ``[time]``.
    """
    longest_first = np.argsort(-length, kind="stable")
    ended = np.cumsum(np.bincount(length, minlength=ids.shape[1] + 1))
    sizes = len(length) - ended[: ids.shape[1]]
    time_of = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(time_of)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return longest_first, ids[longest_first[place], time_of], sizes
