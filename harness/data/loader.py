# SPDX-License-Identifier: Apache-2.0
"""Rows of mapped shards → pinned batch → device, ahead of the step; no per-sample Python, no worker processes.

One gather per record batch copies whole rows into a reused buffer; a thread stays a few steps ahead. Token ids travel
as narrow as they are stored and are widened on the device; lengths stay int64 on the CPU, where packing wants them.
Small steps are handed over several at a time, since waking a thread costs as much as gathering a small batch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from harness.data.device import DeviceRows
from harness.data.gather import Gather, pack
from harness.data.order import Order, Window, micro_batches
from preprocessing.shards import Split

Layout = Literal["padded", "packed"]
PREFETCH_GROUPS = 2
"""Groups of steps that wait in the queue, besides the one being trained on and the one being gathered."""
GROUP_STEPS = 8
GROUP_BYTES = 1 << 20
"""Steps are handed over together until a group has this many steps or bytes of ids."""


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
    copied: torch.cuda.Event | None = None
    """CUDA only: recorded when the batch is on the device."""


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
        resident: DeviceRows | None = None,
        guard: Callable[[], None] | None = None,
    ) -> None:
        """``rank`` of ``world_size`` processes takes its slice of every global batch of ``order``.

        ``resident`` holds the split's tokens on the device already. ``guard`` is called before rows are touched and
        raises ``DataError`` when the files under the split are no longer what they were.
        """
        self.split, self.order = split, order
        self.rank, self.world_size = rank, world_size
        self.layout, self.device, self.micro_batch = layout, device, micro_batch
        self.resident, self.guard = resident, guard
        largest_share = -(-order.largest_step // world_size) * split.max_width * split.blocks[0].ids.itemsize
        self.group_steps = max(1, min(GROUP_STEPS, GROUP_BYTES // largest_share))

    def steps(self, epoch: int, first_step: int = 0, last_step: int | None = None) -> Iterator[StepBatch]:
        """Steps from ``first_step`` to the end of the epoch or ``last_step``, each with the time waited for it.

        A batch on the CPU lies in a buffer that is used again: it is whole until the next one is asked for.
        """
        stop = self.order.steps_per_epoch if last_step is None else last_step
        ready: queue.Queue[list[StepBatch] | BaseException | None] = queue.Queue(PREFETCH_GROUPS)
        cancelled = threading.Event()
        arguments = (epoch, first_step, stop, ready, cancelled)
        thread = threading.Thread(target=self._produce, args=arguments, name="padless-loader", daemon=True)
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                group = ready.get()
                if group is None:
                    return
                if isinstance(group, BaseException):
                    raise group
                group[0].wait_s = time.perf_counter() - started
                for step in group:
                    hand_over(step)
                    yield step
        finally:
            cancelled.set()
            thread.join()

    def _produce(self, epoch: int, first: int, stop: int, ready: queue.Queue, cancelled: threading.Event) -> None:
        """Fill the queue with groups of steps, then None; an exception is handed over instead of a group."""

        def offer(item: list[StepBatch] | BaseException | None) -> bool:
            while not cancelled.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        torch.get_num_threads()  # sets this thread up; only then can it be held to one core, which training needs more
        one_core = threadpool_limits(1, user_api="openmp")
        try:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            slots = self.group_steps * (PREFETCH_GROUPS + 2)
            assembler = Assembler(self.split, self.layout, self.device, slots, self.resident)
            group: list[StepBatch] = []
            for window in windows_ahead(self.order, epoch, first, stop):
                for step in range(max(first, window.first_step), min(stop, window.next_step)):
                    if self.guard is not None and not group:
                        self.guard()
                    group.append(self._assemble(assembler, window, epoch, step))
                    if len(group) == self.group_steps or step in (first, stop - 1):
                        if not offer(group):
                            return
                        group = []
            offer(None)
        except BaseException as error:  # handed to the training loop, which raises it
            offer(error)
        finally:
            one_core.restore_original_limits()

    def _assemble(self, assembler: Assembler, window: Window, epoch: int, step: int) -> StepBatch:
        batch = window.batch(step)
        mine = batch[self.rank :: self.world_size]
        if self.order.spec.shuffle:
            count = micro_batches(len(batch), self.world_size, self.micro_batch)
            pieces = [mine] if count == 1 else np.array_split(mine, count)
        else:
            pieces = [mine] if len(mine) else []
        batches, copied = assembler(window, pieces)
        return StepBatch(epoch, step, batches, global_rows=len(batch), copied=copied)


def windows_ahead(order: Order, epoch: int, first: int, stop: int) -> Iterator[Window]:
    """The windows that hold steps ``first`` to ``stop``; the next one is computed while one is in use."""
    with ThreadPoolExecutor(1, "padless-order") as thread:
        step = first
        coming = thread.submit(order.window, epoch, step) if step < stop else None
        while coming is not None:
            window = coming.result()
            step = window.next_step
            coming = thread.submit(order.window, epoch, step) if step < stop else None
            yield window


def hand_over(step: StepBatch) -> None:
    """On CUDA: make the stream that trains wait for the copy, and keep the batch's memory until it has run."""
    if step.copied is None:
        return
    stream = torch.cuda.current_stream(step.micro_batches[0].ids.device)
    stream.wait_event(step.copied)
    for batch in step.micro_batches:
        batch.ids.record_stream(stream)
        batch.labels.record_stream(stream)


class Assembler:
    """Turns places of a window into batches on the device, through a ring of reused (on CUDA: pinned) buffers."""

    def __init__(
        self, split: Split, layout: Layout, device: torch.device, slots: int, resident: DeviceRows | None = None
    ) -> None:
        """``slots``: the steps that may be alive at once, in the queue, in training and in the making."""
        self.gather = Gather(split)
        self.layout, self.device, self.resident = layout, device, resident
        self.on_cuda = device.type == "cuda"
        self.width = split.max_width
        self.ring: list[torch.Tensor] = [torch.empty(0, dtype=self.gather.narrow)] * slots
        self.copied: list[torch.cuda.Event | None] = [None] * slots
        self.stream = torch.cuda.Stream(device) if self.on_cuda else None
        self.turn = 0

    def __call__(self, window: Window, pieces: list[np.ndarray]) -> tuple[list[Batch], torch.cuda.Event | None]:
        """One batch for every array of places in ``pieces``, and the event of its copy to the device."""
        self.gather.enter(window)
        slot = self.turn % len(self.ring)
        self.turn += 1
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            if self.resident is not None:
                batches = [self._resident_batch(self.resident, window, piece) for piece in pieces]
            else:
                batches = self._gathered(slot, pieces)
            if self.stream is None:
                return batches, None
            batches = [self._to_device(batch) for batch in batches]
            self.copied[slot] = event = torch.cuda.Event()
            event.record(self.stream)
        return batches, event

    def _gathered(self, slot: int, pieces: list[np.ndarray]) -> list[Batch]:
        flat = self._buffer(slot, sum(len(piece) for piece in pieces) * self.width)
        batches, used = [], 0
        for piece in pieces:
            batches.append(self._batch(piece, flat[used : used + len(piece) * self.width]))
            used += len(piece) * self.width
        return batches

    def _buffer(self, slot: int, elements: int) -> torch.Tensor:
        """The slot's buffer, free to write: large enough, and no longer being copied from."""
        if (event := self.copied[slot]) is not None:
            event.synchronize()
        if self.ring[slot].numel() < elements:
            self.ring[slot] = torch.empty(elements, dtype=self.gather.narrow, pin_memory=self.on_cuda)
        return self.ring[slot]

    def _batch(self, places: np.ndarray, out: torch.Tensor) -> Batch:
        ids, columns = self.gather.padded(places, out)
        length, label, row, _ = columns
        sizes = None
        if self.layout == "packed":
            order, packed, sizes = pack(ids.numpy(), length)
            length, label, row = length[order], label[order], row[order]
            ids = out[: len(packed)]
            ids.numpy()[:] = packed
        lengths, labels = torch.from_numpy(length), torch.from_numpy(label)
        return Batch(ids, lengths, labels, row, None if sizes is None else torch.from_numpy(sizes))

    def _resident_batch(self, resident: DeviceRows, window: Window, places: np.ndarray) -> Batch:
        """The same batch from tokens that are on the device already, rows longest first."""
        length, label, row, _ = self.gather.columns(places)
        lengths, labels = torch.from_numpy(length), torch.from_numpy(label)
        if self.layout == "packed":
            ids, sizes = resident.packed(window.rows(places), length)
            return Batch(ids, lengths, labels, row, torch.from_numpy(sizes))
        return Batch(resident.padded(window.rows(places), length), lengths, labels, row)

    def _to_device(self, batch: Batch) -> Batch:
        ids = batch.ids.to(self.device, non_blocking=True)
        labels = batch.labels.pin_memory().to(self.device, non_blocking=True)
        return Batch(ids, batch.lengths, labels, batch.rows, batch.batch_sizes)
