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

import psutil
import pytest

from tests.commands import read_metrics, run_module, succeed
from tests.datasets import write_dataset, write_random_soft_labels
from tests.runs import Ranks, final, kill, launch, start, wait_for_step

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "data"
    write_dataset(path, {"train": 900, "validation": 150, "test": 150})
    return path


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert start(data, run).wait(120) == 0, log(run)
    return run


def log(run: Path) -> str:
    return (run.parent / "log").read_text()[-3000:]


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
    assert begin(data, run).wait(120) == 0, log(run)
    return hits


@pytest.mark.timeout(280, func_only=True)
def test_killed_at_some_moments(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    total = read_metrics(undisturbed, "train")[-1]["step"]
    assert kill_again_and_again(start, data, tmp_path / "run", total, 3) >= 1
    assert final(tmp_path / "run") == final(undisturbed)


def killed_at_changes(folder: Path, instants: str, exchange: str) -> dict[str, Any]:
    """What ``tests/kills.py`` says of a training with checkpoints at a step that has one."""
    rows = {"train": 40, "validation": 16, "test": 16}
    write_dataset(folder / "data", rows, longest=12, widths=(8, 16), block_rows=16)
    words = ("run", folder / "data", folder, instants, exchange)
    found: dict[str, Any] = json.loads(succeed(run_module("tests.kills", *words, timeout_s=1500)).stdout)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600, func_only=True)
def test_killed_around_a_checkpoint_that_takes_the_place_of_another(tmp_path: Path) -> None:
    """With one that is kept: the newest one has its name at any instant."""
    found = killed_at_changes(tmp_path, "few", "yes")
    assert (found["kills"], found["wrong"]) == (5, [])


@pytest.mark.slow
@pytest.mark.timeout(1600, func_only=True)
@pytest.mark.parametrize("exchange", ["yes", "no"])
def test_killed_at_every_change_of_the_disk(tmp_path: Path, exchange: str) -> None:
    """Of checkpoints, bundle and the files of the run."""
    found = killed_at_changes(tmp_path, "all", exchange)
    assert found["wrong"] == []
    assert found["kills"] == found["of"] > 100
    assert {"exchanged", "rename", "replace", "rmdir", "unlink", "fsync", "write"} <= set(found["changes"])


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
def test_killed_before_and_after_its_vectors_are_let_go(tmp_path: Path) -> None:
    """A run that goes on has its vectors in its weights: they may be gone by then."""
    data, run = tmp_path / "data", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 400, "validation": 100, "test": 50})
    options = ("--init.vectors", "own", "--model.embedding_std", "0.5", "--model.freeze_embedding", "30")
    whole = tmp_path / "whole" / "run"
    assert start(data, whole, *options, processes=1).wait(120) == 0, log(whole)
    for step in (24, 48):
        process = start(data, run, *options, processes=1)
        wait_for_step(process, run, step)
        process.kill()
        shutil.rmtree(data / "vectors", ignore_errors=True)
    assert start(data, run, *options, processes=1).wait(120) == 0, log(run)
    assert final(run) == final(whole)
    assert not (data / "vectors").exists()


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
def test_killed_with_unlabelled_rows_in_every_step(tmp_path: Path) -> None:
    """Their passes end at other steps than the epochs, and nothing of them is saved."""
    data, run = tmp_path / "data", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 400, "validation": 100, "test": 50, "unlabelled": 300})
    write_random_soft_labels(data, "drawn")
    options = ("--order.unlabelled_batch", "18", "--self_training.labels", "drawn")
    whole = tmp_path / "whole" / "run"
    assert start(data, whole, *options).wait(120) == 0, log(whole)
    for step in (20, 56):
        process = start(data, run, *options)
        wait_for_step(process, run, step)
        process.kill()
    assert start(data, run, *options).wait(120) == 0, log(run)
    assert final(run) == final(whole)
    assert read_metrics(run, "train")[0]["unlabelled_rows"] in range(4 * 17, 4 * 18 + 1)
    write_random_soft_labels(data, "drawn", seed=1)
    refused = start(data, run, *options)
    refused.wait(120)
    assert refused.processes[0].exitcode == 2
    assert "self_training.labels: the run of" in log(run)


@pytest.mark.slow
@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_while_it_pretrains(tmp_path: Path, processes: int) -> None:
    data = tmp_path / "data"
    write_dataset(data, {"train": 200, "validation": 40, "unlabelled": 200}, longest=30)
    options = ("--task", "language_model", "--language_model.candidates", "30", "--model.word_dropout", "0.2")

    def begin(data: Path, run: Path) -> Ranks:
        return start(data, run, *options, processes=processes)

    whole = tmp_path / "whole" / "run"
    assert begin(data, whole).wait(120) == 0, log(whole)
    total = read_metrics(whole, "train")[-1]["step"]
    assert total == 3 * 25  # of 16 rows, over 400
    assert kill_again_and_again(begin, data, tmp_path / "killed" / "run", total, 2) >= 1
    assert final(tmp_path / "killed" / "run") == final(whole)
    losses = [line["log_loss"] for line in read_metrics(whole, "validation")]
    assert losses[2] < losses[1] < losses[0] < 5.3  # guessing costs log(200)
    assert not (whole / "test.json").exists()


@pytest.mark.timeout(900, func_only=True)
@pytest.mark.parametrize("kills", [pytest.param(6, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.night)])
def test_killed_again_and_again_with_its_launcher(data: Path, undisturbed: Path, tmp_path: Path, kills: int) -> None:
    total = read_metrics(undisturbed, "train")[-1]["step"]
    assert kill_again_and_again(launch, data, tmp_path / "run", total, kills) >= kills // 3
    assert final(tmp_path / "run") == final(undisturbed)


def stop_launcher(process: Any) -> None:
    process.send_signal(signal.SIGUSR2)


def stop_rank_under_launcher(process: Any) -> None:
    ranks = [p for p in psutil.Process(process.pid).children() if "harness.train" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGTERM)


def stop_rank(process: Ranks) -> None:
    os.kill(process.processes[1].pid, signal.SIGTERM)


@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize(
    ("begin", "stop"),
    [
        pytest.param(launch, stop_launcher, id="launcher", marks=pytest.mark.slow),
        pytest.param(launch, stop_rank_under_launcher, id="rank under a launcher", marks=pytest.mark.slow),
        pytest.param(start, stop_rank, id="rank", marks=pytest.mark.slow),
    ],
)
def test_stopped_on_request_and_started_again(
    data: Path, undisturbed: Path, tmp_path: Path, begin: Callable[[Path, Path], Any], stop: Callable[[Any], None]
) -> None:
    run = tmp_path / "run"
    process = begin(data, run)
    wait_for_step(process, run, 24)
    stop(process)
    assert process.wait(60) == 85, log(run)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 85)
    newest = max(path.name for path in (run / "checkpoints").iterdir())
    assert newest == f"step-{status['step']:08d}"
    assert start(data, run).wait(120) == 0, log(run)
    assert final(run) == final(undisturbed)
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert [attempt["resumed_from"] for attempt in attempts] == [None, status["step"]]
