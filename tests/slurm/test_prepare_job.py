# SPDX-License-Identifier: Apache-2.0
"""Preprocessing on a real cluster by a job of two nodes and by an array: its log ends with one sentence, and what
comes of it are the bytes of an undisturbed command.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.commands import run_module, succeed, wait_until
from tests.helpers.corpora import contents, reviews, write_csv
from tests.slurm.conftest import Cluster, ask

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]


def last(log: str) -> str:
    """The last line of a log, which is a sentence of the job, said once."""
    lines = log.splitlines()
    assert lines.count(lines[-1]) == 1, log
    return lines[-1]


PREPARING = ("--text.max_tokens", 64, "--vocabulary.min_count", 1, "--shards.rows", 2000, "--source.part_mb", 0.006)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "reviews.csv", reviews(15_000, words=80))


@pytest.fixture(scope="module")
def files_built_locally(source: Path) -> dict[str, bytes]:
    """Every file of the dataset, built by this machine alone."""
    output = source.parent / "local"
    succeed(run_module("padless", "prepare", "--source.path", source, "--output", output, *PREPARING))
    return contents(output)


@pytest.mark.parametrize(
    ("tasks", "requeued"), [(None, ""), (8, "_1"), (4, "_0")], ids=["two nodes", "a task", "the one that completes"]
)
def test_requeued_in_mid_run_it_goes_on_to_the_same_bytes(
    cluster: Cluster, source: Path, files_built_locally: dict[str, bytes], tasks: int | None, requeued: str
) -> None:
    output = cluster.folder / "dataset"
    log = f"--output={cluster.folder}/%x-%A_%a.log"
    array = (f"--array=0-{tasks - 1}", log, "--nodes=1", "--cpus-per-task=1") if tasks else ()
    job = cluster.submit("prepare", source, "-o", output, *PREPARING, options=array)
    leader, requeued_job = f"{job}_0" if tasks else job, job + requeued
    markers = output / ".work" / "parts"
    cluster.until(requeued_job, lambda: any(markers.glob("*.json")), "the first part", 90)
    cluster.until(requeued_job, lambda: len([*markers.glob("*.json")]) >= 20, "part was finished", 90)
    ask("scontrol", "requeue", requeued_job)
    cluster.until(requeued_job, lambda: cluster.field(requeued_job, "JobState") == "PENDING", "requeue", 30)
    num_done = len([*markers.glob("*.json")])
    assert not (output / "dataset.json").exists(), "it was over before it could be requeued"
    cluster.complete(leader, 200)
    log = cluster.log(leader)
    assert last(log) == f"job {leader}: exit 0: done"
    if requeued_job == leader:
        assert cluster.field(requeued_job, "Restarts") == "1"
        assert max(map(int, re.findall(r"(\d+) parts already done", log))) >= num_done, log
    queue = ("squeue", "--noheader", f"--jobs={job}", "--format=%T")
    wait_until(lambda: ask(*queue) == "")  # those that had not begun are cancelled
    assert contents(output) == files_built_locally, log
