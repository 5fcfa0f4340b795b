# SPDX-License-Identifier: Apache-2.0
"""The loader: content and cost of a batch; unlabelled rows with labelled ones, each once per pass (law 3)."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Layout
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, order_over, stream_seed
from preprocessing.base.errors import DataError
from preprocessing.dataset.index import write_index
from preprocessing.dataset.shards import Manifest, Split, read_manifest, write_shard
from tests.datasets import shared_dataset

CPU = torch.device("cpu")


dataset = shared_dataset({"train": 300, "validation": 20, "test": 20}, block_rows=32)


@pytest.fixture(scope="module")
def split(dataset: Path) -> Split:
    return Split(dataset, read_manifest(dataset), "train")


def make_loader(split: Split, order: Order | None = None, layout: Layout = "padded", **options: Any) -> Loader:
    order = order or order_over(split, OrderSpec(seed=1, global_batch=30, window_rows=130))
    chosen = {"rank": 0, "world_size": 1, **options}
    return Loader(split, order, layout=layout, device=CPU, **chosen)


def by_source(split: Split) -> dict[int, tuple[list[int], int]]:
    """Tokens and label of every row, by its number in the source."""
    return {
        int(block.row[i]): (block.ids[i, : block.length[i]].tolist(), int(block.label[i]))
        for block in split.blocks
        for i in range(len(block.row))
    }


def test_no_batch_is_overwritten_while_it_is_in_use(tmp_path: Path) -> None:
    """A slow consumer checks a batch, whose ids are its rows, long after the thread has filled all free buffers."""
    ids = np.repeat(np.arange(1, 4_001)[:, None], 4, axis=1).astype(np.uint16)
    columns = (np.full(4_000, 4), np.zeros(4_000, int), np.arange(4_000))
    info = write_shard(tmp_path, "train", 0, ids, *columns, block_rows=50)
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
    monkeypatch.setattr(Split, "most_open", 2)
    random = np.random.default_rng(0)
    infos = []
    for number, width in enumerate((8, 24, 16)):
        length = random.integers(1, width + 1, 40)
        length[0] = width
        ids = random.integers(1, 60_000, (40, width)).astype(np.uint16)
        ids[np.arange(width) >= length[:, None]] = 0
        rows = np.arange(40) + 40 * number
        infos.append(write_shard(tmp_path, "train", number, ids, length, rows % 2, rows, block_rows=16))
    split = Split(
        tmp_path, Manifest(["a", "b"], *write_index(tmp_path, infos), "uint16", 16, 60_000, "", {}, ""), "train"
    )
    expected, seen = by_source(split), []
    order = order_over(split, OrderSpec(seed=0, global_batch=17))
    steps = (step for rank in (0, 1) for step in make_loader(split, order, layout, rank=rank, world_size=2).steps(0))
    for batch in (batch for step in steps for batch in step.micro_batches):
        tokens = [expected[row][0] for row in batch.rows.tolist()]
        assert batch.labels.tolist() == [expected[row][1] for row in batch.rows.tolist()]
        padded = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.int32)
        for place, row in enumerate(tokens):
            padded[place, : len(row)] = torch.tensor(row)
        if layout == "packed":
            packed = pack_padded_sequence(padded, batch.lengths, batch_first=True)
            padded = packed.data
            assert torch.equal(batch.batch_sizes, packed.batch_sizes)
        assert torch.equal(batch.widened(), padded)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(120))


def test_threads_end_with_the_steps_even_when_left_early(split: Split) -> None:
    before = threading.active_count()
    steps = make_loader(split).steps(0)
    next(steps)
    steps.close()
    list(make_loader(split).steps(0))
    assert threading.active_count() == before


def test_an_error_of_the_thread_reaches_the_training_loop(split: Split) -> None:
    def guard() -> None:
        raise DataError("shard.arrow: truncated")

    with pytest.raises(DataError, match="truncated"):
        list(make_loader(split, guard=guard).steps(0))


SEED, BATCH, UNLABELLED_BATCH = 3, 20, 17
LABELLED, UNLABELLED = 90, 61
"""Five steps an epoch, four a pass."""


both = shared_dataset({"train": LABELLED, "validation": 10, "unlabelled": UNLABELLED}, block_rows=16)


def unlabelled_order(split: Split) -> Order:
    return order_over(split, OrderSpec(seed=stream_seed(SEED), global_batch=UNLABELLED_BATCH))


def paired(both: Path, **options: Any) -> Loader:
    manifest = read_manifest(both)
    split, beside = (Split(both, manifest, name) for name in ("train", "unlabelled"))
    unlabelled = Loader(beside, unlabelled_order(beside), layout="padded", device=CPU, **options)
    order = order_over(split, OrderSpec(seed=SEED, global_batch=BATCH))
    return Loader(split, order, layout="padded", device=CPU, unlabelled=unlabelled, **options)


def rows_beside(steps: Any) -> list[list[int]]:
    return [[int(row) for batch in step.unlabelled for row in batch.rows] for step in steps]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_each_row_once_in_every_pass_on_any_number_of_ranks(
    both: Path, world_size: int, micro_batch: int | None
) -> None:
    loaders = [paired(both, rank=rank, world_size=world_size, micro_batch=micro_batch) for rank in range(world_size)]
    split = loaders[0].unlabelled.split
    order, numbers = unlabelled_order(split), np.concatenate([block.row for block in split.blocks])
    per_epoch, found = loaders[0].order.steps_per_epoch, []
    for epoch in range(4):
        shares = [rows_beside(loader.steps(epoch)) for loader in loaders]
        found += [sorted(row for share in shares for row in share[step]) for step in range(per_epoch)]
    assert len(found) == 4 * 5 == 5 * order.steps_per_epoch
    for step, rows in enumerate(found):
        assert rows == sorted(numbers[order.batch_rows(*divmod(step, 4))].tolist())
    for first in range(0, 20, 4):
        assert sorted(row for step in found[first : first + 4] for row in step) == list(range(UNLABELLED))
    assert found[:4] != found[4:8]
