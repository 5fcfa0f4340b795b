# SPDX-License-Identifier: Apache-2.0
"""A self-training by one command, killed between its rounds and inside one, ends where it would have ended."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.data.soft_labels import read_soft_labels
from harness.rundir.bundle_files import read_info
from tests.datasets import write_dataset
from tests.runs import final, kill, launch, wait_for_step

pytestmark = [pytest.mark.processes, pytest.mark.slow]
ROUNDS = (
    "--self_training.rounds",
    "1",
    "--self_training.any_teacher",
    "true",
    "--order.unlabelled_batch",
    "9",
    "--self_training.first",
    "{epochs: 2}",
)


@pytest.mark.timeout(560, func_only=True)
def test_killed_between_and_inside_its_rounds(tmp_path: Path) -> None:
    data, whole, run = tmp_path / "data", tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 300, "validation": 80, "test": 40, "unlabelled": 120})
    assert launch(data, whole, *ROUNDS).wait(200) == 0, (whole.parent / "log").read_text()[-3000:]
    process = launch(data, run, *ROUNDS)
    wait_for_step(process, run / "round-0", 20)
    kill(process)
    process = launch(data, run, *ROUNDS)
    deadline = time.monotonic() + 120
    while not (run / "round-0" / "soft_labels.arrow").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    kill(process)
    process = launch(data, run, *ROUNDS)
    wait_for_step(process, run, 30)
    kill(process)
    made = (run / "round-0" / "soft_labels.arrow").stat().st_mtime_ns
    assert launch(data, run, *ROUNDS).wait(200) == 0, (run.parent / "log").read_text()[-3000:]
    assert (run / "round-0" / "soft_labels.arrow").stat().st_mtime_ns == made
    assert final(run) == final(whole)
    assert final(run / "round-0") == final(whole / "round-0")
    labels = read_soft_labels(run / "round-0" / "soft_labels.arrow")
    assert labels.teacher.weights_sha256 == read_info(run / "round-0" / "bundle").weights_sha256
    learned = read_info(run / "bundle").soft_labels
    assert learned is not None
    assert learned["sha256"] == labels.sha256
    assert "finished already" in (launch(data, run, *ROUNDS).wait(100) == 0 and (run.parent / "log").read_text())
