# SPDX-License-Identifier: Apache-2.0
"""Preprocessing by workers of a shared directory, and by a Dask cluster: real processes, of which one, or the job
itself, is killed in mid-run; no byte changes, and every wait has a limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preprocessing.base.errors import ConfigError, UserError
from preprocessing.config import ExecutorConfig, known_encoding
from preprocessing.job import executors
from preprocessing.job.executors import workers
from tests.commands import start_python, wait_until
from tests.corpora import Command, contents, reviews, words_of, write_csv

pytestmark = pytest.mark.processes
SMALL = ("--shards.rows", 500, "--source.part_mb", 0.02)


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """A command of preprocessing."""
    return start_python("-m", "preprocessing", *words, **options)


@pytest.mark.timeout(240)
def test_a_job_and_a_worker_are_killed_in_mid_run_and_the_bytes_are_the_same(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, there = tmp_path / "queue", tmp_path / "there"
    source = write_csv(tmp_path / "reviews.csv", reviews(2500, words=60))
    command.build(source, tmp_path / "one", *SMALL)
    command.build(source, tmp_path / "four", *SMALL, "--executor.workers", 4)
    lost, other = start("work", queue, "--processes", 1), start("work", queue, "--processes", 2)
    shared = (*SMALL, "--executor.kind", "folder", "--executor.scheduler", queue)
    job = start(*words_of(source, there, *shared))
    markers = there / ".work" / "parts"
    wait_until(lambda: [*markers.glob("*.json")])
    job.kill()
    job.wait(30)
    before = len([*markers.glob("*.json")])

    monkeypatch.setattr(executors, "SILENT_S", 3.0)

    def kill() -> None:
        wait_until(lambda: len([*markers.glob("*.json")]) > before)
        wait_until(lambda: [*queue.glob(f"*/workers/*-{lost.pid}/*")])
        lost.kill()
        lost.wait(30)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        command.build(source, there, *shared)
        killed.result(timeout=60)
    assert "parts already done" in command.err
    assert contents(there) == contents(tmp_path / "one") == contents(tmp_path / "four")
    assert other.wait(30) == 0, "workers leave when the job has ended"


@pytest.mark.timeout(120)
def test_what_a_task_raises_reaches_the_job(tmp_path: Path) -> None:
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
    said = "none of 2 tasks was finished by 0 workers within 1 s"
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


class Cluster:
    """A scheduler and workers as processes of their own, found through a scheduler file; skips without Dask."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("distributed", reason="needs distributed (extra dask)")
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[str]] = []
        self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        wait_until(self.file.exists, 60)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        words = ("-m", f"distributed.cli.{program}", "--scheduler-file", self.file, *arguments)
        with open(self.folder / f"{len(self.processes)}.log", "wb") as log:
            self.processes.append(start_python(*words, cwd=self.folder, stderr=log, stdout=log))
        return self.processes[-1]

    def worker(self, threads: int = 1) -> subprocess.Popen[str]:
        return self.start("dask_worker", "--nthreads", str(threads), "--no-nanny", "--no-dashboard")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(timeout=30)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "cluster").mkdir()
    running = Cluster(tmp_path / "cluster")
    yield running
    running.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("stage", ["parts", "near"])
def test_a_worker_is_killed_in_mid_run_and_the_bytes_are_the_same(
    cluster: Cluster, tmp_path: Path, command: Command, stage: str
) -> None:
    """Also while near-duplicates are looked for, of which a tenth of the reviews are one."""
    rows = reviews(2500, words=60)
    rows += [(f"once more {text}", label) for text, label in rows[:250]]
    source = write_csv(tmp_path / "reviews.csv", rows)
    others = write_csv(tmp_path / "others.csv", [(text,) for text, _ in reviews(500, seed=1)], header=("text",))
    both = (*SMALL, "--source.unlabelled_path", others, "--quality.near_duplicates", "drop")
    assert command.build(source, tmp_path / "here", *both).statistics["dropped"]["near_duplicates"] > 20
    lost, _ = cluster.worker(), cluster.worker(threads=2)
    dask = ("--executor.kind", "dask", "--executor.scheduler", cluster.file)
    job = start(*words_of(source, tmp_path / "there", *both, *dask), stderr=subprocess.PIPE)
    markers = tmp_path / "there" / ".work" / stage
    wait_until(lambda: job.poll() is not None or len([*markers.glob("*.json")]) >= 2)
    os.kill(lost.pid, signal.SIGKILL)
    assert job.poll() is None, "the run was over before a worker could be killed"
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.timeout(60)
def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs distributed (extra dask)")
    monkeypatch.setattr(executors, "SCHEDULER_S", 2)
    source = write_csv(tmp_path / "reviews.csv", reviews(50))
    dask = ("--executor.kind", "dask", "--executor.scheduler", "tcp://127.0.0.1:9")
    assert command("prepare", "--source.path", source, "--output", tmp_path / "out", *dask) == 2
    assert "executor.scheduler: tcp://127.0.0.1:9: no scheduler with workers answers there" in command.sentence


@pytest.mark.timeout(120)
def test_a_silent_worker_and_a_silent_scheduler_have_a_limit(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = cluster.worker()
    config = ExecutorConfig(kind="dask", scheduler=str(cluster.file), timeout_s=3)
    with workers(config, quiet=True) as found:
        assert found.alive() == 1
        worker.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match=r"^encode: none of 2 tasks was finished by 1 workers within 3 s"):
            list(found.map(abs, [1, 2], what="encode"))
        cluster.processes[0].send_signal(signal.SIGSTOP)
        monkeypatch.setattr(executors, "SCHEDULER_S", 2.0)
        with pytest.raises(UserError, match=r"scheduler.json: the scheduler did not answer within 2 s; look after it"):
            found.alive()
        for process in cluster.processes:
            process.send_signal(signal.SIGCONT)
