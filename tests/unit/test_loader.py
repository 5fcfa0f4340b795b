# SPDX-License-Identifier: Apache-2.0
"""The loader: what a batch holds in every layout, and what it costs in memory, threads and files."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Layout
from harness.data.loader import Loader
from harness.data.order import Order, OrderSpec, order_over
from preprocessing.base.errors import DataError
from preprocessing.dataset.shards import Manifest, Split, read_manifest, write_shard
from tests.datasets import write_dataset

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 300, "validation": 20, "test": 20}, block_rows=32)
    return root


@pytest.fixture(scope="module")
def split(dataset: Path) -> Split:
    return Split(dataset, read_manifest(dataset), "train")


def make_loader(split: Split, order: Order | None = None, layout: Layout = "padded", **options: Any) -> Loader:
    order = order or order_over(split, OrderSpec(seed=1, global_batch=30, window_rows=130))
    chosen: dict[str, Any] = {"rank": 0, "world_size": 1, **options}
    return Loader(split, order, layout=layout, device=CPU, **chosen)


def wide(values: torch.Tensor) -> np.ndarray:
    """Narrow ids as an embedding would see them."""
    return (values.to(torch.int32) & 0xFFFF).numpy() if values.dtype == torch.int16 else values.numpy()


def by_source(split: Split) -> dict[int, tuple[list[int], int]]:
    """Tokens and label of every row, by its number in the source."""
    return {
        int(block.row[i]): (block.ids[i, : block.length[i]].tolist(), int(block.label[i]))
        for block in split.blocks
        for i in range(len(block.row))
    }


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("micro_batch", [None, 7])
def test_a_batch_holds_the_rows_of_its_step(split: Split, layout: Layout, micro_batch: int) -> None:
    expected, numbers = by_source(split), np.concatenate([block.row for block in split.blocks])
    loader = make_loader(split, layout=layout, micro_batch=micro_batch, rank=1, world_size=2)
    for step in loader.steps(2):
        rows = loader.order.rank_rows(2, step.step, 1, 2)
        assert sorted(numbers[rows].tolist()) == sorted(r for batch in step.micro_batches for r in batch.rows.tolist())
        for batch in step.micro_batches:
            assert batch.lengths.dtype == batch.labels.dtype == torch.int64
            tokens = [expected[row][0] for row in batch.rows.tolist()]
            assert batch.lengths.tolist() == [len(row) for row in tokens]
            assert batch.labels.tolist() == [expected[row][1] for row in batch.rows.tolist()]
            padded = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
            for place, row in enumerate(tokens):
                padded[place, : len(row)] = row
            if layout == "padded":
                np.testing.assert_array_equal(wide(batch.ids), padded)
                continue
            packed = pack_padded_sequence(torch.from_numpy(padded), batch.lengths, batch_first=True)
            np.testing.assert_array_equal(wide(batch.ids), packed.data.numpy())
            assert batch.batch_sizes is not None
            assert batch.batch_sizes.tolist() == packed.batch_sizes.tolist()


def write_numbered(root: Path, rows: int, width: int, dtype: type) -> Split:
    """Full rows whose every id is the row's number, in two shards."""
    ids = np.repeat(np.arange(1, rows + 1)[:, None], width, axis=1).astype(dtype)
    columns = (np.full(rows, width), np.zeros(rows, int), np.arange(rows))
    half = rows // 2
    infos = [
        write_shard(root, f"train/{number}.arrow", ids[piece], *(column[piece] for column in columns), block_rows=50)
        for number, piece in enumerate((slice(0, half), slice(half, rows)))
    ]
    name = np.dtype(dtype).name
    manifest = Manifest(["a", "b"], {"train": infos}, name, 50, rows + 1, "", {}, "")
    return Split(root, manifest, "train")


def test_no_batch_is_overwritten_while_it_is_in_use(tmp_path: Path) -> None:
    """A slow consumer checks a batch long after the thread has filled everything it may fill."""
    split = write_numbered(tmp_path, 4_000, 4, np.uint16)
    order = order_over(split, OrderSpec(seed=0, global_batch=10))
    for step in itertools.islice(make_loader(split, order).steps(0), 60):
        threading.Event().wait(0.005)
        (batch,) = step.micro_batches
        np.testing.assert_array_equal(batch.ids.numpy(), np.repeat(batch.rows[:, None] + 1, 4, axis=1))


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_short_rows_of_wide_shards_among_long_rows_of_narrow_ones(tmp_path: Path, layout: Layout) -> None:
    """Nothing but zeros lies beyond a row, whatever the shard it comes from and wherever that ends in memory."""
    random = np.random.default_rng(0)
    infos = []
    for number, width in enumerate((8, 24, 16)):
        length = random.integers(1, width + 1, 40)
        length[0] = width
        ids = random.integers(1, 60_000, (40, width)).astype(np.uint16)
        ids[np.arange(width) >= length[:, None]] = 0
        rows = np.arange(40) + 40 * number
        infos.append(write_shard(tmp_path, f"train/{number}.arrow", ids, length, rows % 2, rows, block_rows=16))
    split = Split(tmp_path, Manifest(["a", "b"], {"train": infos}, "uint16", 16, 60_000, "", {}, ""), "train")
    expected, seen = by_source(split), []
    for step in make_loader(split, order_over(split, OrderSpec(seed=0, global_batch=17)), layout).steps(0):
        (batch,) = step.micro_batches
        tokens = [expected[row][0] for row in batch.rows.tolist()]
        padded = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.int32)
        for place, row in enumerate(tokens):
            padded[place, : len(row)] = torch.tensor(row)
        if layout == "packed":
            padded = pack_padded_sequence(padded, batch.lengths, batch_first=True).data
        assert torch.equal(batch.widened(), padded)
        seen += batch.rows.tolist()
    assert sorted(seen) == list(range(120))


def test_steps_may_begin_and_end_anywhere(split: Split) -> None:
    loader = make_loader(split)
    whole = [sorted(batch.rows.tolist()) for step in loader.steps(0) for batch in step.micro_batches]
    assert len(whole) == 10
    for first, last in itertools.combinations_with_replacement(range(11), 2):
        found = [(s.step, sorted(s.micro_batches[0].rows.tolist())) for s in make_loader(split).steps(0, first, last)]
        assert found == list(enumerate(whole))[first:last]


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


def test_ten_epochs_do_not_grow(tmp_path: Path) -> None:
    """Private memory after ten more epochs, of 20 MB each: less than 5 MB more."""
    split = write_numbered(tmp_path, 20_000, 512, np.uint16)
    order = order_over(split, OrderSpec(seed=0, global_batch=512))
    loader = make_loader(split, order)
    used = []
    for epoch in range(12):
        assert sum(batch.num_rows for step in loader.steps(epoch) for batch in step.micro_batches) == 20_000
        used.append(psutil.Process().memory_full_info().uss)
    assert used[-1] - used[1] < 5e6


SHM = """
import os, sys, torch
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from preprocessing.dataset.shards import Split, read_manifest
space = os.statvfs("/dev/shm")
assert space.f_blocks * space.f_frsize <= 1 << 20, "the small /dev/shm is not there"
split = Split(sys.argv[1], read_manifest(sys.argv[1]), "train")
order = order_over(split, OrderSpec(seed=0, global_batch=150))
loader = Loader(split, order, rank=0, world_size=1, layout="packed", device=torch.device("cpu"))
print(sum(step.global_rows for epoch in range(3) for step in loader.steps(epoch)), os.listdir("/dev/shm"))
"""


@pytest.mark.processes
def test_a_megabyte_of_shared_memory_is_enough(dataset: Path) -> None:
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    enter = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    try:
        allowed = subprocess.run([*enter, mount], capture_output=True, timeout=20, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("needs unshare and the right to mount in a namespace of one's own")
    script = f'{mount} && exec "$@"'
    command = [*enter, script, "sh", sys.executable, "-c", SHM, str(dataset)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "900 []\n"
