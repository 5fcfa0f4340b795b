# SPDX-License-Identifier: Apache-2.0
"""Workers of a shared directory: what is killed in mid-run, worker or job, changes no byte; every wait has a limit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from preprocessing.base.errors import ConfigError, UserError
from preprocessing.config import ExecutorConfig, known_encoding
from preprocessing.job import folder
from preprocessing.job.executors import workers
from tests.commands import ROOT, wait_until
from tests.corpora import Command, contents, reviews, write_csv

pytestmark = pytest.mark.processes
SMALL = ("--shards.rows", 500, "--source.part_mb", 0.02)
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a command of preprocessing; whatever is left is killed at the end."""
    started = []

    def command(*words: object) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-m", "preprocessing", *map(str, words)], cwd=ROOT))
        return started[-1]

    yield command
    for process in started:
        process.kill()
        process.wait(30)


@pytest.mark.timeout(240)
def test_a_job_and_a_worker_are_killed_in_mid_run_and_the_bytes_are_the_same(
    start: Start, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, there = tmp_path / "queue", tmp_path / "there"
    source = write_csv(tmp_path / "reviews.csv", reviews(2500, words=60))
    command.build(source, tmp_path / "one", *SMALL)
    command.build(source, tmp_path / "four", *SMALL, "--executor.workers", 4)
    lost, other = start("work", queue, "--processes", 1), start("work", queue, "--processes", 2)
    shared = (*SMALL, "--executor.kind", "folder", "--executor.scheduler", queue)
    words = ("--source.path", source, "--output", there, "--text.max_tokens", 64, "--vocabulary.min_count", 1)
    job = start("prepare", *words, *shared)
    markers = there / ".work" / "parts"
    wait_until(lambda: [*markers.glob("*.json")])
    job.kill()
    job.wait(30)
    before = len([*markers.glob("*.json")])

    monkeypatch.setattr(folder, "SILENT_S", 3.0)

    def kill() -> None:
        wait_until(lambda: len([*markers.glob("*.json")]) > before)
        wait_until(lambda: [*queue.glob(f"*/workers/*-{lost.pid}/*")])
        lost.kill()

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        command.build(source, there, *shared)
        killed.result(timeout=60)
    assert "parts already done" in command.err
    assert contents(there) == contents(tmp_path / "one") == contents(tmp_path / "four")
    assert other.wait(30) == 0, "workers leave when the job has ended"


@pytest.mark.timeout(120)
def test_what_a_task_raises_reaches_the_job(start: Start, tmp_path: Path) -> None:
    worker = start("work", tmp_path, "--processes", 2)
    with workers(ExecutorConfig(kind="folder", scheduler=str(tmp_path), timeout_s=60)) as found:
        names = {"utf8": "utf-8", "latin-1": "iso8859-1", "cp1251": "cp1251"}
        assert dict(found.map(known_encoding, names, what="test")) == names
        assert found.alive() == 1
        with pytest.raises(ConfigError, match=r"^source.encoding: 'utf-9' is not known; utf-8, latin-1"):
            list(found.map(known_encoding, ["utf-8", "utf-9"], what="test"))
    assert worker.wait(30) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["ended"]


@pytest.mark.timeout(60)
def test_nobody_works_or_nobody_has_work(tmp_path: Path, command: Command) -> None:
    said = (
        rf"waited for 2 tasks on 0 workers, and none was finished within 1 s .*; start workers: padless work {tmp_path}"
    )
    config = ExecutorConfig(kind="folder", scheduler=str(tmp_path), timeout_s=1)
    with pytest.raises(UserError, match=said), workers(config) as found:
        list(found.map(abs, [1, 2], what="encode"))
    (tmp_path / "ended").unlink()
    assert command("work", tmp_path, "--timeout_s", 1) == 1
    assert f"{tmp_path}: no job for 1 s (timeout_s); start one: padless prepare FILE" in command.sentence
    tmp_path.chmod(0o777)
    assert command("work", tmp_path) == 2
    with pytest.raises(ConfigError, match=f"executor.scheduler: {tmp_path} is not a folder that only this user can"):
        workers(config).__enter__()
