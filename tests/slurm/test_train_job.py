# SPDX-License-Identifier: Apache-2.0
"""A job of training on a real cluster of two nodes: however it is interrupted, it ends where an undisturbed
run of two processes ends, bit for bit.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness.rundir.json_files import read_lines
from tests.helpers.commands import CPU, run_command, status_of, succeed
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import final, rank_of, steps_done
from tests.slurm.conftest import Cluster, ask, why_no_cluster

pytestmark = [pytest.mark.processes, pytest.mark.timeout(420, func_only=True)]

ROWS, BATCH, EPOCHS = 12_000, 16, 2
EPOCH = ROWS // BATCH
SETTINGS = {
    "default_recipe": False,
    "epochs": EPOCHS,
    "global_batch": BATCH,
    "precision": "fp32",
    "device": "cpu",
    "timeout_s": 60,
    "model": {"embedding_dim": 16, "hidden_size": 16, "dropout": 0.2},
    "optim": {"ema": 0.99},
    "tracking": {"log_every": 10},
    "checkpoint": {"every_steps": 200},
}


class Training:
    """A dataset, a configuration, and a Python that has one core for each process, as on nodes of their own."""

    def __init__(self, folder: Path) -> None:
        self.config, self.python, self.data = folder / "train.json", folder / "python", folder / "data"
        write_dataset(self.data, {"train": ROWS, "validation": 400, "test": 400})
        self.config.write_text(json.dumps({"data": str(self.data), **SETTINGS}))  # JSON is YAML
        cores = sorted(os.sched_getaffinity(0))
        first, second = cores[0], cores[min(1, len(cores) - 1)]
        self.python.write_text(
            f"#!/usr/bin/env bash\ncores=({first} {second} {first},{second})\n"
            f'exec taskset --cpu-list "${{cores[${{SLURM_NODEID:-2}}]}}" {sys.executable} "$@"\n'
        )
        self.python.chmod(0o755)

    def submit(self, cluster: Cluster, *arguments: object, options: tuple[object, ...] = (), site: str = "") -> str:
        """Send the job to both nodes; its run directory is ``run`` in the cluster's folder."""
        words = ("--config", self.config, "--run", cluster.folder / "run", *arguments)
        return cluster.submit("train", *words, options=options, site=f"python=({self.python})\n{site}")


def starts(run: Path) -> list[int | None]:
    """From which step each start of the run went on; None for its beginning."""
    return [attempt["resumed_from"] for attempt in read_lines(run / "attempts.jsonl")]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    reason = why_no_cluster()
    if reason:
        pytest.skip(reason)
    return Training(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def reference(training: Training) -> dict[str, bytes]:
    """What two processes of one machine learn when nothing happens to them."""
    run = training.data.parent / "undisturbed"
    command = [str(training.python), "-m", "padless", "train", *CPU]
    command += ["--config", str(training.config), "--run", str(run)]
    succeed(run_command(command, 300, {}))
    return final(run)


@pytest.mark.slow
def test_preempted_by_a_higher_partition_it_goes_on_to_the_same_end(
    cluster: Cluster, training: Training, reference: dict[str, bytes]
) -> None:
    job, run = training.submit(cluster), cluster.folder / "run"
    cluster.until(job, lambda: steps_done(run) >= 100, "step 100", 120)
    both_nodes = ("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null")
    high = ask("sbatch", "--parsable", *both_nodes, "--wrap", "true")
    cluster.jobs.append(high)
    cluster.until(job, lambda: cluster.field(job, "JobState") == "PENDING", "preemption", 60)
    stopped = status_of(run)
    assert (stopped["state"], stopped["exit_code"]) == ("preempted", 85)
    assert stopped["step"] < EPOCHS * EPOCH, "it was over before it could be preempted"
    cluster.complete(high, 60)
    cluster.complete(job, 240)
    assert starts(run) == [None, stopped["step"]], cluster.log(job)
    assert cluster.field(job, "Restarts") == "1"
    assert final(run) == reference


@pytest.mark.slow
@pytest.mark.timeout(600, func_only=True)
def test_at_its_time_limit_it_is_requeued_and_goes_on_to_the_same_end(
    cluster: Cluster, training: Training, reference: dict[str, bytes]
) -> None:
    """SLURM looks at limits every 30 seconds; a node that stands still meanwhile keeps the run from ending before."""
    job = training.submit(cluster, "--timeout_s", 200, options=("--time=2", "--signal=B:USR2@15"))
    run = cluster.folder / "run"
    cluster.until(job, lambda: steps_done(run) >= 50, "step 50", 100)
    slow = rank_of(run)
    slow.suspend()
    cluster.until(job, lambda: "asked to stop" in cluster.log(job), "signal before the limit", 150)
    slow.resume()
    cluster.until(job, lambda: cluster.field(job, "Restarts") == "1", "requeue", 60)
    ask("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    cluster.complete(job, 240)
    log = cluster.log(job)
    assert log.count("asked to stop") == log.count(": requeued") == 1, log
    assert [50 <= (resumed_from or 0) < EPOCHS * EPOCH for resumed_from in starts(run)] == [False, True]
    assert final(run) == reference


@pytest.mark.slow
def test_cancelled_it_stays_so_and_the_same_command_goes_on(
    cluster: Cluster, training: Training, reference: dict[str, bytes]
) -> None:
    job, run = training.submit(cluster), cluster.folder / "run"
    cluster.until(job, lambda: steps_done(run) >= 50, "step 50", 120)
    ask("scancel", job)
    assert cluster.wait(job, 60) == "CANCELLED"
    assert cluster.field(job, "Restarts") == "0"
    second_job = training.submit(cluster)
    cluster.complete(second_job, 240)
    assert final(run) == reference


@pytest.mark.slow
def test_tasks_of_an_array_train_a_seed_each_and_the_last_writes_the_summary(
    cluster: Cluster, training: Training
) -> None:
    """One task is requeued half-way; the summary is that of one command."""
    seeds, alone = ("--seeds", "0,1,2,3", "--epochs", "1"), training.data.parent / "seeds"
    command = [str(training.python), "-m", "padless", "train", "--config", str(training.config)]
    succeed(run_command([*command, "--run", str(alone), "--num_processes", "1", *seeds], 400, {}))
    job = training.submit(cluster, *seeds, options=("--array=0-3", "--nodes=1"))
    run = cluster.folder / "run"
    cluster.until(f"{job}_2", lambda: steps_done(run / "seed-2") >= 50, "step 50", 240)
    ask("scontrol", "requeue", f"{job}_2")
    for task in range(4):
        cluster.complete(f"{job}_{task}", 300)
    assert len(starts(run / "seed-2")) == 2
    for seed in range(4):
        assert final(run / f"seed-{seed}") == final(alone / f"seed-{seed}")
    assert (run / "seeds.json").read_bytes() == (alone / "seeds.json").read_bytes()
