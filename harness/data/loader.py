# SPDX-License-Identifier: Apache-2.0
"""Rows of mapped shards → pinned batch → device, ahead of the step; no per-sample Python, no worker processes.

One gather per record batch copies whole rows into a reused buffer; a thread stays a few steps ahead. Token ids travel
as narrow as they are stored and are widened on the device; lengths stay int64 on the CPU, where packing wants them.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from harness.data.order import Order, micro_batches
from preprocessing.shards import Split

Layout = Literal["padded", "packed"]
PREFETCH_STEPS = 3


@dataclass
class Batch:
    """A micro-batch on the device. ``ids`` is ``[rows, time]`` when padded, ``[tokens]`` time-major when packed."""

    ids: torch.Tensor
    """Narrow token ids: int16 bits of a uint16, or int32; ``widened`` gives what an embedding takes."""
    lengths: torch.Tensor
    """int64 ``[rows]`` on the CPU."""
    labels: torch.Tensor
    """int64 ``[rows]``."""
    rows: np.ndarray
    """int64 ``[rows]``: the rows' numbers in the source."""
    batch_sizes: torch.Tensor | None = None
    """Packed layout only: int64 ``[time]`` on the CPU, how many rows are still running at each time step."""

    @property
    def num_rows(self) -> int:
        """Rows in this micro-batch."""
        return len(self.rows)

    @property
    def num_tokens(self) -> int:
        """Real tokens, padding not counted."""
        return int(self.lengths.sum())

    @property
    def num_cells(self) -> int:
        """Positions that the recurrent layers compute, padding included."""
        return self.ids.numel()

    def widened(self) -> torch.Tensor:
        """The ids as int32, on their device."""
        return self.ids.to(torch.int32) & 0xFFFF if self.ids.dtype == torch.int16 else self.ids


@dataclass
class StepBatch:
    """What one process computes in one optimizer step."""

    epoch: int
    step: int
    """Step within the epoch."""
    micro_batches: list[Batch]
    global_rows: int
    """Rows of the step over all processes: what the loss is divided by."""
    wait_s: float = 0.0
    """How long the training loop waited for this batch."""


class Gather:
    """Copies rows out of a split's record batches; one instance per thread, since its buffers are reused."""

    def __init__(self, split: Split) -> None:
        """``split`` stays mapped for as long as this object lives."""
        self.split = split
        self.widths = np.array([block.ids.shape[1] for block in split.blocks])
        self.dtype = split.blocks[0].ids.dtype
        self._scratch = np.empty(0, self.dtype)

    def padded(self, rows: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Copy global ``rows`` into the flat buffer ``out`` (at least rows x widest shard elements).

        Returns ids ``[rows, time]`` (a view of ``out``, cut at the longest row), length, label and source row, all in
        the order in which the rows lie on disk, which is as good as any inside a micro-batch.
        """
        starts = self.split.block_starts
        rows = np.sort(rows)
        block_of = np.searchsorted(starts, rows, side="right") - 1
        cuts = [0, *(np.flatnonzero(np.diff(block_of)) + 1).tolist(), len(rows)]
        width = int(self.widths[block_of].max())
        ids = out[: len(rows) * width].reshape(len(rows), width)
        columns = [np.empty(len(rows), kind) for kind in (np.int32, np.int32, np.int64)]
        for first, last in itertools.pairwise(cuts):
            number = int(block_of[first])
            block, inside = self.split.blocks[number], rows[first:last] - starts[number]
            self._take(block.ids, inside, ids[first:last])
            for column, source in zip(columns, (block.length, block.label, block.row), strict=True):
                np.take(source, inside, out=column[first:last], mode="clip")
        length, label, row = columns
        return ids[:, : int(length.max())], length, label, row

    def _take(self, source: np.ndarray, inside: np.ndarray, target: np.ndarray) -> None:
        """``target[:, :width] = source[inside]``; whole rows go straight to a target of the same width."""
        width = source.shape[1]
        if width == target.shape[1]:
            np.take(source, inside, axis=0, out=target, mode="clip")
            return
        if self._scratch.size < len(inside) * width:
            self._scratch = np.empty(len(inside) * width, self.dtype)
        scratch = self._scratch[: len(inside) * width].reshape(len(inside), width)
        np.take(source, inside, axis=0, out=scratch, mode="clip")
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


class Loader:
    """Gives this rank's share of each step, prepared ahead by a thread."""

    def __init__(
        self,
        split: Split,
        order: Order,
        *,
        rank: int,
        world_size: int,
        layout: Layout,
        device: torch.device,
        micro_batch: int | None = None,
    ) -> None:
        """``rank`` of ``world_size`` processes takes its slice of every global batch of ``order``."""
        self.split, self.order = split, order
        self.rank, self.world_size = rank, world_size
        self.layout, self.device, self.micro_batch = layout, device, micro_batch

    def steps(self, epoch: int, first_step: int = 0, last_step: int | None = None) -> Iterator[StepBatch]:
        """Steps from ``first_step`` to the end of the epoch or ``last_step``, each with the time waited for it."""
        stop = self.order.steps_per_epoch if last_step is None else last_step
        ready: queue.Queue[StepBatch | BaseException | None] = queue.Queue(PREFETCH_STEPS)
        cancelled = threading.Event()
        arguments = (epoch, first_step, stop, ready, cancelled)
        thread = threading.Thread(target=self._produce, args=arguments, name="padless-loader", daemon=True)
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                item = ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                item.wait_s = time.perf_counter() - started
                yield item
        finally:
            cancelled.set()
            thread.join()

    def _produce(self, epoch: int, first: int, stop: int, ready: queue.Queue, cancelled: threading.Event) -> None:
        """Fill the queue with steps, then None; an exception is handed over instead of a step."""

        def offer(item: StepBatch | BaseException | None) -> bool:
            while not cancelled.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        try:
            assembler = Assembler(self.split, self.layout, self.device)
            for step in range(first, stop):
                if not offer(self._assemble(assembler, epoch, step)):
                    return
            offer(None)
        except BaseException as error:  # handed to the training loop, which raises it
            offer(error)

    def _assemble(self, assembler: Assembler, epoch: int, step: int) -> StepBatch:
        batch = self.order.batch_rows(epoch, step)
        mine = batch[self.rank :: self.world_size]
        if self.order.spec.shuffle:
            pieces = np.array_split(mine, micro_batches(len(batch), self.world_size, self.micro_batch))
        else:
            pieces = [mine] if len(mine) else []
        return StepBatch(epoch, step, assembler(pieces), global_rows=len(batch))


class Assembler:
    """Turns global rows into batches on the device, through a ring of reused (on CUDA: pinned) buffers."""

    def __init__(self, split: Split, layout: Layout, device: torch.device) -> None:
        """The ring has room for the steps in the queue, the one being trained on and the one being filled."""
        self.gather = Gather(split)
        self.layout, self.device = layout, device
        self.on_cuda = device.type == "cuda"
        self.width = split.max_width
        self.torch_dtype = torch.int16 if self.gather.dtype == np.uint16 else torch.int32
        self.ring: list[torch.Tensor] = [torch.empty(0, dtype=self.torch_dtype)] * (PREFETCH_STEPS + 2)
        self.copied: list[torch.cuda.Event | None] = [None] * len(self.ring)
        self.stream = torch.cuda.Stream(device) if self.on_cuda else None
        self.turn = 0

    def __call__(self, pieces: list[np.ndarray]) -> list[Batch]:
        """One batch for every array of global rows in ``pieces``."""
        slot = self.turn % len(self.ring)
        self.turn += 1
        flat = self._buffer(slot, sum(len(piece) for piece in pieces) * self.width)
        batches, used = [], 0
        for piece in pieces:
            batch = self._batch(piece, flat[used : used + len(piece) * self.width])
            used += len(piece) * self.width
            batches.append(batch)
        if self.stream is not None:
            with torch.cuda.stream(self.stream):
                batches = [self._to_device(batch) for batch in batches]
                event = torch.cuda.Event()
                event.record(self.stream)
            self.copied[slot] = event
            for batch in batches:
                batch.ids.record_stream(torch.cuda.default_stream(self.device))
        return batches

    def _buffer(self, slot: int, elements: int) -> np.ndarray:
        """The slot's buffer, free to write: large enough, and no longer being copied from."""
        if (event := self.copied[slot]) is not None:
            event.synchronize()
        if self.ring[slot].numel() < elements:
            self.ring[slot] = torch.empty(elements, dtype=self.torch_dtype, pin_memory=self.on_cuda)
        return self.ring[slot].numpy().view(self.gather.dtype)

    def _batch(self, rows: np.ndarray, out: np.ndarray) -> Batch:
        ids, length, label, row = self.gather.padded(rows, out)
        sizes = None
        if self.layout == "packed":
            order, packed, sizes = pack(ids, length)
            length, label, row = length[order], label[order], row[order]
            out[: len(packed)] = packed
            ids = out[: len(packed)]
        narrow = torch.from_numpy(ids.view(np.int16) if ids.dtype == np.uint16 else ids)
        lengths, labels = torch.from_numpy(length.astype(np.int64)), torch.from_numpy(label.astype(np.int64))
        return Batch(narrow, lengths, labels, row, None if sizes is None else torch.from_numpy(sizes))

    def _to_device(self, batch: Batch) -> Batch:
        ids = batch.ids.to(self.device, non_blocking=True)
        labels = batch.labels.pin_memory().to(self.device, non_blocking=True)
        return Batch(ids, batch.lengths, labels, batch.rows, batch.batch_sizes)
