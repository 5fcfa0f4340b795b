# SPDX-License-Identifier: Apache-2.0
"""From rows of mapped shards to batches on the device, prefetched by one thread; and which rows of a step a process
takes.

There are no worker processes and no Python code per row: lengths, labels and memory addresses are computed once per
window, and one gather per micro-batch copies its rows into a reused buffer (pinned on CUDA). Token ids are widened on
the device. Lengths stay int64 on the CPU, where packing needs them. Small steps are passed on in groups, since waking a
thread costs as much as gathering a small batch.
"""

from __future__ import annotations

import ctypes
import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field
from functools import cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Batch, Layout, Masks, PackedIndex, StepBatch, record_event, send
from harness.data.order import Order, Window
from harness.data.targets import SoftTargets
from padless.core.errors import DataError
from preprocessing.dataset.remote import open_split
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.dataset.views import read_data

PREFETCH_GROUPS = 2
"""Groups of steps in the queue, besides the one in training and the one being gathered."""
GROUP_STEPS = 8
GROUP_BYTES = 1 << 20
"""Maximum steps of a group, and maximum bytes of ids; a larger step is a group alone."""


@dataclass
class OpenData:
    """The open splits of a dataset. After a mapped file is truncated, reading a lost page kills the process
    (SIGBUS).
    """

    data: str
    manifest: Manifest
    splits: dict[str, Split]
    targets: SoftTargets | None = None
    """Of the rows of ``train``, where a teacher has taught."""

    def check(self) -> None:
        """Between epochs: raise ``DataError`` if the manifest or a mapped shard has changed since the start."""
        if read_data(self.data).fingerprint != self.manifest.fingerprint:
            raise DataError(
                f"{self.data}: the dataset changed since the run began (it has another fingerprint); restore the old "
                "one, or start a new run"
            )
        for split in self.splits.values():
            split.check_unchanged()


def open_data(data: str, manifest: Manifest, names: Collection[str]) -> OpenData:
    """Open splits of a dataset. Raises ``DataError``."""
    return OpenData(data, manifest, {name: open_split(data, manifest, name) for name in names})


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
    sizes, one micro-batch of each longer slice holds two rows. A step has a row for each rank (``check_data``).
    """
    shortest, longest = batch_rows // world_size, -(-batch_rows // world_size)
    assert shortest, "checked before"
    return 1 if micro_batch is None else min(shortest, -(-longest // micro_batch))


@dataclass(eq=False)
class Buffer:
    """A buffer for the ids of one group of steps; on CUDA pinned, and reused once its copy to the device is done."""

    flat: torch.Tensor
    copied: torch.cuda.Event | None = None


class Assembler:
    """Turns places of a window into batches on the device, with reused buffers.

    One tensor covers the whole address range of a window's mapped record batches, so a row is an offset in it. One
    ``index_select`` over overlapping slices ``[n, time]`` with strides ``(1, 1)`` copies the rows of a batch out of any
    number of shards, each row only up to the longest length of the batch. No other memory is read.
    """

    def __init__(self, loader: Loader) -> None:
        """For the slices of ``loader``, whose split must stay open while this object exists. Create it in the thread
        that uses it, outside inference mode.
        """
        self.split, self.layout, self.device = loader.split, loader.layout, loader.device
        self.prepare, self.targets, on_cuda = loader.prepare, loader.targets, self.device.type == "cuda"
        self.dtype = dtype = torch.int16 if self.split.manifest.id_dtype == "uint16" else torch.int32
        elements = loader.group_steps * loader.step_elements
        flat = (torch.empty(elements, dtype=dtype, pin_memory=on_cuda) for _ in range(PREFETCH_GROUPS + 2))
        self.buffers = [*map(Buffer, flat)]
        self.scratch = torch.empty(loader.step_elements if self.layout == "packed" else 0, dtype=dtype)
        self.stream = torch.cuda.Stream(self.device) if on_cuda else None

    def enter(self, window: Window, share: RankSlice) -> None:
        """Prepare everything about a window's rows except their ids."""
        places = share.places.astype(np.int64)  # once; else numpy converts it for every column
        self.blocks = blocks = [self.split.blocks[block] for block in window.blocks.tolist()]  # keeps them mapped
        first = np.array([block.ids.ctypes.data for block in blocks], np.int64)
        base, last = int(first.min()), max(block.ids.ctypes.data + block.ids.nbytes for block in blocks)
        assert not ((first - base) % self.dtype.itemsize).any()
        self.span = torch.frombuffer((ctypes.c_byte * (last - base)).from_address(base), dtype=self.dtype)
        self.slices: dict[int, torch.Tensor] = {}
        label = np.concatenate([block.label for block in blocks]).take(places).astype(np.int64, copy=False)
        row = np.concatenate([block.row for block in blocks]).take(places).astype(np.int64, copy=False)
        length = share.lengths
        rows_of_block, widths = np.diff(window.ends, prepend=0), self.split.block_widths[window.blocks]
        width = np.repeat(widths, rows_of_block).take(places)
        origin = (first - base) // self.dtype.itemsize - (window.ends - rows_of_block) * widths
        begin = places * width + np.repeat(origin, rows_of_block).take(places)
        ends = np.cumsum(share.rows)
        starts = ends - share.rows
        sizes = share.rows.tolist()
        slices = [slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        longest = length[starts]
        self.time: list[int] = longest.tolist()
        self.rows = [row[micro_batch] for micro_batch in slices]
        self.lengths = torch.from_numpy(length).split(sizes)
        self.begin = torch.from_numpy(begin).split(sizes)
        narrowest = np.minimum.reduceat(width, starts) if len(starts) else starts
        self.width = {number: width[slices[number]] for number in np.flatnonzero(narrowest < longest).tolist()}
        """Shard width of each row, for micro-batches with a shard narrower than their longest row."""
        with self._on_stream():
            labels, lengths = send(torch.from_numpy(np.stack((label, length))), self.device)
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
            batches = list(self._gather(buffer, steps))
            if self.device.type != "cpu":  # one copy for the whole group
                used = sum(batch.ids.numel() for batch in batches)
                flat = buffer.flat[:used].to(self.device, non_blocking=True)
                for batch in batches:
                    batch.ids = flat.as_strided(batch.ids.shape, batch.ids.stride(), batch.ids.storage_offset())
            if self.prepare is not None:
                for batch, step in zip(batches, steps.values(), strict=True):
                    self.prepare(step, batch)
            buffer.copied = record_event(self.device)
        return batches, buffer.copied

    def _gather(self, buffer: Buffer, numbers: Iterable[int]) -> Iterator[Batch]:
        offset = 0
        for number in numbers:
            lengths, time = self.lengths[number], self.time[number]
            rows = len(lengths)
            sizes = index = None
            if self.layout == "padded":
                ids = buffer.flat.as_strided((rows, time), (time, 1), offset)
                self._copy(number, ids)
            else:
                padded = self.scratch.as_strided((rows, time), (time, 1))
                self._copy(number, padded)
                packed = pack_padded_sequence(padded, lengths, batch_first=True)
                ids, sizes = buffer.flat[offset : offset + len(packed.data)], packed.batch_sizes
                ids.copy_(packed.data)
                index = PackedIndex.build(self.sent_lengths[number], time, len(ids))
            offset += ids.numel()
            targets = None
            if self.targets is not None:
                targets = send(torch.from_numpy(self.targets.look_up(self.rows[number])), self.device)
            yield Batch(
                ids,
                lengths,
                self.labels[number],
                self.rows[number],
                targets,
                batch_sizes=sizes,
                sent_lengths=self.sent_lengths[number],
                index=index,
            )

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
        masks = batch.masks or Masks()
        tensors = [batch.ids, batch.labels, batch.device_lengths, masks.unknown_tokens, *masks.keep.values()]
        tensors += [batch.targets, None if batch.candidates is None else batch.candidates[0]]
        for tensor in [*tensors, *(() if batch.index is None else batch.index.tensors)]:
            if tensor is not None:
                tensor.record_stream(stream)


@dataclass(eq=False)
class Prefetch:
    """What the loading thread and the training loop exchange: filled groups, and free buffers."""

    ready: queue.SimpleQueue[tuple[Buffer, list[StepBatch]] | BaseException | None] = field(
        default_factory=queue.SimpleQueue
    )
    """Groups of steps with their buffer, an exception, or None for the end; bounded by the number of buffers."""
    free: queue.SimpleQueue[Buffer | None] = field(default_factory=queue.SimpleQueue)
    cancelled: bool = False


@dataclass(eq=False)
class Loader:
    """This rank's slice of every step, prefetched by a thread."""

    split: Split
    order: Order
    _: KW_ONLY
    rank: int
    """It takes its slice of every global batch of ``order``, which ``world_size`` processes share."""
    world_size: int
    layout: Layout
    device: torch.device
    micro_batch: int | None = None
    """Maximum rows of a micro-batch; None: no limit."""
    targets: SoftTargets | None = None
    """Of a teacher, for every row of the split; None: rows have their labels."""
    prepare: Callable[[int, Batch], None] | None = None
    """Adds to a micro-batch what training needs in an optimizer step: dropout masks, candidates."""

    def __post_init__(self) -> None:
        """Sizes of buffers."""
        self.step_elements = -(-self.order.largest_step // self.world_size) * self.split.max_width
        step_bytes = self.step_elements * np.dtype(self.split.manifest.id_dtype).itemsize
        self.group_steps = max(1, min(GROUP_STEPS, GROUP_BYTES // step_bytes))
        self._idle: list[Assembler] = []

    def steps(self, epoch: int, first_step: int = 0, last_step: int | None = None) -> Generator[StepBatch, None, None]:
        """Steps of an epoch from ``first_step`` to ``last_step``, exclusive (None: to the epoch's end), prefetched.

        ``wait_s`` of a step is the time that the caller waited for it. A batch on the CPU is in a reused buffer, so it
        is valid until the next step is requested. Buffers are kept between epochs. Raises the thread's exceptions, such
        as ``DataError`` for a damaged row.
        """
        stop = self.order.steps_per_epoch if last_step is None else last_step
        prefetch = Prefetch()
        thread = threading.Thread(target=self._produce, args=(epoch, first_step, stop, prefetch), daemon=True)
        thread.start()
        try:
            while True:
                started = time.perf_counter()
                item = prefetch.ready.get()  # cannot hang: the thread always puts None or an exception at its end
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                buffer, group = item
                group[0].wait_s = time.perf_counter() - started
                for step in group:
                    hand_over(step)
                    yield step
                prefetch.free.put(buffer)
        finally:
            prefetch.cancelled = True
            prefetch.free.put(None)  # wakes the thread if it waits for a buffer
            thread.join()  # cannot hang: it checks cancelled before each group, and waits for nothing else

    def _produce(self, epoch: int, step: int, stop: int, prefetch: Prefetch) -> None:
        """Run in the thread: put groups of steps into the queue, then None; or an exception."""
        torch.get_num_threads()  # initialises OpenMP in this thread; only then can it be limited to one core
        try:
            with openmp().limit(limits=1):
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                assembler = self._idle.pop() if self._idle else Assembler(self)
                for buffer in assembler.buffers:
                    prefetch.free.put(buffer)
                while step < stop and not prefetch.cancelled:
                    window = self.order.window(epoch, step)
                    steps = range(step, min(stop, window.next_step))
                    self._produce_window(assembler, window, epoch, steps, prefetch)
                    step = window.next_step
                self._idle.append(assembler)
            prefetch.ready.put(None)
        except BaseException as error:  # the training loop raises it
            prefetch.ready.put(error)

    def _produce_window(
        self, assembler: Assembler, window: Window, epoch: int, steps: range, prefetch: Prefetch
    ) -> None:
        """Put ``steps`` of one window into the queue; stop early if cancelled."""
        trains = self.order.spec.shuffle
        share = RankSlice(window, steps, self.rank, self.world_size, self.micro_batch, trains=trains)
        assembler.enter(window, share)
        starts = share.begins[:-1]
        lengths = window.lengths[starts[0] : share.begins[-1]]
        tokens = np.add.reduceat(lengths, starts - starts[0], dtype=np.int64).tolist()
        for begin in range(0, len(steps), self.group_steps):
            buffer = prefetch.free.get()  # cannot hang: the loop returns every buffer, or cancels
            if buffer is None or prefetch.cancelled:
                return
            bounds = share.bounds[begin : begin + self.group_steps + 1]
            first_step = epoch * self.order.steps_per_epoch + steps[begin]
            optimizer_steps = np.repeat(np.arange(len(bounds) - 1) + first_step, np.diff(bounds)).tolist()
            batches, copied = assembler(buffer, dict(enumerate(optimizer_steps, bounds[0])))
            group = []
            for index, (start, stop) in enumerate(itertools.pairwise(bounds), begin):
                step_batches = batches[start - bounds[0] : stop - bounds[0]]
                sizes = share.global_rows[index], tokens[index]
                group.append(StepBatch(steps[index], step_batches, *sizes, copied=copied))
            prefetch.ready.put((buffer, group))


@cache
def openmp() -> ThreadpoolController:
    """The OpenMP libraries of this process. Cached: the lookup takes longer than a small step."""
    return ThreadpoolController().select(user_api="openmp")
