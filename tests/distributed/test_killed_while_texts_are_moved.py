# SPDX-License-Identifier: Apache-2.0
"""Law 6 with adversaries on: a killed run ends with the bytes of one that was left alone; and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import read_metrics
from tests.datasets import write_dataset
from tests.runs import final, start, wait_for_step

pytestmark = pytest.mark.processes

MOVES = ("--optim.adversarial", "2", "--optim.virtual_adversarial", "1", "--order.unlabelled_batch", "12")


@pytest.mark.slow
def test_killed_and_resumed(tmp_path: Path) -> None:
    data, whole, run = tmp_path / "data", tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 260, "validation": 60, "test": 20, "unlabelled": 90}, longest=20)
    assert start(data, whole, *MOVES).wait(120) == 0, (whole.parent / "log").read_text()[-3000:]
    process = start(data, run, *MOVES)
    wait_for_step(process, run, 24)
    assert process.poll() is None
    process.kill()
    assert start(data, run, *MOVES).wait(120) == 0, (run.parent / "log").read_text()[-3000:]
    assert final(run) == final(whole)
    losses = [line["loss"] for line in read_metrics(run, "train")]
    assert losses[-1] < losses[0]
    assert read_metrics(run, "train")[-1]["unlabelled_loss"] > 0
