# SPDX-License-Identifier: Apache-2.0
"""The preprocessing job on a real cluster of two nodes: the bytes are those of a local run, requeued or not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import psutil
import pytest

from tests.commands import run_module, succeed
from tests.corpora import contents, reviews, write_csv
from tests.slurm.conftest import Cluster, ask

pytest.importorskip("distributed", reason="needs distributed (extra dask)")
pytestmark = [pytest.mark.processes, pytest.mark.timeout(400, func_only=True)]

SETTINGS = ("--text.max_tokens", 64, "--vocabulary.min_count", 1, "--shards.rows", 2000, "--source.part_mb", 0.006)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "reviews.csv", reviews(15_000, words=80))


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    """Every file of the dataset, built by this machine alone."""
    output = source.parent / "local"
    succeed(run_module("preprocessing", "run", "--source.path", source, "--output", output, *SETTINGS))
    return contents(output)


def pipeline_into(output: Path) -> psutil.Process:
    """The process of the job that preprocesses into a directory."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "preprocessing" in command and "run" in command and str(output) in command:
            return process
    raise AssertionError(f"nothing preprocesses into {output}")


def submit(cluster: Cluster, source: Path, *more: object, lines: str = "", **env: str) -> tuple[str, Path]:
    """Start the job; returns its number and the dataset that it writes."""
    output, config = cluster.folder / "dataset", cluster.folder / "job.yaml"
    config.write_text(f"source: {{path: {source}}}\n")
    command = shlex.join(map(str, ("preprocess", "--config", config, "--output", output, *SETTINGS)))
    return cluster.submit(command, options=("--sbatch", f"chdir={cluster.folder} {lines}", *more), **env), output


@pytest.mark.slow
def test_two_nodes_give_the_bytes_of_a_local_run(cluster: Cluster, source: Path, expected: dict[str, bytes]) -> None:
    job, output = submit(cluster, source, DASK_LOGGING__DISTRIBUTED="info")
    cluster.complete(job, 180)
    (dask_log,) = cluster.folder.glob("*-dask.log")
    dask = dask_log.read_text()
    for node in (0, 1):
        registered = [line for line in dask.splitlines() if line.startswith(f"{node}: ") and "Registered to:" in line]
        assert len(registered) == 2, dask
    assert contents(output) == expected
    assert "error" not in cluster.log(job).lower()
    assert not list(cluster.folder.glob(".padless-dask-*"))


@pytest.mark.slow
def test_requeued_in_mid_run_it_goes_on_to_the_same_bytes(
    cluster: Cluster, source: Path, expected: dict[str, bytes]
) -> None:
    job, output = submit(cluster, source)
    parts = output / ".work" / "parts"
    cluster.until(job, lambda: len(list(parts.glob("*.json"))) >= 20, "part was finished", 90)
    ask("scontrol", "requeue", job)
    cluster.until(job, lambda: cluster.field(job, "JobState") == "PENDING", "requeue", 30)
    done = len(list(parts.glob("*.json")))
    assert not (output / "dataset.json").exists(), "it was over before it could be requeued"
    cluster.complete(job, 150)
    log = cluster.log(job)
    assert cluster.field(job, "Restarts") == "1"
    again = re.search(r"(\d+) parts already done", log)
    assert again is not None, log
    assert int(again[1]) >= done, log
    assert contents(output) == expected, log
    assert not list(cluster.folder.glob(".padless-dask-*"))


@pytest.mark.night
def test_at_its_time_limit_it_is_requeued_and_goes_on_to_the_same_bytes(
    cluster: Cluster, source: Path, expected: dict[str, bytes]
) -> None:
    """SLURM looks at limits every 30 seconds; the pipeline stands still meanwhile, so that it does not end before."""
    job, output = submit(cluster, source, "--time", 1, lines="signal=B:TERM@25")
    parts = output / ".work" / "parts"
    cluster.until(job, lambda: len(list(parts.glob("*.json"))) >= 5, "part was finished", 50)
    pipeline = pipeline_into(output)
    pipeline.suspend()
    cluster.until(job, lambda: "asked to stop" in cluster.log(job), "signal before the limit", 90)
    pipeline.resume()
    cluster.until(job, lambda: cluster.field(job, "Restarts") == "1", "requeue", 90)
    ask("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    cluster.complete(job, 200)
    log = cluster.log(job)
    ends = [line for line in log.splitlines() if line.startswith(f"job {job}: exit")]
    assert ends == [f"job {job}: exit 143: requeued", f"job {job}: exit 0: done"], log
    assert "parts already done" in log
    assert contents(output) == expected


@pytest.mark.slow
def test_the_jobs_exit_code_is_that_of_the_command(cluster: Cluster, source: Path) -> None:
    source = write_csv(cluster.folder / "wrong.csv", [*reviews(50), ("fine", "")])
    job, _ = submit(cluster, source)
    assert cluster.wait(job, 120) == "FAILED"
    assert cluster.field(job, "ExitCode") == "3:0", cluster.log(job)
    assert "wrong.csv: row 51: there is no label" in cluster.log(job)
