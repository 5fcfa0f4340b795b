# SPDX-License-Identifier: Apache-2.0
"""Micro-batches: which rows of a window form one, and how it gets to the device.

Rows of this process, their lengths, labels and memory addresses are computed once per window. A step then costs one
gather and a few views.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from harness.batch import Batch, Layout, Masks, PackedIndex, StepBatch, send
from harness.data.order import Window, micro_batches
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import Split


class RankSlice:
    """The rows of one process in some steps of a window, concatenated, and their split into micro-batches."""

    def __init__(
        self, window: Window, steps: range, *, rank: int, world_size: int, micro_batch: int | None, even: bool
    ) -> None:
        """``even``: all processes have the same number of micro-batches in each step; raises ``ConfigError`` as
        ``micro_batches`` does. Otherwise a process has one micro-batch per step, and none in a step without its rows.
        """
        self.steps = steps
        begins = window.cuts[steps.start - window.first_step : steps.stop - window.first_step + 1]
        self.begins = begins
        """int64 ``[steps + 1]``: start of each step's rows, of all processes, in ``window.places``."""
        sizes = np.diff(begins)
        own = (sizes - rank + world_size - 1) // world_size
        if world_size == 1:
            self.places = window.places[begins[0] : begins[-1]]
        else:
            within = np.arange(own.sum()) - np.repeat(np.cumsum(own) - own, own)
            self.places = window.places[np.repeat(begins[:-1] + rank, own) + world_size * within]
        self.global_rows: list[int] = sizes.tolist()
        if even:
            known = {size: micro_batches(size, world_size, micro_batch) for size in set(self.global_rows)}
            counts = np.array([known[size] for size in self.global_rows])
        else:
            counts = np.minimum(own, 1)
        self.ends: list[int] = np.cumsum(counts).tolist()
        """For each step: the number of its last micro-batch plus one."""
        step_of = np.repeat(np.arange(len(sizes)), counts)
        turn = np.arange(len(step_of)) - np.repeat(np.cumsum(counts) - counts, counts)
        self.rows = own[step_of] // counts[step_of] + (turn < own[step_of] % counts[step_of])
        """int64 ``[micro-batches]``: rows of each; within a step they differ by at most one."""

    def numbers(self, step: int) -> range:
        """The numbers of a step's micro-batches."""
        place = step - self.steps.start
        return range(self.ends[place - 1] if place else 0, self.ends[place])


def lengths_of(split: Split, window: Window, places: np.ndarray) -> np.ndarray:
    """int64 ``[places]``: lengths of rows of a window, also of other processes' rows."""
    lengths = np.concatenate([split.blocks[block].length for block in window.blocks.tolist()])
    return lengths.take(places).astype(np.int64)


class Buffer:
    """A buffer for the ids of one group of steps; on CUDA pinned, and reused once its copy to the device is done."""

    def __init__(self, elements: int, dtype: torch.dtype, pinned: bool) -> None:
        """Unless pinned, pages that are never written take no memory."""
        self.flat = torch.empty(elements, dtype=dtype, pin_memory=pinned)
        self.copied: torch.cuda.Event | None = None


class Assembler:
    """Turns places of a window into batches on the device, with reused buffers.

    One tensor covers the whole address range of a window's mapped record batches, so a row is an offset in it. One
    ``index_select`` over overlapping slices ``[n, time]`` with strides ``(1, 1)`` copies the rows of a batch out of any
    number of shards, each row only up to the longest length of the batch. No other memory is read.
    """

    def __init__(
        self,
        split: Split,
        layout: Layout,
        device: torch.device,
        *,
        buffers: int,
        group_elements: int,
        step_elements: int,
        targets: np.ndarray | None = None,
        masks: Callable[[int, Batch], Masks | None] | None = None,
    ) -> None:
        """``buffers``: maximum number of groups of steps in use at once, each of at most ``group_elements`` ids.

        ``step_elements``: maximum number of ids of a step. ``targets`` and ``masks``: as for a ``Loader``. ``split``
        must stay open while this object exists. Create it in the thread that uses it, outside inference mode.
        """
        self.split, self.layout, self.device, self.all_targets, self.masks = split, layout, device, targets, masks
        self.labelled, on_cuda = split.name != UNLABELLED, device.type == "cuda"
        self.dtype = dtype = torch.int16 if split.manifest.id_dtype == "uint16" else torch.int32
        self.buffers = [Buffer(group_elements, dtype, on_cuda) for _ in range(buffers)]
        self.scratch = torch.empty(step_elements if layout == "packed" else 0, dtype=dtype)
        self.stream = torch.cuda.Stream(device) if on_cuda else None

    def enter(self, window: Window, share: RankSlice) -> None:
        """Prepare everything about a window's rows except their ids."""
        places = share.places.astype(np.int64)  # once; else numpy converts it for every column
        self.blocks = blocks = [self.split.blocks[block] for block in window.blocks.tolist()]  # keeps them mapped
        first = np.array([block.ids.ctypes.data for block in blocks], np.int64)
        base, last = int(first.min()), max(block.ids.ctypes.data + block.ids.nbytes for block in blocks)
        assert not ((first - base) % self.dtype.itemsize).any()
        self.span = torch.frombuffer((ctypes.c_byte * (last - base)).from_address(base), dtype=self.dtype)
        self.slices: dict[int, torch.Tensor] = {}
        columns = [[getattr(block, name) for block in blocks] for name in ("length", "label", "row")]
        length, label, row = (np.concatenate(column).take(places).astype(np.int64, copy=False) for column in columns)
        rows_of_block, widths = np.diff(window.ends, prepend=0), self.split.block_widths[window.blocks]
        width = np.repeat(widths, rows_of_block).take(places)
        origin = (first - base) // self.dtype.itemsize - (window.ends - rows_of_block) * widths
        begin = places * width + np.repeat(origin, rows_of_block).take(places)
        ends = np.cumsum(share.rows)
        starts = ends - share.rows
        sizes = share.rows.tolist()
        pieces = [slice(*both) for both in zip(starts.tolist(), ends.tolist(), strict=True)]
        longest = length[starts]
        self.time: list[int] = longest.tolist()
        self.rows = [row[piece] for piece in pieces]
        self.lengths = torch.from_numpy(length).split(sizes)
        self.begin = torch.from_numpy(begin).split(sizes)
        narrowest = np.minimum.reduceat(width, starts) if len(starts) else starts
        self.width = {n: width[pieces[n]] for n in np.flatnonzero(narrowest < longest).tolist()}
        """Shard width of each row, for micro-batches with a shard narrower than their longest row."""
        with self._on_stream():
            labels, lengths = send(torch.from_numpy(np.stack((label, length))), self.device)
            if self.all_targets is not None:
                own = torch.from_numpy(self.all_targets[window.rows(share.places)])
                self.targets = send(own, self.device).split(sizes)
        self.labels, self.sent_lengths = labels.split(sizes), lengths.split(sizes)

    def _on_stream(self) -> AbstractContextManager[object]:
        """On CUDA: copies inside the block overlap with training, in the order of the calls."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def __call__(self, buffer: Buffer, steps: Mapping[int, int]) -> tuple[list[Batch], torch.cuda.Event | None]:
        """Micro-batches of the window, and the event of their copy to the device. ``steps``: number of the micro-batch
        -> its optimizer step.
        """
        if buffer.copied is not None:
            buffer.copied.synchronize()
        with self._on_stream():
            batches = list(self._gathered(buffer, steps))
            if self.device.type != "cpu":  # one copy for the whole group
                used = sum(batch.ids.numel() for batch in batches)
                flat = buffer.flat[:used].to(self.device, non_blocking=True)
                for batch in batches:
                    batch.ids = flat.as_strided(batch.ids.shape, batch.ids.stride(), batch.ids.storage_offset())
            for batch, step in zip(batches, steps.values(), strict=True):
                batch.masks = None if self.masks is None else self.masks(step, batch)
            if self.stream is not None:
                buffer.copied = torch.cuda.Event()
                buffer.copied.record(self.stream)
        return batches, buffer.copied

    def _gathered(self, buffer: Buffer, numbers: Iterable[int]) -> Iterator[Batch]:
        used = 0
        for number in numbers:
            lengths, time = self.lengths[number], self.time[number]
            rows = len(lengths)
            sizes = None
            if self.layout == "padded":
                ids = buffer.flat.as_strided((rows, time), (time, 1), used)
                self._copy(number, ids)
            else:
                padded = self.scratch.as_strided((rows, time), (time, 1))
                self._copy(number, padded)
                ids = buffer.flat[used : used + int(lengths.sum())]
                sizes = torch.from_numpy(pack(padded, lengths.numpy(), ids))
            used += ids.numel()
            targets = None if self.all_targets is None else self.targets[number]
            about = (lengths, self.labels[number], self.rows[number], sizes, self.sent_lengths[number], targets)
            index = None if sizes is None else PackedIndex.of(lengths, self.device)
            yield Batch(ids, *about, labelled=self.labelled, index=index)

    def _copy(self, number: int, out: torch.Tensor) -> None:
        """Fill ``out`` ``[rows, time]`` with a micro-batch, with zeros beyond a shard's width."""
        begin, width = self.begin[number], self.width.get(number)
        if width is None:
            self._copy_rows(begin, out)
            return
        time = out.shape[1]
        bounds = [0, *(np.flatnonzero(np.diff(width)) + 1).tolist(), len(width)]
        for first, last in itertools.pairwise(bounds):
            reach = min(time, int(width[first]))
            self._copy_rows(begin[first:last], out[first:last, :reach])
            out[first:last, reach:] = 0

    def _copy_rows(self, begin: torch.Tensor, out: torch.Tensor) -> None:
        time = out.shape[1]
        slices = self.slices.get(time)
        if slices is None:
            slices = self.slices[time] = self.span.as_strided((len(self.span) - time + 1, time), (1, 1))
        torch.index_select(slices, 0, begin, out=out)


def hand_over(step: StepBatch) -> None:
    """On CUDA: make the training stream wait for the copy, and keep the batch's memory while that stream uses it."""
    if step.copied is None or not step.micro_batches:
        return
    stream = torch.cuda.current_stream(step.micro_batches[0].ids.device)
    stream.wait_event(step.copied)
    for batch in step.micro_batches:
        masks, index = batch.masks or Masks(), batch.index
        tensors = [batch.ids, batch.labels, batch.device_lengths, batch.targets, masks.unknown, *masks.keep.values()]
        for tensor in [*tensors, None if index is None else index.row]:  # a view stands for all of its memory
            if tensor is not None:
                tensor.record_stream(stream)


def pack(ids: torch.Tensor, length: np.ndarray, out: torch.Tensor) -> np.ndarray:
    """Write the real tokens of padded ids ``[rows, time]`` to ``out`` ``[tokens]``, as ``pack_padded_sequence`` would.

    Rows are sorted longest first, and ``time`` is the longest ``length``. Returns the batch sizes int64 ``[time]``: the
    number of rows with a token at each time step. Time steps that all rows reach are one transposed copy; the few
    others are selected by a mask.
    """
    rows, time = ids.shape
    sizes = rows - np.cumsum(np.bincount(length, minlength=time + 1))[:time]
    common = int(length[-1])
    out[: common * rows].view(common, rows).copy_(ids[:, :common].t())
    if common < time:
        running = torch.from_numpy(np.arange(rows) < sizes[common:, None])
        torch.masked_select(ids[:, common:].t(), running, out=out[common * rows :])
    return sizes
