# SPDX-License-Identifier: Apache-2.0
"""Seeds and folds by one command: killed in the middle, continued to the same end."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import padless
from padless.core.signals import ONE_PRESS_S
from tests.helpers.commands import read_json, status_of
from tests.helpers.datasets import assign_folds, write_dataset
from tests.helpers.runs import final, kill, launch, log, steps_done, wait_for_step

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]


def to_the_end(data: Path, run: Path, *words: str) -> str:
    """Start the command and wait until it succeeds; returns the output of all its starts."""
    assert launch(data, run, *words).wait(400) == 0, log(run)[-3000:]
    return log(run)


def test_seeds_killed_in_the_second_end_in_the_same_table(tmp_path: Path) -> None:
    """Two train at the same time, each as its own command trains; a share of them ends in the same table."""
    data, reference, run = tmp_path / "data", tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 300, "validation": 80, "test": 60})
    alone = ("--num_processes", "1", "--threads", "1")
    words = ("--seeds", "0,1,2", *alone)
    for share in ("2/3", "0/3", "1/3"):
        assert not (reference / "seeds.json").exists()
        to_the_end(data, reference, *words, "--members", share)
    to_the_end(data, tmp_path / "one" / "run", "--seed", "1", *alone)
    assert final(tmp_path / "one" / "run") == final(reference / "seed-1")
    process = launch(data, run, *words)
    wait_for_step(process, run / "seed-1", 20)
    members = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(20)
    assert not psutil.wait_procs(members, timeout=100)[1]
    assert not (run / "seeds.json").exists()
    steps = steps_done(run / "seed-1")
    process = launch(data, run, *words)
    wait_for_step(process, run / "seed-1", steps + 1)
    process.terminate()
    assert process.wait(100) == 85
    assert status_of(run / "seed-1")["exit_code"] in (0, 85)
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


def find_trainer(launcher_pid: int, run: Path) -> psutil.Process:
    """The process that trains a member."""
    for process in psutil.Process(launcher_pid).children(recursive=True):
        if any(Path(file.path).is_relative_to(run) for file in process.open_files()):
            return process
    raise AssertionError(f"no process has a file of {run} open")


def test_folds_end_the_same_however_they_were_disturbed(tmp_path: Path) -> None:
    """The death of one ends the others, which save; all die at once, as with their machine; two Ctrl-C end all without
    saving; the same command goes on.
    """
    data, reference, run = tmp_path / "data", tmp_path / "whole" / "run", tmp_path / "died" / "run"
    write_dataset(data, {"train": 600, "test": 60})
    assign_folds(data, 2)
    words = ("--folds", "all", "--num_processes", "1", "--threads", "1")
    for share in ("0/2", "1/2"):
        to_the_end(data, reference, *words, "--members", share)
    process = launch(data, run, *words)
    wait_for_step(process, run / "fold-1", 8)
    find_trainer(process.pid, run / "fold-1").kill()
    assert process.wait(100) == 1
    assert "error: fold-1: the process that computed it died" in log(run)
    assert status_of(run / "fold-1")["exit_code"] == 1
    assert status_of(run / "fold-0")["state"] in ("preempted", "finished")
    process = launch(data, run, *words)
    wait_for_step(process, run / "fold-1", 16)
    kill(process)
    process = launch(data, run, *words)
    wait_for_step(process, run / "fold-1", 32)
    find_trainer(process.pid, run / "fold-1").suspend()
    process.send_signal(signal.SIGINT)
    time.sleep(5 * ONE_PRESS_S)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert not (run / "folds.json").exists()
    to_the_end(data, run, *words)
    for fold in ("fold-0", "fold-1"):
        assert final(run / fold) == final(reference / fold)
    for name in ("folds.json", "out-of-fold.parquet"):
        assert (run / name).read_bytes() == (reference / name).read_bytes()
