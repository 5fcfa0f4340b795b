# SPDX-License-Identifier: Apache-2.0
"""What ``submit`` makes, on a real cluster of two nodes: a chain, a hook that fails, a
Python of several words; preprocessing by a job of two nodes and by an array. Each log ends with one sentence, and what
comes of it are the bytes of an undisturbed command.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.commands import CPU, run_module, succeed, wait_until
from tests.corpora import contents, reviews, write_csv
from tests.datasets import write_dataset
from tests.slurm.conftest import Cluster, ask
from tests.slurm.test_train_job import BATCH, SETTINGS, outcome

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]

SMALL = {**SETTINGS, "epochs": 1, "threads": 1}
STEPS = 2000 // BATCH
HALF_NODE = ("--nodes", 1, "--cpus", 1)
"""A job on half of a node."""


@pytest.fixture
def config(cluster: Cluster) -> Path:
    """A training of a second or two, in the cluster's folder."""
    data = cluster.folder / "data"
    write_dataset(data, {"train": 2000, "validation": 200, "test": 200})
    path = cluster.folder / "train.json"
    path.write_text(json.dumps({"data": str(data), **SMALL}))
    return path


@pytest.fixture
def container(cluster: Cluster) -> str:
    """A Python of several words: a program like apptainer, in a path with a blank, that runs one only as it should."""
    path = cluster.folder / "my container"
    path.write_text('#!/usr/bin/env bash\n[[ $1 == exec && $2 == "image 1.sif" ]] || exit 99\nshift 2 && exec "$@"\n')
    path.chmod(0o755)
    return shlex.join([str(path), "exec", "image 1.sif", sys.executable])


def last(log: str) -> str:
    """The last line of a log, which is a sentence of the job, said once."""
    lines = log.splitlines()
    assert lines.count(lines[-1]) == 1, log
    return lines[-1]


def test_a_chain_of_three_waits_also_for_a_training_that_is_requeued(
    cluster: Cluster, container: str, tmp_path: Path
) -> None:
    """Preprocessing, training, evaluation, each by a Python of several words; the bytes are those of three commands."""
    source = write_csv(tmp_path / "reviews.csv", reviews(2000, words=30))
    config = tmp_path / "chain.json"
    config.write_text(json.dumps(SMALL))
    data, run = tmp_path / "dataset", tmp_path / "run"

    def commands(data: Path, run: Path) -> list[list[str]]:
        preprocess = ["--source.path", str(source), "--output", str(data), "--vocabulary.min_count", "1"]
        train = ["--config", str(config), "--data", str(data), "--run", str(run)]
        return [preprocess, train, ["--run", str(run), "--data", str(data), "--device", "cpu"]]

    names = ("prepare", "train", "evaluate")
    typed = [shlex.join([name, *words]) for name, words in zip(names, commands(data, run), strict=True)]
    evaluate = cluster.submit(*typed, options=("--python", container, "--sbatch", f"chdir={tmp_path}", *HALF_NODE))
    preprocess, train, _ = cluster.jobs[-3:]
    assert cluster.field(evaluate, "Dependency").startswith(f"afterok:{train}")
    cluster.until(train, lambda: "restart 0" in cluster.log(train), "start of the training", 200)
    assert cluster.field(preprocess, "JobState") == "COMPLETED"
    assert (data / "dataset.json").is_file()
    ask("scontrol", "requeue", train)
    cluster.complete(train, 200)
    assert cluster.field(train, "Restarts") == "1"
    cluster.complete(evaluate, 200)
    assert last(cluster.log(evaluate)) == f"job {evaluate}: exit 0: done"

    local_data, local_run = tmp_path / "local dataset", tmp_path / "local"
    first, second, third = commands(local_data, local_run)
    succeed(run_module("preprocessing", "prepare", *first))
    succeed(run_module("harness", "train", *CPU, "--num_processes", 1, *second))
    succeed(run_module("harness", "evaluate", *third))
    assert outcome(run) == outcome(local_run)
    assert (run / "evaluation/test.json").read_bytes() == (local_run / "evaluation/test.json").read_bytes()


def test_what_follows_a_failure_in_a_chain_ends_too(cluster: Cluster, config: Path) -> None:
    hook = cluster.folder / "site.sh"
    hook.write_text("export A=b\nmodule load cuda/99\n")
    run = cluster.folder / "run"
    train = shlex.join(["train", "--config", str(config), "--run", str(run)])
    second = cluster.submit(train, f"report {run}", options=("--hook", hook, *HALF_NODE))
    first = cluster.jobs[-2]
    assert cluster.wait(first, 120) == "FAILED"
    assert cluster.field(first, "ExitCode") == "127:0"
    reason = f"the hook {hook} failed at line 2, module load cuda/99, with exit code 127; nothing else was run"
    assert last(cluster.log(first)) == f"error: job {first}: {reason}"
    assert cluster.wait(second, 120) == "CANCELLED"
    assert cluster.log(second) == ""
    assert not run.exists()


def test_slurm_reads_values_as_they_were_typed(cluster: Cluster) -> None:
    hostile = """two "words" \\ it's #1 $(touch /tmp/x) `id`"""
    job = cluster.submit("report r", options=("--sbatch", f"hold comment={shlex.quote(hostile)}"))
    assert f"   Comment={hostile}" in [line.rstrip() for line in ask("scontrol", "show", "job", job).splitlines()]


PREPARING = ("--text.max_tokens", 64, "--vocabulary.min_count", 1, "--shards.rows", 2000, "--source.part_mb", 0.006)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "reviews.csv", reviews(15_000, words=80))


@pytest.fixture(scope="module")
def files_built_locally(source: Path) -> dict[str, bytes]:
    """Every file of the dataset, built by this machine alone."""
    output = source.parent / "local"
    succeed(run_module("preprocessing", "prepare", "--source.path", source, "--output", output, *PREPARING))
    return contents(output)


@pytest.mark.parametrize(
    ("tasks", "requeued"), [(None, ""), (8, "_1"), (4, "_0")], ids=["two nodes", "a task", "the one that completes"]
)
def test_requeued_in_mid_run_it_goes_on_to_the_same_bytes(
    cluster: Cluster, source: Path, files_built_locally: dict[str, bytes], tasks: int | None, requeued: str
) -> None:
    output, config = cluster.folder / "dataset", cluster.folder / "job.yaml"
    config.write_text(f"source: {{path: {source}}}\n")
    command = shlex.join(map(str, ("prepare", "--config", config, "--output", output, *PREPARING)))
    array = f"array=0-{tasks - 1} output={cluster.folder}/%x-%A_%a.log" if tasks else ""
    half = ("--nodes", 1, "--cpus", 1) if tasks else ()
    job = cluster.submit(command, options=("--sbatch", f"chdir={cluster.folder} {array}", *half))
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
