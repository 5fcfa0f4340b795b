# SPDX-License-Identifier: Apache-2.0
"""Copies rows out of a split's record batches: one numpy gather per record batch, into a buffer of the caller's."""

from __future__ import annotations

import numpy as np

from harness.data.order import Window
from preprocessing.shards import Split


class Gather:
    """Gathers rows of one window at a time; one instance per thread, since its buffers are reused."""

    def __init__(self, split: Split) -> None:
        """``split`` stays open for as long as this object lives."""
        self.split = split
        self.dtype = split.blocks[0].ids.dtype
        self.window: Window | None = None
        self._scratch = np.empty(0, self.dtype)

    def enter(self, window: Window) -> None:
        """Make the small columns of a window's blocks one array each, so that a batch takes from them at once."""
        if window is self.window:
            return
        blocks = [self.split.blocks[block] for block in window.blocks]
        self.window = window
        self._ids = [block.ids for block in blocks]
        self._starts = [0, *window.ends.tolist()]
        self._length = np.concatenate([block.length for block in blocks], dtype=np.int64)
        self._label = np.concatenate([block.label for block in blocks], dtype=np.int64)
        self._row = np.concatenate([block.row for block in blocks])

    def columns(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Length, label and source row of some places of the window, int64 ``[rows]`` each."""
        return self._length.take(places), self._label.take(places), self._row.take(places)

    def padded(
        self, places: np.ndarray, out: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Copy the rows at some places of the window into the flat buffer ``out`` (rows x widest shard elements).

        Returns ids ``[rows, time]`` (a view of ``out``, cut at the longest row) and the columns, all in the order in
        which the rows lie on disk, which is as good as any inside a micro-batch.
        """
        assert self.window is not None
        places = np.sort(places)
        columns = self.columns(places)
        ends = places.searchsorted(self.window.ends)
        touched = np.flatnonzero(np.diff(ends, prepend=0)).tolist()
        cuts = ends.tolist()
        width = max(self._ids[number].shape[1] for number in touched)
        ids = out[: len(places) * width].reshape(len(places), width)
        first = 0
        for number in touched:
            last, source = cuts[number], self._ids[number]
            inside = places[first:last] - self._starts[number]
            if source.shape[1] == width:
                source.take(inside, 0, ids[first:last], "clip")
            else:
                self._take_narrow(source, inside, ids[first:last])
            first = last
        return ids[:, : int(columns[0].max())], columns

    def _take_narrow(self, source: np.ndarray, inside: np.ndarray, target: np.ndarray) -> None:
        """``target[:, :width] = source[inside]`` by way of whole rows, and zeros behind."""
        width = source.shape[1]
        if self._scratch.size < len(inside) * width:
            self._scratch = np.empty(len(inside) * width, self.dtype)
        scratch = self._scratch[: len(inside) * width].reshape(len(inside), width)
        source.take(inside, 0, scratch, "clip")
        target[:, :width] = scratch
        target[:, width:] = 0


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
