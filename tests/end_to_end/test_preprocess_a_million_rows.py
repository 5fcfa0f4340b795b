# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the corpus: a million rows and four, in less than 600 MB and 40 bytes of disk a row."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from preprocessing.dataset.shards import read_manifest
from tests.commands import ROOT
from tests.corpora import write_csv

pytestmark = pytest.mark.processes


def peaks_of(command: list[str]) -> tuple[int, list[int]]:
    """Peak resident bytes of the process and of each worker it starts, read while it runs."""
    process = psutil.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
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
        assert sum(shard.bytes for shards in manifest.splits.values() for shard in shards) < 40 * rows
    assert max(peaks) < min(600 << 20, 1.1 * min(peaks))
