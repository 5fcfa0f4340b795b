# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the rows: preprocessing a million and four, in less than 600 MB and 40 bytes of disk a row,
a dataset of a billion rows that opens at once, and predictions of a million.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.data.loader import open_data
from harness.data.order import OrderSpec, order_over
from preprocessing.dataset.index import write_index
from preprocessing.dataset.shards import MANIFEST, Split, read_manifest, write_manifest
from tests.helpers.batches import loader_of, rows_of_step
from tests.helpers.bundles import write_run
from tests.helpers.commands import ROOT
from tests.helpers.corpora import reviews, write_csv
from tests.helpers.datasets import rewrite_shards, write_dataset

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(1800)]


def peaks_of(command: list[str]) -> tuple[int, list[int]]:
    """Peak resident bytes of the process and of each worker it starts, read while it runs."""
    process = psutil.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    peaks = {}
    deadline = time.monotonic() + 1200
    while process.poll() is None:
        assert time.monotonic() < deadline, "not done within 1200 s"
        for member in (process, *process.children()):
            with contextlib.suppress(psutil.Error, OSError):
                high_water = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{member.pid}/status").read_text())
                # a child that has not yet become a worker still has its parent's command line, and memory
                if high_water and (member.pid == process.pid or "padless.core.jobs" in " ".join(member.cmdline())):
                    peaks[member.pid] = int(high_water[1]) << 10
        time.sleep(0.2)
    assert process.returncode == 0
    return peaks.pop(process.pid), [peak for peak in peaks.values() if peak > 64 << 20]


@pytest.mark.timeout(300)
def test_a_billion_rows_in_a_hundred_thousand_shards_take_two_seconds_to_the_first_step(tmp_path: Path) -> None:
    """Of CPU time. All shards are links to a few files; what a step reads is what the split says of its rows."""
    write_dataset(tmp_path, {"train": 20_000, "validation": 100}, longest=16, widths=(8, 16), block_rows=8192)
    manifest = read_manifest(tmp_path)
    *others, narrow_info, wide_info = sorted(
        rewrite_shards(tmp_path), key=lambda info: (info.split == "train", info.width)
    )
    number = 10**9 // (narrow_info.rows + wide_info.rows)
    for info in (narrow_info, wide_info):
        for shard_number in range(1, number):
            os.link(tmp_path / info.path, tmp_path / replace(info, number=shard_number).path)
    all_infos = (
        replace(info, number=shard_number) for shard_number in range(number) for info in (narrow_info, wide_info)
    )
    splits, index = write_index(tmp_path, itertools.chain(all_infos, others))
    write_manifest(tmp_path, replace(manifest, splits=splits, index=index))
    assert (tmp_path / MANIFEST).stat().st_size < 1 << 14

    steps, used = [0, 1_234_567, 10**9 // 512 - 1], psutil.Process().memory_full_info().uss
    began = time.process_time()
    manifest = read_manifest(tmp_path)
    opened = open_data(str(tmp_path), manifest, ["train", "validation"])
    split = opened.splits["train"]
    order = order_over(split, OrderSpec(seed=0, global_batch=512))
    for step in steps:
        loader = loader_of(split, order)
        with contextlib.closing(loader.steps(0, step)) as steps_read:
            (batch,) = next(steps_read).micro_batches
        assert time.process_time() - began < 2
        rows = rows_of_step(order, 0, step)
        blocks = split.block_starts.searchsorted(rows, side="right") - 1
        places = zip(blocks.tolist(), (rows - split.block_starts[blocks]).tolist(), strict=True)
        wanted = [split.blocks[block].ids[position, : batch.ids.shape[1]] for block, position in places]
        for row, expected in zip(batch.ids.numpy(), wanted, strict=True):
            assert row[row > 0].tolist() == expected[expected > 0].tolist()
        began = time.process_time()
    assert (len(split), order.steps_per_epoch) == (number * 20_000, -(-number * 20_000 // 512))
    assert psutil.Process().memory_full_info().uss - used < 200 << 20

    for _ in itertools.islice(split.shards, 2 * Split.max_open_shards):
        pass
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path / "train") in line]
    assert len(maps) < Split.max_open_shards + 100  # the loaders hold their windows


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    random, peaks = np.random.default_rng(0), []
    for rows in (1_000_000, 4_000_000):
        texts = (" ".join(map("w{}".format, ids)) for ids in random.integers(0, 30_000, (rows, 8)).tolist())
        source, out = write_csv(tmp_path / "rows.csv", zip(texts, itertools.cycle("ab"))), tmp_path / str(rows)
        words = ["prepare", source, "--output", out, "--executor.workers", 2]
        job, worker_peaks = peaks_of([sys.executable, "-m", "padless", *map(str, words)])
        assert len(worker_peaks) == 2
        peaks.append(max(job, *worker_peaks))
        manifest = read_manifest(out)
        assert sum(map(manifest.rows, manifest.splits)) == rows
        assert sum(shard.bytes for shard in manifest.shards(out)) < 40 * rows
    assert max(peaks) < min(600 << 20, 1.5 * min(peaks))  # a million rows do not fill what DuckDB may use


NUM_ROWS_LARGE, NUM_ROWS_SMALL = 1_000_000, 100_000
ALLOWED = 112 << 20
"""By how many resident bytes a process may be larger with ten times the rows: a reader is some blocks ahead, for which
the smaller file is too short."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("million")
    write_run(root)
    texts = [text for text, _ in reviews(10_000, words=9)]
    for name, number in (("many.csv", NUM_ROWS_LARGE), ("few.csv", NUM_ROWS_SMALL)):
        write_csv(root / name, ((row, texts[row * 7919 % 10_000]) for row in range(number)), ("n", "text"))
    return root


def command_of(root: Path, source: str, target: str) -> list[str]:
    """A prediction by two processes."""
    words = ["--run", root / "run", "--input", root / source, "--output", root / target, "--source.part_mb", 0.5]
    return [sys.executable, "-m", "padless", "predict", *map(str, words), "--processes", "2"]


def test_predictions_of_more_rows_take_no_more_memory(root: Path) -> None:
    (small, small_workers), (large, large_workers) = (
        peaks_of(command_of(root, source, f"{source}-predicted.csv")) for source in ("few.csv", "many.csv")
    )
    assert large < small + ALLOWED
    assert max(large_workers) < max(small_workers) + ALLOWED
