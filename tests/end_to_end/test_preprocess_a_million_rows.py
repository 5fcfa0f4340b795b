# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the corpus: a million rows and four, in less than 600 MB and 40 bytes of disk a row; and a
dataset of a billion rows opens at once.
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
import torch

from harness.config import RunConfig
from harness.data.loader import Loader
from harness.data.order import OrderSpec, order_over
from harness.data.placement import open_data
from harness.launch.plan import forecast
from harness.ranks.distributed import World
from preprocessing.base.errors import DataError
from preprocessing.dataset.index import write_index
from preprocessing.dataset.shards import MANIFEST, Split, read_manifest, write_manifest
from tests.commands import ROOT
from tests.corpora import write_csv
from tests.datasets import counted, write_dataset

pytestmark = pytest.mark.processes

CPU = torch.device("cpu")


def peaks_of(command: list[str]) -> tuple[int, list[int]]:
    """Peak resident bytes of the process and of each worker it starts, read while it runs."""
    process = psutil.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    peaks = {}
    deadline = time.monotonic() + 1200
    while process.poll() is None:
        assert time.monotonic() < deadline, "not done within 1200 s"
        for one in (process, *process.children()):
            with contextlib.suppress(psutil.Error, OSError):
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one.pid}/status").read_text())
                # a child that has not yet become a worker still has its parent's command line, and memory
                if found and (one.pid == process.pid or "spawn_main" in " ".join(one.cmdline())):
                    peaks[one.pid] = int(found[1]) << 10
        time.sleep(0.2)
    assert process.returncode == 0
    return peaks.pop(process.pid), [peak for peak in peaks.values() if peak > 64 << 20]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_billion_rows_in_a_hundred_thousand_shards_take_two_seconds_to_the_first_step(tmp_path: Path) -> None:
    """Of CPU time. All shards are links to a few files; what a step reads is what the split says of its rows."""
    write_dataset(tmp_path, {"train": 20_000, "validation": 100}, longest=16, widths=(8, 16), block_rows=8192)
    manifest = read_manifest(tmp_path)
    infos = {name: counted(tmp_path, manifest, name) for name in manifest.splits}
    narrow, wide = infos["train"]
    number = 10**9 // (narrow.rows + wide.rows)
    for info in (narrow, wide):
        for of in range(1, number):
            os.link(tmp_path / info.path, tmp_path / replace(info, number=of).path)
    every = (replace(info, number=of) for of in range(number) for info in (narrow, wide))
    splits, index = write_index(tmp_path, itertools.chain(every, infos["validation"]))
    write_manifest(tmp_path, replace(manifest, splits=splits, index=index))
    assert (tmp_path / MANIFEST).stat().st_size < 1 << 14

    steps, used = [0, 1_234_567, 10**9 // 512 - 1], psutil.Process().memory_full_info().uss
    began = time.process_time()
    manifest = read_manifest(tmp_path)
    opened = open_data(str(tmp_path), manifest, ["train", "validation"], World(), timeout_s=5, stage_dir="none")
    split = opened.splits["train"]
    order = order_over(split, OrderSpec(seed=0, global_batch=512))
    for step in steps:
        loader = Loader(split, order, rank=0, world_size=1, layout="padded", device=CPU, guard=opened.look)
        with contextlib.closing(loader.steps(0, step)) as found:
            (batch,) = next(found).micro_batches
        assert time.process_time() - began < 2
        rows = order.batch_rows(0, step)
        blocks = split.block_starts.searchsorted(rows, side="right") - 1
        places = zip(blocks.tolist(), (rows - split.block_starts[blocks]).tolist(), strict=True)
        wanted = [split.blocks[block].ids[place, : batch.ids.shape[1]] for block, place in places]
        assert [row[row > 0].tolist() for row in batch.ids.numpy()] == [row[row > 0].tolist() for row in wanted]
        began = time.process_time()
    assert (len(split), order.steps_per_epoch) == (number * 20_000, -(-number * 20_000 // 512))
    assert forecast(RunConfig(data=str(tmp_path), global_batch=512), manifest, 8)["rows"] == len(split)
    assert psutil.Process().memory_full_info().uss - used < 200 << 20

    for shard in itertools.islice(split.shards, 2 * Split.most_open):
        assert shard.info.rows in (narrow.rows, wide.rows)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path / "train") in line]
    assert len(maps) < Split.most_open + 100  # the loaders hold their windows
    gone = tmp_path / replace(wide, number=number - 1).path
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone}: the manifest names this shard, but it is missing"):
        Split(tmp_path, manifest, "train")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_rows(workers: int, tmp_path: Path) -> None:
    random, peaks = np.random.default_rng(0), []
    for rows in (1_000_000, 4_000_000):
        texts = (" ".join(map("w{}".format, ids)) for ids in random.integers(0, 30_000, (rows, 8)).tolist())
        source, out = write_csv(tmp_path / "rows.csv", zip(texts, itertools.cycle("ab"))), tmp_path / str(rows)
        words = ["prepare", source, "--output", out, "--executor.workers", workers]
        job, each = peaks_of([sys.executable, "-m", "preprocessing", *map(str, words)])
        assert len(each) == (workers if workers > 1 else 0)
        peaks.append(max(job, *each, 0))
        manifest = read_manifest(out)
        assert sum(map(manifest.rows, manifest.splits)) == rows
        assert sum(part.bytes for parts in manifest.splits.values() for part in parts) < 40 * rows
    assert max(peaks) < min(600 << 20, 1.1 * min(peaks))
