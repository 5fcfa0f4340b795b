# SPDX-License-Identifier: Apache-2.0
"""Law 2: a name means completeness. Whatever is killed, cut or changed, nothing half-written is read as whole."""

from __future__ import annotations

import json
import random
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from padless.core import atomic
from padless.core.errors import DataError
from preprocessing.dataset.inspect import verify_dataset
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, read_manifest
from tests.helpers.commands import is_gone, run_module, start_python, succeed, wait_until
from tests.helpers.corpora import contents, prepare, reviews, write_csv

ARGUMENTS = ("--text.max_tokens", "64", "--shards.rows", "250", "--source.part_mb", "0.03", "--executor.workers", "2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "reviews.csv", reviews(1500, words=60))


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The bytes of a run that nothing disturbs, and how many seconds it takes here."""
    folder = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    assert start(source, folder / "out").wait(timeout=120) == 0
    return contents(folder / "out"), time.monotonic() - begin


def start(source: Path, output: Path) -> subprocess.Popen[str]:
    words = ("-m", "padless", "prepare", "--source.path", source, "--output", output, *ARGUMENTS)
    return start_python(*words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """SIGKILL after a while; whether it was still at work."""
    time.sleep(seconds)
    was_alive = process.poll() is None
    process.kill()
    process.wait(timeout=30)
    return was_alive


def nothing_half_written_is_readable(output: Path) -> None:
    """A manifest vouches for everything; without one, there is no dataset. Every final name holds a whole file."""
    if (output / MANIFEST).exists():
        verify_dataset(output)
    elif output.exists():
        with pytest.raises(DataError, match="has not finished"):
            read_manifest(output)


@pytest.mark.processes
@pytest.mark.timeout(240)
def test_killed_at_any_moment_and_restarted_the_bytes_are_the_same(
    source: Path, reference: tuple[dict[str, bytes], float], tmp_path: Path
) -> None:
    """Each run continues the one before; ``tests/night`` kills at many more moments."""
    expected, duration_s = reference
    moments, hits, output = random.Random(1), 0, tmp_path / "out"
    for _ in range(2):
        hits += kill_after(start(source, output), duration_s * moments.uniform(0.2, 0.95))
        nothing_half_written_is_readable(output)
    assert start(source, output).wait(timeout=120) == 0
    assert hits >= 1
    assert contents(output) == expected


@pytest.mark.processes
@pytest.mark.timeout(1600)
@pytest.mark.parametrize(("instants", "kills"), [("few", 5), pytest.param("all", 51, marks=pytest.mark.slow)])
def test_a_dataset_that_is_being_replaced_is_there_whatever_is_killed(
    instants: str, kills: int, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "small.csv", reviews(240))
    words = ("tests.helpers.kills", "dataset", source, tmp_path, instants)
    report = json.loads(succeed(run_module(*words, timeout_s=1500)).stdout)
    assert report["wrong"] == []
    assert report["kills"] >= kills
    assert "take_place" in report["changes"]


@pytest.mark.processes
@pytest.mark.timeout(120)
def test_workers_go_when_the_job_is_killed(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path / "out")
    wait_until(lambda: process.poll() is not None or psutil.Process(process.pid).children())
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait(timeout=30)
    for worker in workers:
        wait_until(partial(is_gone, worker.pid), 60)


def test_every_changed_byte_every_cut_and_every_missing_file_is_named(tmp_path: Path) -> None:
    """One byte at a time, all over every file: every quarter of a file, and both its ends."""
    copy = tmp_path / "out"
    prepare(write_csv(tmp_path / "reviews.csv", reviews(200)), copy, "--shards.rows", 100)
    verify_dataset(copy)
    for path in sorted(path for path in copy.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for size in (0, len(data) // 2, len(data) - 2):  # the newline at the end of JSON says nothing
            path.write_bytes(data[:size])
            assert str(path) in problems(copy), f"{path} cut to {size} bytes"
        path.unlink()
        assert str(path) in problems(copy)
        for position in sorted({0, 1, len(data) - 1, *(len(data) * part // 4 for part in range(4))}):
            changed = bytearray(data)
            changed[position] ^= 1
            path.write_bytes(changed)
            assert str(path) in problems(copy), f"byte {position} of {path}"
        path.write_bytes(data)
    verify_dataset(copy)


def problems(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        verify_dataset(root)
    return str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / VOCABULARY
    atomic.write_bytes(path, b"old")
    with suppress(RuntimeError), atomic.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert contents(tmp_path) == {VOCABULARY: b"old"}
