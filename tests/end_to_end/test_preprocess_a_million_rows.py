# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the corpus: 250,000 and 1,000,000 reviews, each worker well under 1 GiB; and rows without
labels cost what those with labels do.
"""

from __future__ import annotations

import csv
import itertools
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocessing.dataset.shards import read_manifest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
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
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    deadline = time.monotonic() + 1200
    while process.poll() is None:
        assert time.monotonic() < deadline, "not done within 1200 s"
        for pid in [process.pid, *children(process.pid)]:
            peaks[pid] = max(peaks.get(pid, 0), resident_peak(pid))
        time.sleep(0.2)
    assert process.returncode == 0
    return peaks.pop(process.pid), [peak for peak in peaks.values() if peak > 64 << 20]


def children(pid: int) -> list[int]:
    """The workers of a job; a child that has not yet become one still has its parent's command line, and memory."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def resident_peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_memory_is_the_same_for_250_000_and_1_000_000_rows(imdb: list[str], tmp_path: Path) -> None:
    largest = {}
    for number in (250_000, 1_000_000):
        source, output = tmp_path / "reviews.csv", tmp_path / str(number)
        with open(source, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label")])
            csv.writer(file).writerows(repeated_with_changes(imdb, number))
        command = [sys.executable, "-m", "preprocessing", "run", "--source.path", str(source), "--output", str(output)]
        job, each = peaks_of([*command, "--executor.workers", "2"])
        assert len(each) == 2
        assert max(job, *each) < GIB
        assert sum(read_manifest(output).rows(name) for name in ("train", "validation", "test")) == number
        largest[number] = max(each)
    assert largest[1_000_000] < largest[250_000] * 1.3


def costs(imdb: list[str], folder: Path, number: int, *, unlabelled: bool) -> tuple[float, int, int]:
    """Peak bytes of a job with so many rows, nearly all of them without labels or all with, and of its largest worker,
    after the CPU seconds that it took.
    """
    folder.mkdir()
    rows = list(repeated_with_changes(imdb, 1000)) if unlabelled else []
    named = "others.csv" if unlabelled else "reviews.csv"
    with open(folder / named, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(("text",) if unlabelled else ("text", "label"))
        csv.writer(file).writerows(row[: 1 + (not unlabelled)] for row in repeated_with_changes(imdb, number))
    if unlabelled:
        with open(folder / "reviews.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    command = [
        sys.executable,
        "-m",
        "preprocessing",
        "run",
        str(folder / "reviews.csv"),
        "--output",
        str(folder / "out"),
    ]
    command += ["--source.unlabelled_path", str(folder / "others.csv"), "--quality.leaks", "keep"] if unlabelled else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    job, each = peaks_of([*command, "--executor.workers", "2"])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    manifest = read_manifest(folder / "out")
    assert sum(map(manifest.rows, manifest.splits)) == number + len(rows)
    assert ("unlabelled" in manifest.splits) == unlabelled
    return took, job, max(each)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    "number", [pytest.param(250_000, marks=pytest.mark.slow), pytest.param(1_000_000, marks=pytest.mark.night)]
)
def test_rows_without_labels_take_the_memory_of_labelled_ones(imdb: list[str], tmp_path: Path, number: int) -> None:
    labelled = costs(imdb, tmp_path / "labelled", number, unlabelled=False)
    others = costs(imdb, tmp_path / "unlabelled", number, unlabelled=True)
    assert max(others[1:]) < GIB
    seconds, *peaks = [mine / theirs for mine, theirs in zip(others, labelled, strict=True)]
    assert max(peaks) < 1.2, f"job and worker have {peaks} times the memory of labelled rows"
    print(f"{seconds:.2f} times the CPU seconds of labelled rows")
