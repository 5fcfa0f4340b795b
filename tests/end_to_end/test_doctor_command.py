# SPDX-License-Identifier: Apache-2.0
"""The doctor as users call it: ranks that meet, ranks that do not, and what must be put right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import CPU, free_port, run_module, succeed, unwrapped
from tests.datasets import write_dataset

pytestmark = pytest.mark.processes


def test_two_ranks_meet_and_sum(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_dataset(data, {"train": 64, "validation": 10, "test": 10})
    where = ("--data", data, "--run", tmp_path / "runs" / "a", "--device", "cpu", "--precision", "fp32")
    options = (*CPU, "--main_process_port", free_port())
    result = succeed(run_module("harness", "doctor", *options, *where, "--json", timeout_s=90))
    report = json.loads(result.stdout)
    lines = {finding["check"]: finding for finding in report["findings"]}
    assert report["exit_code"] == 0
    assert {finding["state"] for finding in report["findings"]} <= {"ok", "warn"}
    assert lines["rendezvous"]["message"].startswith("2 ranks on 1 machine met in ")
    assert lines["all-reduce"]["message"].startswith("10 MB over gloo in ")
    assert lines["precision"]["message"] == "fp32: asked for, on cpu"
    assert "64 training rows" in lines["data"]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("options", [(), pytest.param((*CPU, "--num_processes", "1"), marks=pytest.mark.slow)])
def test_what_must_be_fixed_gives_exit_code_2(tmp_path: Path, options: tuple[str, ...]) -> None:
    result = run_module("harness", "doctor", *options, "--data", tmp_path / "none", "--device", "cpu", timeout_s=60)
    assert result.returncode == 2
    (line,) = [line for line in unwrapped(result.stdout).splitlines() if line.startswith("fix")]
    assert "dataset.json: missing" in line
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_rank_that_nobody_meets_says_so() -> None:
    port = str(free_port())
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    command = ("harness", "doctor", "--timeout_s", 3, "--device", "cpu")
    result = run_module(*command, timeout_s=60, **alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert result.returncode == 2
    (line,) = [line for line in unwrapped(result.stdout).splitlines() if line.startswith("fix")]
    assert f"rank 0 of 2 did not meet the others at 127.0.0.1:{port}" in line
    assert "start it on every machine" in line
