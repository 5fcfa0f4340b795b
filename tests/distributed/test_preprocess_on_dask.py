# SPDX-License-Identifier: Apache-2.0
"""A Dask cluster does the work: real scheduler and worker processes, one of them killed in mid-run, the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from preprocessing.base.errors import UserError
from preprocessing.config import ExecutorConfig
from preprocessing.job import executors
from preprocessing.job.executors import workers
from tests.commands import ROOT, wait_until
from tests.corpora import Command, contents, reviews, write_csv

pytest.importorskip("distributed", reason="needs distributed (extra dask)")

pytestmark = pytest.mark.processes
SMALL = ("--shards.rows", 500, "--source.part_mb", 0.02)


class Cluster:
    """A scheduler and workers as processes of their own, found through a scheduler file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        wait_until(self.file.exists, 60)

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", str(self.file), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with open(self.folder / f"{len(self.processes)}.log", "wb") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stderr=log, stdout=log)
        self.processes.append(process)
        return process

    def worker(self, threads: int = 1) -> subprocess.Popen[bytes]:
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
def test_a_worker_is_killed_in_mid_run_and_the_bytes_are_the_same(
    cluster: Cluster, tmp_path: Path, command: Command
) -> None:
    source = write_csv(tmp_path / "reviews.csv", reviews(2500, words=60))
    others = write_csv(tmp_path / "others.csv", [(text,) for text, _ in reviews(500, seed=1)], header=("text",))
    both = (*SMALL, "--source.unlabelled_path", others)
    command.build(source, tmp_path / "here", *both)
    lost, _ = cluster.worker(), cluster.worker(threads=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["--source.path", source, "--output", tmp_path / "there", "--text.max_tokens", 64, *both]
    arguments += ["--vocabulary.min_count", 1, "--executor.kind", "dask", "--executor.scheduler", cluster.file]
    job = subprocess.Popen(
        [sys.executable, "-m", "preprocessing", "prepare", *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
    )
    markers = tmp_path / "there" / ".work" / "parts"
    wait_until(lambda: job.poll() is not None or len([*markers.glob("*.json")]) >= 2)
    os.kill(lost.pid, signal.SIGKILL)
    assert job.poll() is None, "the run was over before a worker could be killed"
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors.decode()
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.timeout(60)
def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 2)
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
        with pytest.raises(
            UserError, match=r"^encode: waited for 2 tasks on 1 workers, and none was finished within 3 s"
        ):
            list(found.map(abs, [1, 2], what="encode"))
        cluster.processes[0].send_signal(signal.SIGSTOP)
        monkeypatch.setattr(executors, "SCHEDULER_S", 2.0)
        with pytest.raises(UserError, match=r"scheduler.json: the scheduler did not answer within 2 s; look after it"):
            found.alive()
        for process in cluster.processes:
            process.send_signal(signal.SIGCONT)
