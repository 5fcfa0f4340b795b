# SPDX-License-Identifier: Apache-2.0
"""A million rows: memory does not grow with their number; killed twice and continued, and with two Dask workers, the
bytes are those of an uninterrupted prediction.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from preprocessing.base import atomic
from tests.bundles import write_run
from tests.commands import ROOT, run_module, succeed, wait_until
from tests.corpora import reviews, write_csv
from tests.end_to_end.test_preprocess_a_million_rows import peaks_of

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(1200)]
MANY, FEW = 1_000_000, 100_000
ALLOWED = 48 << 20
"""By how many resident bytes a process may be larger with ten times the rows."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("million")
    write_run(root)
    texts = [text for text, _ in reviews(10_000, words=9)]
    for name, number in (("many.csv", MANY), ("few.csv", FEW)):
        write_csv(root / name, ((row, texts[row * 7919 % 10_000]) for row in range(number)), ("n", "text"))
    return root


def words_of(root: Path, source: str, target: str, *more: object) -> list[str]:
    """The options of a prediction by two processes."""
    words = ["--run", root / "run", "--input", root / source, "--output", root / target, "--part_mb", 0.5, *more]
    return list(map(str, words))


def start(root: Path, source: str, target: str) -> psutil.Popen:
    return psutil.Popen(command_of(root, source, target), cwd=ROOT, stderr=subprocess.DEVNULL)


def command_of(root: Path, source: str, target: str) -> list[str]:
    return [sys.executable, "-m", "harness", "predict", *words_of(root, source, target, "--processes", 2)]


def peaks(root: Path, source: str, target: str) -> tuple[int, int]:
    """Peak resident bytes of the command, and of the largest process that it starts."""
    own, others = peaks_of(command_of(root, source, target))
    return own, max(others)


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> tuple[str, tuple[int, int]]:
    """The sha256 of the predictions of an uninterrupted run, and its memory."""
    found = peaks(root, "many.csv", "whole.csv")
    return atomic.sha256_file(root / "whole.csv"), found


def test_memory_does_not_grow_with_the_rows(root: Path, undisturbed: tuple[str, tuple[int, int]]) -> None:
    few, many = peaks(root, "few.csv", "few-predicted.csv"), undisturbed[1]
    for small, large in zip(few, many, strict=True):
        assert large < small + ALLOWED, f"{few} bytes with {FEW:,} rows, {many} with {MANY:,}"
    with open(root / "whole.csv", "rb") as file:
        assert sum(1 for _ in file) == MANY + 1


def test_killed_twice_and_continued(root: Path, undisturbed: tuple[str, tuple[int, int]]) -> None:
    for enough in (10, 30):
        process = start(root, "many.csv", "killed.csv")
        wait_until(lambda enough=enough: len([*(root / "killed.csv.parts").glob("0*.json")]) >= enough, 300)
        workers = process.children()
        process.kill()
        process.wait(timeout=30)
        wait_until(lambda workers=workers: not any(one.is_running() for one in workers), 30)
        assert not (root / "killed.csv").exists()
    result = succeed(run_module("harness", "predict", *words_of(root, "many.csv", "killed.csv"), timeout_s=600))
    assert "already done" in result.stderr
    assert atomic.sha256_file(root / "killed.csv") == undisturbed[0]


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Path]:
    """The scheduler file of a Dask cluster of two workers."""
    pytest.importorskip("distributed", reason="needs distributed (extra dask)")
    from tests.distributed.test_preprocess_on_dask import Cluster

    running = Cluster(tmp_path)
    for _ in range(2):
        running.worker()
    yield running.file
    running.close()


def test_by_two_workers_of_dask(root: Path, scheduler: Path, undisturbed: tuple[str, tuple[int, int]]) -> None:
    dask = ("--executor", "dask", "--scheduler", scheduler)
    words = words_of(root, "many.csv", "dask.csv", *dask)
    result = succeed(run_module("harness", "predict", *words, timeout_s=600))
    assert "dask: " in result.stderr
    assert atomic.sha256_file(root / "dask.csv") == undisturbed[0]
