# SPDX-License-Identifier: Apache-2.0
"""Copies rows out of a split's record batches into a buffer of the caller's: one gather per micro-batch."""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import dataclass

import numpy as np
import torch

from harness.data.order import Window
from preprocessing.dataset.shards import Split


@dataclass(frozen=True)
class Columns:
    """What is known of some rows besides their ids; each int64 ``[rows]``."""

    length: np.ndarray
    label: np.ndarray
    row: np.ndarray
    """The rows' numbers in the source."""
    begin: np.ndarray
    """How many ids the row lies behind the start of the span."""
    width: np.ndarray | None
    """Of the shard the row lies in; None: the same for all rows of the window."""


class Gather:
    """Gathers rows wherever their record batches lie in memory.

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
        first = np.array([block.ids.ctypes.data for block in split.blocks], np.int64)
        base = int(first.min())
        self._first = (first - base) // self.itemsize
        assert not ((first - base) % self.itemsize).any()
        last = max(block.ids.ctypes.data + block.ids.nbytes for block in split.blocks)
        span = (ctypes.c_byte * (last - base)).from_address(base)
        self._span = torch.frombuffer(span, dtype=self.narrow)
        self._slices: dict[int, torch.Tensor] = {}

    def columns(self, window: Window, places: np.ndarray) -> Columns:
        """The columns of some places of a window, in their order."""
        places = places.astype(np.int64)  # once: numpy would do it for every column
        blocks = [self.split.blocks[block] for block in window.blocks.tolist()]
        sizes = np.diff(window.ends, prepend=0)
        columns = [[getattr(block, name) for block in blocks] for name in ("length", "label", "row")]
        length, label, row = (np.concatenate(column).take(places).astype(np.int64, copy=False) for column in columns)
        widths = self.split.block_widths[window.blocks]
        width = np.repeat(widths, sizes).take(places) if len(np.unique(widths)) > 1 else None
        origin = self._first[window.blocks] - (window.ends - sizes) * widths
        begin = places * (widths[0] if width is None else width)
        begin += np.repeat(origin, sizes).take(places)
        return Columns(length, label, row, begin, width)

    def copy(self, begin: torch.Tensor, out: torch.Tensor) -> None:
        """Fill ``out`` ``[rows, time]`` with rows that begin at ``begin``, none from a shard narrower than ``time``."""
        time = out.shape[1]
        slices = self._slices.get(time)
        if slices is None:
            slices = self._span.as_strided((len(self._span) - time + 1, time), (1, 1))
            self._slices[time] = slices
        torch.index_select(slices, 0, begin, out=out)

    def copy_mixed(self, begin: torch.Tensor, width: np.ndarray, out: torch.Tensor) -> None:
        """``copy`` for rows of shards of any ``width``; what lies beyond a shard's width becomes 0."""
        time = out.shape[1]
        bounds = [0, *(np.flatnonzero(np.diff(width)) + 1).tolist(), len(width)]
        for first, last in itertools.pairwise(bounds):
            reach = min(time, int(width[first]))
            self.copy(begin[first:last], out[first:last, :reach])
            out[first:last, reach:] = 0


def pack(ids: torch.Tensor, length: np.ndarray, out: torch.Tensor) -> np.ndarray:
    """Write the real tokens of padded ids ``[rows, time]`` to ``out`` ``[tokens]``, as ``pack_padded_sequence`` would.

    Rows come longest first, and ``time`` is the longest ``length``. Returns the batch sizes int64 ``[time]``: how many
    rows are still running at each time step. Steps that all rows reach are one transposed copy; only the few after
    them, where a batch's lengths differ, are picked token by token.
    """
    rows, time = ids.shape
    sizes = rows - np.cumsum(np.bincount(length, minlength=time + 1))[:time]
    common = int(length[-1])
    out[: common * rows].view(common, rows).copy_(ids[:, :common].t())
    if common < time:
        running = torch.from_numpy(np.arange(rows) < sizes[common:, None])
        torch.masked_select(ids[:, common:].t(), running, out=out[common * rows :])
    return sizes
