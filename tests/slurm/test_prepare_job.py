# SPDX-License-Identifier: Apache-2.0
"""Preprocessing on a real cluster, by a job of two nodes and by an array: the bytes are those of a local run, also when
the job, or a task that leads or works, is requeued.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.commands import run_module, succeed
from tests.corpora import contents, reviews, write_csv
from tests.slurm.conftest import Cluster, ask

pytestmark = [pytest.mark.processes, pytest.mark.timeout(400, func_only=True)]

SETTINGS = ("--text.max_tokens", 64, "--vocabulary.min_count", 1, "--shards.rows", 2000, "--source.part_mb", 0.006)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "reviews.csv", reviews(15_000, words=80))


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    """Every file of the dataset, built by this machine alone."""
    output = source.parent / "local"
    succeed(run_module("preprocessing", "prepare", "--source.path", source, "--output", output, *SETTINGS))
    return contents(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "requeued"), [(None, ""), (8, "_1"), (4, "_0")], ids=["two nodes", "a task that works", "that leads"]
)
def test_requeued_in_mid_run_it_goes_on_to_the_same_bytes(
    cluster: Cluster, source: Path, expected: dict[str, bytes], parts: int | None, requeued: str
) -> None:
    output, config = cluster.folder / "dataset", cluster.folder / "job.yaml"
    config.write_text(f"source: {{path: {source}}}\n")
    command = shlex.join(map(str, ("prepare", "--config", config, "--output", output, *SETTINGS)))
    array = ("--array.parts", parts, "--nodes", 1, "--cpus", 1) if parts else ()
    job = cluster.submit(command, options=("--sbatch", f"chdir={cluster.folder}", *array))
    leader, one = f"{job}_0" if parts else job, job + requeued
    markers, queue = output / ".work" / "parts", cluster.folder / f".padless-{job}"
    cluster.until(leader, lambda: len([*queue.glob("*/workers/*")]) >= (4 if parts else 2), "so many workers", 90)
    cluster.until(leader, lambda: len([*markers.glob("*.json")]) >= 20, "part was finished", 90)
    ask("scontrol", "requeue", one)
    cluster.until(one, lambda: cluster.field(one, "JobState") == "PENDING", "requeue", 30)
    done = len([*markers.glob("*.json")])
    assert not (output / "dataset.json").exists(), "it was over before it could be requeued"
    cluster.complete(leader, 200)
    log = cluster.log(leader)
    if one == leader:
        assert cluster.field(one, "Restarts") == "1"
        (again,) = re.findall(r"(\d+) parts already done", log)
        assert int(again) >= done, log
    assert ask("squeue", "--noheader", "--states=RUNNING,PENDING", f"--jobs={job}") == "", "the first task ends last"
    assert contents(output) == expected, log
    assert not queue.exists()
