# SPDX-License-Identifier: Apache-2.0
"""Seeds by one command: killed in the middle, continued to the same end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

import padless
from tests.helpers.commands import read_json
from tests.helpers.datasets import write_dataset
from tests.helpers.runs import final, kill, launch, log, wait_for_step

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]


def to_the_end(data: Path, run: Path, *words: str) -> str:
    """Start the command and wait until it succeeds; returns the output of all its starts."""
    assert launch(data, run, *words).wait(400) == 0, log(run)[-3000:]
    return log(run)


def test_seeds_killed_in_the_second_end_in_the_same_table(tmp_path: Path) -> None:
    data, reference, run = tmp_path / "data", tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 300, "validation": 80, "test": 60})
    words = ("--seeds", "0,1,2")
    to_the_end(data, reference, *words)
    process = launch(data, run, *words)
    wait_for_step(process, run / "seed-1", 20)
    kill(process)
    assert not (run / "seeds.json").exists()
    process = launch(data, run, *words)
    wait_for_step(process, run / "seed-1", 30)
    psutil.Process(process.pid).terminate()
    assert process.wait(100) == 85
    assert not (run / "seed-2").exists()
    assert "\ntest:\n" in to_the_end(data, run, *words)
    for seed in ("seed-0", "seed-1", "seed-2"):
        assert final(run / seed) == final(reference / seed)
    assert (run / "seeds.json").read_bytes() == (reference / "seeds.json").read_bytes()
    accuracies = [read_json(run / f"seed-{seed}" / "test.json")["accuracy"] for seed in range(3)]
    accuracy = read_json(run / "seeds.json")["splits"]["test"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(accuracies))
    assert accuracy["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert padless.read_metrics(run, "validation")["seed"].value_counts().to_dict() == {0: 3, 1: 3, 2: 3}
