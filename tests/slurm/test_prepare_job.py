# SPDX-License-Identifier: Apache-2.0
"""The preprocessing job on a real cluster of two nodes: the bytes are those of a local run, requeued or not."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

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
    succeed(run_module("preprocessing", "prepare", "--source.path", source, "--output", output, *SETTINGS))
    return contents(output)


def submit(cluster: Cluster, source: Path, **env: str) -> tuple[str, Path]:
    """Start the job; returns its number and the dataset that it writes."""
    output, config = cluster.folder / "dataset", cluster.folder / "job.yaml"
    config.write_text(f"source: {{path: {source}}}\n")
    command = shlex.join(map(str, ("prepare", "--config", config, "--output", output, *SETTINGS)))
    return cluster.submit(command, options=("--sbatch", f"chdir={cluster.folder}"), **env), output


@pytest.mark.slow
def test_requeued_in_mid_run_it_goes_on_to_the_same_bytes(
    cluster: Cluster, source: Path, expected: dict[str, bytes]
) -> None:
    job, output = submit(cluster, source, DASK_LOGGING__DISTRIBUTED="info")
    parts = output / ".work" / "parts"
    cluster.until(job, lambda: len(list(parts.glob("*.json"))) >= 20, "part was finished", 90)
    ask("scontrol", "requeue", job)
    cluster.until(job, lambda: cluster.field(job, "JobState") == "PENDING", "requeue", 30)
    done = len(list(parts.glob("*.json")))
    assert not (output / "dataset.json").exists(), "it was over before it could be requeued"
    cluster.complete(job, 150)
    log, (dask,) = cluster.log(job), cluster.folder.glob("*-dask.log")
    for node in (0, 1):
        assert len(re.findall(rf"^{node}: .*Registered to:", dask.read_text(), re.MULTILINE)) >= 2, dask.read_text()
    assert cluster.field(job, "Restarts") == "1"
    (again,) = re.findall(r"(\d+) parts already done", log)
    assert int(again) >= done, log
    assert contents(output) == expected, log
    assert not list(cluster.folder.glob(".padless-dask-*"))
