# SPDX-License-Identifier: Apache-2.0
"""The loader: content and cost of a batch."""

from __future__ import annotations

import itertools
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Layout
from harness.data import loader as loading
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, order_over
from preprocessing.dataset.index import write_index
from preprocessing.dataset.shards import Block, Manifest, Split, write_shard
from tests.helpers.batches import loader_of
from tests.helpers.datasets import rows_in, shared_dataset, split_of

dataset = shared_dataset({"train": 300, "validation": 20, "test": 20}, block_rows=32)


@pytest.fixture(scope="module")
def split(dataset: Path) -> Split:
    return split_of(dataset)


def make_loader(split: Split, order: Order | None = None, layout: Layout = "padded", **options: Any) -> Loader:
    order = order or order_over(split, OrderSpec(seed=1, global_batch=30, window_rows=130))
    return loader_of(split, order, layout=layout, **options)


def test_no_batch_is_overwritten_while_it_is_in_use(tmp_path: Path) -> None:
    """A slow consumer checks a batch, whose ids are its rows, long after the thread has filled all free buffers."""
    ids = np.repeat(np.arange(1, 4_001)[:, None], 4, axis=1).astype(np.uint16)
    columns = (np.full(4_000, 4), np.zeros(4_000, int), np.arange(4_000))
    info = write_shard(tmp_path, "train", 0, Block(ids, *columns), block_rows=50)
    split = Split(
        tmp_path, Manifest(["a", "b"], *write_index(tmp_path, [info]), "uint16", 50, 4_001, "", {}, ""), "train"
    )
    order = order_over(split, OrderSpec(seed=0, global_batch=10))
    for step in itertools.islice(make_loader(split, order).steps(0), 60):
        threading.Event().wait(0.005)
        (batch,) = step.micro_batches
        np.testing.assert_array_equal(batch.ids.numpy(), np.repeat(batch.rows[:, None] + 1, 4, axis=1))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_short_rows_of_wide_shards_among_long_rows_of_narrow_ones(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only zeros follow a row, for every shard and position in memory, also of shards that are mapped again."""
    monkeypatch.setattr(Split, "max_open_shards", 2)
    random = np.random.default_rng(0)
    infos = []
    for number, width in enumerate((8, 24, 16)):
        length = random.integers(1, width + 1, 40)
        length[0] = width
        ids = random.integers(1, 60_000, (40, width)).astype(np.uint16)
        ids[np.arange(width) >= length[:, None]] = 0
        rows = np.arange(40) + 40 * number
        infos.append(write_shard(tmp_path, "train", number, Block(ids, length, rows % 2, rows), block_rows=16))
    split = Split(
        tmp_path, Manifest(["a", "b"], *write_index(tmp_path, infos), "uint16", 16, 60_000, "", {}, ""), "train"
    )
    expected, rows_read = rows_in(split), []
    order = order_over(split, OrderSpec(seed=0, global_batch=17))
    steps = (step for rank in (0, 1) for step in make_loader(split, order, layout, rank=rank, world_size=2).steps(0))
    for batch in (batch for step in steps for batch in step.micro_batches):
        tokens = [expected[row].ids for row in batch.rows.tolist()]
        assert batch.labels.tolist() == [expected[row].label for row in batch.rows.tolist()]
        padded = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.int32)
        for index, row in enumerate(tokens):
            padded[index, : len(row)] = torch.tensor(row)
        if layout == "packed":
            packed = pack_padded_sequence(padded, batch.lengths, batch_first=True)
            padded = packed.data
            assert torch.equal(batch.batch_sizes, packed.batch_sizes)
        assert torch.equal(batch.widen_ids(), padded)
        rows_read += batch.rows.tolist()
    assert sorted(rows_read) == list(range(120))


def test_threads_end_with_the_steps_even_when_left_early(split: Split) -> None:
    num_threads = threading.active_count()
    steps = make_loader(split).steps(0)
    next(steps)
    steps.close()
    list(make_loader(split).steps(0))
    assert threading.active_count() == num_threads


class Card:
    """A double of a card: a copy from pinned memory happens at any time until the host waits for it. The training
    stream waits for copies too, and the host does not wait for that. All else happens at once, on the CPU.
    """

    def __init__(self, seed: int) -> None:
        self.random, self.lock = np.random.default_rng(seed), threading.RLock()
        self.copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        """Target and source of each copy, in the order of the calls."""
        self.num_done = self.num_awaited = 0
        """Copies that are done, and that the training stream waits for."""
        self.pinned, self.recorded = set[int](), set[int]()
        """Memory that is pinned; memory of tensors that the training stream reads, as it was told."""

    def copy_until(self, number: int) -> None:
        with self.lock:
            for target, source in self.copies[self.num_done : number]:
                target.copy_(source)
            self.num_done = max(self.num_done, number)

    def copy_some(self) -> None:
        if self.random.random() < 0.1:
            self.copy_until(int(self.random.integers(self.num_done, len(self.copies) + 1)))

    def send(self, tensor: torch.Tensor) -> torch.Tensor:
        if memory_of(tensor) not in self.pinned:
            return tensor.clone()
        with self.lock:
            self.copies.append((torch.full_like(tensor, -1), tensor))
            self.copy_some()
            return self.copies[-1][0]

    def replace_cuda(self, patch: pytest.MonkeyPatch) -> None:
        """Have torch use this card."""
        card, empty, to = self, torch.empty, torch.Tensor.to

        class Event:
            def record(self) -> None:
                self.number = len(card.copies)
                card.copy_some()

            def synchronize(self) -> None:
                card.copy_until(self.number)

        class Stream:
            def __init__(self, device: object = None) -> None: ...

            def wait_event(self, event: Event) -> None:
                card.num_awaited = event.number

        def pin(*shape: int, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            tensor = empty(*shape, **options)
            if pin_memory:
                card.pinned.add(memory_of(tensor))
            return tensor

        def move(tensor: torch.Tensor, *words: Any, **options: Any) -> torch.Tensor:
            return card.send(tensor) if words[:1] == (CUDA,) else to(tensor, *words, **options)

        patch.setattr(torch.cuda, "Event", Event)
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "stream", nullcontext)
        patch.setattr(torch.cuda, "current_stream", Stream)
        patch.setattr(torch.cuda, "set_device", lambda device: None)
        patch.setattr(torch, "empty", pin)
        patch.setattr(torch.Tensor, "to", move)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: card.recorded.add(memory_of(tensor)))


CUDA = torch.device("cuda", 0)


def memory_of(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@pytest.mark.parametrize("layout", ["padded", "packed"])
@given(seed=st.integers(0, 1 << 32))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copies_to_a_card_arrive_whole_whenever_they_happen(split: Split, layout: Layout, seed: int) -> None:
    """No buffer is written to before its copy is done, and each tensor names the stream that reads it."""
    expected = {
        tuple(batch.rows.tolist()): batch.ids.clone()
        for step in make_loader(split, layout=layout).steps(0)
        for batch in step.micro_batches
    }
    card, kernels = Card(seed), list[tuple[int, torch.Tensor, torch.Tensor]]()

    def run_kernels(number: int) -> None:
        """The training stream reads the first batches, after the copies that it waits for."""
        for num_awaited, ids, wanted in kernels[:number]:
            card.copy_until(num_awaited)
            assert torch.equal(ids, wanted)
        del kernels[:number]

    with pytest.MonkeyPatch.context() as patch:
        card.replace_cuda(patch)
        patch.setattr(loading, "GROUP_STEPS", 1)  # so that each buffer is used several times
        for step in make_loader(split, layout=layout, device=CUDA).steps(0):
            for batch in step.micro_batches:
                kernels.append((card.num_awaited, batch.ids, expected[tuple(batch.rows.tolist())]))
                tensors = [batch.ids, batch.labels, batch.sent_lengths, *(batch.index.tensors if batch.index else ())]
                assert {*map(memory_of, tensors)} <= card.recorded
            run_kernels(int(card.random.integers(len(kernels) + 1)) if card.random.random() < 0.3 else 0)
        run_kernels(len(kernels))
