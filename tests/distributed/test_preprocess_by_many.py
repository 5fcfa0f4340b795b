# SPDX-License-Identifier: Apache-2.0
"""Preprocessing by shares of a job, and by a Dask cluster: real processes, of which one is killed in mid-run; no byte
changes, and every wait has a limit.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from padless.core import jobs
from padless.core.errors import ConfigError
from preprocessing.pipeline import work_folder
from tests.helpers.commands import start_python, wait_until
from tests.helpers.corpora import Command, contents, reviews, words_of, write_csv

pytestmark = pytest.mark.processes
SMALL = ("--shards.rows", 500, "--source.part_mb", 0.02)


def start(*words: object, **options: Any) -> subprocess.Popen[str]:
    """A command of preprocessing."""
    return start_python("-m", "padless", *words, **options)


@pytest.mark.timeout(240)
def test_shares_on_any_machines_make_the_bytes_of_one_job(tmp_path: Path, command: Command) -> None:
    """One of three is killed in mid-run and started again."""
    source = write_csv(tmp_path / "reviews.csv", reviews(1500, words=60))
    command.build(source, tmp_path / "one", *SMALL)
    words = words_of(source, tmp_path / "there", *SMALL)
    shares = [start(*words, "--executor.share", f"{number}/3", stderr=subprocess.PIPE) for number in range(3)]
    markers = tmp_path / "there" / ".work" / "parts"
    wait_until(lambda: [*markers.glob("*.json")])
    shares[1].kill()
    shares[1].communicate(timeout=30)
    shares[1] = start(*words, "--executor.share", "1/3", stderr=subprocess.PIPE)
    for share in shares:
        _, errors = share.communicate(timeout=120)
        assert share.returncode == 0, errors
    assert contents(tmp_path / "there") == contents(tmp_path / "one")
    assert command(*words, "--executor.share", "2/3") == 0
    assert "already complete" in command.err


@pytest.mark.timeout(60)
def test_a_share_makes_what_others_do_not(tmp_path: Path, command: Command) -> None:
    source = write_csv(tmp_path / "reviews.csv", reviews(200))
    small = ("--source.part_mb", 0.002, "--shards.rows", 50)
    command.build(source, tmp_path / "one", *small)
    command.build(source, tmp_path / "there", *small, "--executor.share", "2/2", "--executor.timeout_s", 1)
    assert contents(tmp_path / "there") == contents(tmp_path / "one")
    for wrong in ("3/2", "1/2/3"):
        assert "executor.share" in command.refused(2, source, tmp_path / "out", "--executor.share", wrong)
    for settings, is_refused in (({"seed": 0}, False), ({"seed": 0}, False), ({"seed": 4}, True)):
        with pytest.raises(ConfigError, match=r"^executor.share: ") if is_refused else nullcontext():
            work_folder.check_shares(tmp_path, settings)


class Cluster:
    """A scheduler and workers as processes of their own, found through a scheduler file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen[str]] = []
        self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        wait_until(self.file.exists, 60)

    def start(self, program: str, *more: str) -> subprocess.Popen[str]:
        words = ("-m", f"distributed.cli.{program}", "--scheduler-file", self.file, "--no-dashboard", *more)
        with open(self.folder / f"{len(self.processes)}.log", "wb") as log:
            self.processes.append(start_python(*words, cwd=self.folder, stderr=log, stdout=log))
        return self.processes[-1]

    def start_worker(self, threads: int) -> subprocess.Popen[str]:
        return self.start("dask_worker", "--nthreads", str(threads), "--no-nanny")

    def kill(self, *processes: subprocess.Popen[str]) -> None:
        for process in processes or self.processes:
            process.kill()
            process.wait(timeout=30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="needs distributed (extra dask)")
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    yield running
    running.kill()


@pytest.mark.timeout(180)
def test_a_worker_is_killed_in_mid_run_and_the_bytes_are_the_same(
    cluster: Cluster, tmp_path: Path, command: Command
) -> None:
    source = write_csv(tmp_path / "reviews.csv", reviews(1500, words=60))
    unlabelled = write_csv(tmp_path / "others.csv", [(text,) for text, _ in reviews(300, seed=1)], header=("text",))
    sources = (*SMALL, "--source.unlabelled_path", unlabelled)
    command.build(source, tmp_path / "here", *sources)
    victim, other = cluster.start_worker(threads=1), cluster.start_worker(threads=2)
    dask = ("--executor.scheduler", cluster.file)
    job = start(*words_of(source, tmp_path / "there", *sources, *dask), stderr=subprocess.PIPE)
    markers = tmp_path / "there" / ".work" / "parts"
    wait_until(lambda: job.poll() is not None or len([*markers.glob("*.json")]) >= 2)
    cluster.kill(victim)
    assert job.poll() is None, "the run was over before a worker could be killed"
    _, errors = job.communicate(timeout=120)
    assert job.returncode == 0, errors
    cluster.kill(other)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.mark.timeout(60)
def test_a_scheduler_that_does_not_answer_is_named(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs distributed (extra dask)")
    monkeypatch.setattr(jobs, "SCHEDULER_S", 2)
    source = write_csv(tmp_path / "reviews.csv", reviews(50))
    dask = ("--executor.scheduler", "tcp://127.0.0.1:9")
    assert command("prepare", "--source.path", source, "--output", tmp_path / "out", *dask) == 2
    assert "executor.scheduler: tcp://127.0.0.1:9" in command.sentence
