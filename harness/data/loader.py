# SPDX-License-Identifier: Apache-2.0
"""From rows of mapped shards to batches on the device, prefetched by one thread.

There are no worker processes and no Python code per row: one gather per micro-batch copies its rows into a reused
buffer (pinned on CUDA). Token ids keep their stored dtype and are widened on the device. Lengths stay int64 on the CPU,
where packing needs them. Small steps are passed on in groups, since waking a thread costs as much as gathering a small
batch.

A step may also have unlabelled rows, prefetched by another thread. Their order uses the same code with another seed.
Passes over them do not align with epochs: the unlabelled rows of step ``k`` of a run are a function of (seed, ``k``)
alone, as for labelled rows (law 3). So a checkpoint needs no loader state.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from harness.batch import Batch, Layout, Masks, StepBatch
from harness.data.batches import Assembler, Buffer, RankSlice, hand_over, lengths_of
from harness.data.order import Order, Window
from preprocessing.dataset.shards import Split

PREFETCH_GROUPS = 2
"""Groups of steps in the queue, besides the one in training and the one being gathered."""
GROUP_STEPS = 8
GROUP_BYTES = 1 << 20
"""Maximum steps of a group, and maximum bytes of ids; a larger step is a group alone."""
Piece = tuple[int, int, int]
"""(epoch, first step, step after the last)."""


class Loader:
    """This rank's slice of every step, prefetched by a thread."""

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
        guard: Callable[[], None] | None = None,
        counts_tokens: bool = False,
        targets: np.ndarray | None = None,
        masks: Callable[[int, Batch], Masks | None] | None = None,
        unlabelled: Loader | None = None,
    ) -> None:
        """``rank`` of ``world_size`` processes takes its slice of every global batch of ``order``.

        ``micro_batch``: maximum rows of a micro-batch, None: no limit. ``guard`` is called before rows are read; it
        raises ``DataError`` if the files of the split have changed. ``counts_tokens``: steps carry their number of
        tokens over all processes. ``targets``: soft labels of all rows of the split in the order of its blocks, fp32
        ``[rows]`` or ``[rows, classes]``, as in ``Batch``. ``masks`` computes the dropout masks of a micro-batch in an
        optimizer step, ahead of time. ``unlabelled`` loads the unlabelled rows of each step.
        """
        self.split, self.order = split, order
        self.rank, self.world_size = rank, world_size
        self.layout, self.device, self.micro_batch = layout, device, micro_batch
        self.counts_tokens = counts_tokens
        self.guard = guard or (lambda: None)
        self.targets, self.masks, self.unlabelled = targets, masks, unlabelled
        self.step_elements = -(-order.largest_step // world_size) * split.max_width
        step_bytes = self.step_elements * np.dtype(split.manifest.id_dtype).itemsize
        self.group_steps = max(1, min(GROUP_STEPS, GROUP_BYTES // step_bytes))
        self._idle: list[Assembler] = []

    def steps(self, epoch: int, first_step: int = 0, last_step: int | None = None) -> Generator[StepBatch, None, None]:
        """Steps of an epoch from ``first_step`` to ``last_step``, exclusive (None: to the epoch's end).

        ``wait_s`` of a step is the time that the caller waited for it. A batch on the CPU is in a reused buffer, so it
        is valid until the next step is requested. Buffers are kept between epochs. Raises the thread's exceptions, such
        as ``DataError`` from the guard.
        """
        per_epoch = self.order.steps_per_epoch
        first, last = (epoch * per_epoch + step for step in (first_step, per_epoch if last_step is None else last_step))
        with ExitStack() as stack:
            own = stack.enter_context(self.stretch(first, last))
            if self.unlabelled is None:
                yield from own
                return
            self.unlabelled.micro_batch = self.micro_batch
            others = stack.enter_context(self.unlabelled.stretch(first, last))
            for step, other in zip(own, others, strict=True):
                step.take_unlabelled(other)
                yield step

    def stretch(self, first: int, last: int) -> Prefetch:
        """Steps ``first`` to ``last``, exclusive, counted over all epochs; starts prefetching at once, also across
        epochs.
        """
        per_epoch, pieces = self.order.steps_per_epoch, []
        while first < last:
            epoch, step = divmod(first, per_epoch)
            pieces.append((epoch, step, min(per_epoch, step + last - first)))
            first += pieces[-1][2] - step
        return Prefetch(self._produce, pieces)

    def _produce(self, pieces: list[Piece], prefetch: Prefetch) -> None:
        """Run in the thread: put groups of steps into the queue, then None; or an exception."""
        torch.get_num_threads()  # initialises OpenMP in this thread; only then can it be limited to one core
        try:
            with openmp().limit(limits=1):
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                assembler = self._idle.pop() if self._idle else self._new_assembler()
                for buffer in assembler.buffers:
                    prefetch.free.put(buffer)
                alone = pieces[0][1] if pieces else 0
                for epoch, first, stop in pieces:
                    step = first
                    while step < stop and not prefetch.cancelled:
                        window = self.order.window(epoch, step)
                        steps = range(step, min(stop, window.next_step))
                        self._produce_window(assembler, window, epoch, steps, prefetch, alone=alone)
                        step, alone = window.next_step, -1
                self._idle.append(assembler)
            prefetch.ready.put(None)
            finished = pieces and step == self.order.steps_per_epoch and not prefetch.cancelled
            if finished and self.order.spec.shuffle and not self.split.is_remote:  # whose blocks are being fetched
                self.order.window(epoch + 1, 0)  # cached while the last steps of this epoch are trained
        except BaseException as error:  # the training loop raises it
            prefetch.ready.put(error)

    def _new_assembler(self) -> Assembler:
        elements, buffers = self.step_elements, PREFETCH_GROUPS + 2
        sizes = {"buffers": buffers, "group_elements": self.group_steps * elements, "step_elements": elements}
        return Assembler(self.split, self.layout, self.device, **sizes, targets=self.targets, masks=self.masks)

    def _produce_window(
        self, assembler: Assembler, window: Window, epoch: int, steps: range, prefetch: Prefetch, alone: int
    ) -> None:
        """Put ``steps`` of one window into the queue; stop early if cancelled.

        Step ``alone``, the first one requested, is a separate group, so that training starts as soon as it is ready;
        -1: none.
        """
        self.guard()
        place = {"rank": self.rank, "world_size": self.world_size}
        share = RankSlice(window, steps, **place, micro_batch=self.micro_batch, even=self.order.spec.shuffle)
        assembler.enter(window, share)
        starts = share.begins[:-1]
        tokens = [0] * len(steps)
        if self.counts_tokens:
            every = lengths_of(self.split, window, window.places[starts[0] : share.begins[-1]])
            tokens = np.add.reduceat(every, starts - starts[0]).tolist()
        begin = steps.start
        while begin < steps.stop:
            end = begin + 1 if begin == alone else min(begin + self.group_steps, steps.stop)
            buffer = prefetch.free.get()  # cannot hang: the loop returns every buffer, or cancels
            if buffer is None or prefetch.cancelled:
                return
            self.guard()
            numbers = [share.numbers(step) for step in range(begin, end)]
            first = epoch * self.order.steps_per_epoch + begin
            batches, copied = assembler(buffer, {one: first + turn for turn, of in enumerate(numbers) for one in of})
            group = []
            for step, own in zip(range(begin, end), numbers, strict=True):
                mine = batches[own.start - numbers[0].start : own.stop - numbers[0].start]
                at = step - steps.start
                counted = share.global_rows[at], tokens[at]
                group.append(StepBatch(epoch, step, mine, *counted, copied=copied))
            prefetch.ready.put((buffer, group))
            begin = end


class Prefetch:
    """Steps prefetched by a thread; iterate inside a ``with`` block, which ends the thread.

    One queue carries filled groups, another one free buffers.
    """

    def __init__(self, produce: Callable[[list[Piece], Prefetch], None], pieces: list[Piece]) -> None:
        """Start the thread on ``pieces``."""
        self.ready: queue.SimpleQueue[tuple[Buffer, list[StepBatch]] | BaseException | None] = queue.SimpleQueue()
        """Groups of steps with their buffer, an exception, or None for the end; bounded by the number of buffers."""
        self.free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self.cancelled = False
        self.thread = threading.Thread(target=produce, args=(pieces, self), name="padless-loader", daemon=True)
        self.thread.start()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread and wait for it."""
        self.cancelled = True
        self.free.put(None)  # wakes the thread if it waits for a buffer
        self.thread.join()  # cannot hang: it checks cancelled before each group, and waits for nothing else

    def __iter__(self) -> Iterator[StepBatch]:
        """The steps; raises exceptions of the thread."""
        while True:
            started = time.perf_counter()
            item = self.ready.get()  # cannot hang: the thread always puts None or an exception at its end
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            buffer, group = item
            group[0].wait_s = time.perf_counter() - started
            for step in group:
                hand_over(step)
                yield step
            self.free.put(buffer)


@cache
def openmp() -> ThreadpoolController:
    """The OpenMP libraries of this process. Cached: the lookup takes longer than a small step."""
    return ThreadpoolController().select(user_api="openmp")
