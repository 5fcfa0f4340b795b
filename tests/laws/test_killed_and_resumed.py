# SPDX-License-Identifier: Apache-2.0
"""Law 6: a run killed at any instant and started again ends bit for bit where it would have ended."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.rundir.records import read_attempts
from tests.commands import read_metrics, run_module, status_of, succeed, values_in_log
from tests.datasets import shared_dataset, write_dataset
from tests.runs import Ranks, final, finish, kill, launch, log, start, wait_for_step
from tests.teachers import ORACLE, prepare_corpus, write_taught

pytestmark = pytest.mark.processes


data = shared_dataset({"train": 900, "validation": 150, "test": 150})


@pytest.fixture(scope="module")
def reference_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(data, run), run)
    return run


def kill_again_and_again(begin: Callable[[Path, Path], Any], data: Path, run: Path, total: int, kills: int) -> int:
    """Kill a run of ``total`` steps ``kills`` times, wherever it is, and let it end; how many kills found it alive."""
    dice = random.Random(0)
    hits = 0
    for number in range(kills):
        process = begin(data, run)
        wait_for_step(process, run, (number + dice.random()) / kills * total * 1.02)
        time.sleep(dice.random() * 0.3)
        if process.poll() is None:
            hits += 1
            process.kill() if isinstance(process, Ranks) else kill(process)
    finish(begin(data, run), run)
    return hits


@pytest.mark.timeout(280, func_only=True)
def test_killed_at_some_moments(data: Path, reference_run: Path, tmp_path: Path) -> None:
    total = read_metrics(reference_run, "train")[-1]["step"]
    assert kill_again_and_again(start, data, tmp_path / "run", total, 3) >= 1
    assert final(tmp_path / "run") == final(reference_run)


@pytest.mark.slow
@pytest.mark.timeout(1600, func_only=True)
def test_killed_at_every_change_of_the_disk(tmp_path: Path) -> None:
    """Of checkpoints, bundle and the files of the run; a checkpoint takes the place of another."""
    rows = {"train": 40, "validation": 16, "test": 16}
    write_dataset(tmp_path / "data", rows, longest=12, widths=(8, 16), block_rows=16)
    words = ("run", tmp_path / "data", tmp_path, "all")
    report = json.loads(succeed(run_module("tests.kills", *words, timeout_s=1500)).stdout)
    assert report["wrong"] == []
    assert report["kills"] > 100
    assert {"rename", "replace", "rmdir", "unlink", "fsync", "write"} <= set(report["changes"])


@pytest.mark.timeout(280, func_only=True)
def test_killed_while_it_learns_from_a_teacher(tmp_path: Path) -> None:
    """It goes on with the same targets, and with no others."""
    data = tmp_path / "data"
    prepare_corpus(tmp_path, labelled=300, unlabelled=500)
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 800)
    write_taught(data, np.arange(1, 801), shares)
    run, reference, words = tmp_path / "killed" / "run", tmp_path / "whole" / "run", ("--teacher", ORACLE)
    finish(start(data, reference, *words), reference)
    assert read_metrics(reference, "train")[-1]["step"] == 3 * -(-(240 + 500) // 16)
    process = start(data, run, *words)
    wait_for_step(process, run, 60)
    process.kill()
    write_taught(data, np.arange(1, 801), shares[::-1])
    finish(start(data, run, *words), run, code=3)
    assert "its sha256 is not the one in teacher.json" in status_of(run)["reason"]
    write_taught(data, np.arange(1, 801), shares)
    finish(start(data, run, *words), run)
    assert final(run) == final(reference)


@pytest.mark.timeout(280, func_only=True)
def test_killed_while_it_learns_from_a_mixture(tmp_path: Path) -> None:
    """It goes on with the same rows of both datasets, on another number of processes too."""
    write_dataset(tmp_path / "large", {"train": 300, "validation": 60, "test": 50})
    write_dataset(tmp_path / "small", {"train": 70, "validation": 40}, seed=3, base=tmp_path / "large")
    data = f"{tmp_path}/large:0.6,{tmp_path}/small:0.4"
    run, reference = tmp_path / "killed" / "run", tmp_path / "whole" / "run"
    finish(start(data, reference, processes=1), reference)
    process = start(data, run, processes=1)
    wait_for_step(process, run, 30)
    process.kill()
    shutil.copytree(run, tmp_path / "more" / "run")
    finish(start(data, run, processes=1), run)
    assert final(run) == final(reference)
    finish(start(data, tmp_path / "more" / "run", processes=2), tmp_path / "more" / "run")
    hashes = [values_in_log(run_folder, "row_hash") for run_folder in (reference, tmp_path / "more" / "run")]
    assert hashes[0] == hashes[1]
    other_mixture = str(data).replace("0.4", "0.5")
    start(other_mixture, run, "--epochs", "4", processes=1).wait(120)
    assert f"{other_mixture}: not the dataset that {run} was trained on: its shares differ" in log(run)


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize(
    ("rows", "label_sets", "options"),
    [
        ({}, None, ("--init.vectors", "own", "--model.embedding_std", "0.5", "--model.freeze_embedding", "30")),
        ({"unlabelled": 200}, None, ("--task", "language_model", "--language_model.candidates", "30")),
        ({}, [[], [0], [0, 1]], ("--model.wide", "64")),
    ],
    ids=["with vectors of its own texts", "while it pretrains", "with several labels"],
)
def test_killed_in_other_trainings(
    tmp_path: Path, rows: dict[str, int], label_sets: list[list[int]] | None, options: tuple[str, ...]
) -> None:
    data, run, reference = tmp_path / "data", tmp_path / "killed" / "run", tmp_path / "whole" / "run"
    write_dataset(data, {"train": 400, "validation": 100, "test": 50, **rows}, label_sets=label_sets)
    processes = 1 if "own" in options else 2
    finish(start(data, reference, *options, processes=processes), reference)
    for step in (20, 56):
        process = start(data, run, *options, processes=processes)
        wait_for_step(process, run, step)
        process.kill()
    finish(start(data, run, *options, processes=processes), run)
    assert final(run) == final(reference)


@pytest.mark.timeout(900, func_only=True)
@pytest.mark.parametrize("kills", [pytest.param(6, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.night)])
def test_killed_again_and_again_with_its_launcher(data: Path, reference_run: Path, tmp_path: Path, kills: int) -> None:
    total = read_metrics(reference_run, "train")[-1]["step"]
    assert kill_again_and_again(launch, data, tmp_path / "run", total, kills) >= kills // 3
    assert final(tmp_path / "run") == final(reference_run)


def stop_launcher(process: Any) -> None:
    process.send_signal(signal.SIGUSR2)


def stop_rank(process: Any) -> None:
    os.kill(process.processes[1].pid, signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize(("begin", "stop"), [(launch, stop_launcher), (start, stop_rank)])
def test_stopped_on_request_and_started_again(
    data: Path, reference_run: Path, tmp_path: Path, begin: Callable[[Path, Path], Any], stop: Callable[[Any], None]
) -> None:
    run = tmp_path / "run"
    process = begin(data, run)
    wait_for_step(process, run, 24)
    stop(process)
    finish(process, run, 85)
    status = status_of(run)
    assert (status["state"], status["exit_code"]) == ("preempted", 85)
    newest = max(path.name for path in (run / "checkpoints").iterdir())
    assert newest == f"step-{status['step']:08d}"
    finish(start(data, run), run)
    assert final(run) == final(reference_run)
    attempts = read_attempts(run)
    assert [attempt["resumed_from"] for attempt in attempts] == [None, status["step"]]
