# SPDX-License-Identifier: Apache-2.0
"""Rows of mapped shards → pinned batch → device, ahead of the step; no per-sample Python, no worker processes.

One gather per micro-batch copies its rows into a reused buffer; a thread stays a few steps ahead. Token ids travel
as narrow as they are stored and are widened on the device; lengths stay int64 on the CPU, where packing wants them.
Small steps are handed over several at a time, since waking a thread costs as much as gathering a small batch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache

import torch
from threadpoolctl import ThreadpoolController

from harness.batch import Layout, StepBatch
from harness.data.batches import Assembler, Buffer, RankSlice, hand_over
from harness.data.device import DeviceRows
from harness.data.order import Order, Window
from preprocessing.dataset.shards import Split

PREFETCH_GROUPS = 2
"""Groups of steps that wait in the queue, besides the one being trained on and the one being gathered."""
GROUP_STEPS = 8
GROUP_BYTES = 1 << 20
"""Steps are handed over together until a group has this many steps or bytes of ids."""


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
        self.resident, self.guard = resident, guard or (lambda: None)
        self.step_elements = -(-order.largest_step // world_size) * split.max_width
        step_bytes = self.step_elements * split.blocks[0].ids.itemsize
        self.group_steps = max(1, min(GROUP_STEPS, GROUP_BYTES // step_bytes))
        self._idle: list[Assembler] = []

    def steps(self, epoch: int, first_step: int = 0, last_step: int | None = None) -> Iterator[StepBatch]:
        """Steps from ``first_step`` to the end of the epoch or ``last_step``, each with the time waited for it.

        A batch on the CPU lies in a buffer that is used again: it is whole until the next one is asked for. Buffers
        outlive an epoch.
        """
        stop = self.order.steps_per_epoch if last_step is None else last_step
        batch_queue = BatchQueue()
        arguments = (epoch, first_step, stop, batch_queue)
        thread = threading.Thread(target=self._produce, args=arguments, name="padless-loader", daemon=True)
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                item = batch_queue.ready.get()
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                buffer, group = item
                group[0].wait_s = time.perf_counter() - started
                for step in group:
                    hand_over(step)
                    yield step
                batch_queue.free.put(buffer)
        finally:
            batch_queue.cancel()
            thread.join()

    def _assembler(self) -> Assembler:
        return Assembler(
            self.split,
            self.layout,
            self.device,
            buffers=PREFETCH_GROUPS + 2,
            group_elements=self.group_steps * self.step_elements,
            step_elements=self.step_elements,
            resident=self.resident,
        )

    def _produce(self, epoch: int, first: int, stop: int, batch_queue: BatchQueue) -> None:
        """Hand over groups of steps, then None; an exception is handed over instead of a group."""
        torch.get_num_threads()  # sets this thread up; only then can it be held to one core, which training needs more
        try:
            with openmp().limit(limits=1):
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                assembler = self._idle.pop() if self._idle else self._assembler()
                for buffer in assembler.buffers:
                    batch_queue.free.put(buffer)
                step = first
                while step < stop and not batch_queue.cancelled:
                    window = self.order.window(epoch, step)
                    steps = range(step, min(stop, window.next_step))
                    self._produce_window(assembler, window, epoch, steps, batch_queue, alone=first)
                    step = window.next_step
                self._idle.append(assembler)
            batch_queue.ready.put(None)
            if step == self.order.steps_per_epoch and self.order.spec.shuffle and not batch_queue.cancelled:
                self.order.window(epoch + 1, 0)  # which keeps it, while the last steps of this epoch are being trained
        except BaseException as error:  # handed to the training loop, which raises it
            batch_queue.ready.put(error)

    def _produce_window(
        self, assembler: Assembler, window: Window, epoch: int, steps: range, batch_queue: BatchQueue, alone: int
    ) -> None:
        """Hand over some steps of one window, as long as they are wanted. Step ``alone`` is a group of its own."""
        self.guard()
        share = RankSlice(
            window,
            steps,
            rank=self.rank,
            world_size=self.world_size,
            micro_batch=self.micro_batch,
            even=self.order.spec.shuffle,
        )
        assembler.enter(window, share)
        begin = steps.start
        while begin < steps.stop:
            end = begin + 1 if begin == alone else min(begin + self.group_steps, steps.stop)
            buffer = batch_queue.free_buffer()
            if buffer is None:
                return
            self.guard()
            numbers = [share.numbers(step) for step in range(begin, end)]
            batches, copied = assembler(buffer, range(numbers[0].start, numbers[-1].stop))
            group = []
            for step, own in zip(range(begin, end), numbers, strict=True):
                mine = batches[own.start - numbers[0].start : own.stop - numbers[0].start]
                rows = share.global_rows[step - steps.start]
                group.append(StepBatch(epoch, step, mine, global_rows=rows, copied=copied))
            batch_queue.ready.put((buffer, group))
            begin = end


class BatchQueue:
    """What goes between the thread that prepares steps and the one that trains: buffers one way, groups the other."""

    def __init__(self) -> None:
        """Empty both ways."""
        self.ready: queue.SimpleQueue[tuple[Buffer, list[StepBatch]] | BaseException | None] = queue.SimpleQueue()
        """Bounded by the buffers."""
        self.free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self.cancelled = False

    def free_buffer(self) -> Buffer | None:
        """The next buffer to fill, once there is one; None if nobody wants more."""
        buffer = self.free.get()
        return None if self.cancelled else buffer

    def cancel(self) -> None:
        """Nobody wants more: wake the thread that waits for a buffer."""
        self.cancelled = True
        self.free.put(None)


@cache
def openmp() -> ThreadpoolController:
    """The OpenMP libraries of this process; finding them takes longer than many a step, so once."""
    return ThreadpoolController().select(user_api="openmp")
