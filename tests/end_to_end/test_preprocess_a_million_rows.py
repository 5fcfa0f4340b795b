# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the corpus: 250,000 and 1,000,000 reviews, in less than 1 GiB."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from preprocessing.dataset.shards import read_manifest
from tests.commands import ROOT
from tests.corpora import write_csv

pytestmark = pytest.mark.processes

GIB = 1 << 30


def repeated_with_changes(texts: list[str], number: int) -> Iterator[tuple[str, int]]:
    """IMDB's reviews over and over, three words of each replaced by new ones."""
    chance = random.Random(0)
    for place, text in enumerate(itertools.islice(itertools.cycle(texts), number)):
        words = text.split(" ")
        for _ in range(3):
            words[chance.randrange(len(words))] = f"new{chance.randrange(200_000)}"
        yield " ".join(words), place % 2


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


def costs(imdb: list[str], folder: Path, number: int) -> tuple[int, int]:
    """Peak bytes of a job with so many rows, and of its largest worker."""
    folder.mkdir()
    write_csv(folder / "reviews.csv", repeated_with_changes(imdb, number))
    words = ["prepare", folder / "reviews.csv", "--output", folder / "out", "--executor.workers", 2]
    job, each = peaks_of([sys.executable, "-m", "preprocessing", *map(str, words)])
    manifest = read_manifest(folder / "out")
    assert sum(map(manifest.rows, manifest.splits)) == number
    assert len(each) == 2
    assert max(job, *each) < GIB
    return job, max(each)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_does_not_grow_with_rows(imdb: list[str], tmp_path: Path) -> None:
    few = costs(imdb, tmp_path / "few", 250_000)
    many = costs(imdb, tmp_path / "many", 1_000_000)
    assert many[1] < few[1] * 1.3
