# SPDX-License-Identifier: Apache-2.0
"""Law 6: a run killed at any instant and started again ends bit for bit where it would have ended."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest

from tests.commands import read_metrics, run_module, succeed
from tests.datasets import write_dataset
from tests.runs import command, final, kill, start, wait_for_step


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "data"
    write_dataset(path, {"train": 1500, "validation": 300, "test": 300})
    return path


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    succeed(run_module(*command(data, run)))
    return run


def check_kills(data: Path, undisturbed: Path, run: Path, kills: int) -> int:
    """Kill a run ``kills`` times, wherever it is, and compare its end; how many kills hit a run in its loop."""
    dice = random.Random(0)
    hits = 0
    total = read_metrics(undisturbed, "train")[-1]["step"]
    for number in range(kills):
        process = start(data, run)
        target = (number + dice.random()) / kills * total * 1.02
        wait_for_step(process, run, target)
        time.sleep(dice.random() * 0.3)
        hits += process.poll() is None
        if process.poll() is None:
            kill(process)
    process = start(data, run)
    assert process.wait(120) == 0, (run.parent / "log").read_text()[-3000:]
    assert final(run) == final(undisturbed)
    return hits


@pytest.mark.timeout(280, func_only=True)
def test_killed_twice(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert check_kills(data, undisturbed, tmp_path / "run", 2) >= 1


@pytest.mark.slow
@pytest.mark.timeout(900, func_only=True)
def test_killed_thirty_times(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert check_kills(data, undisturbed, tmp_path / "run", 30) >= 10


@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize("way", ["launcher", "rank"])
def test_stopped_on_request_and_started_again(data: Path, undisturbed: Path, tmp_path: Path, way: str) -> None:
    import psutil

    run = tmp_path / "run"
    process = start(data, run)
    wait_for_step(process, run, 40)
    if way == "launcher":
        process.send_signal(signal.SIGUSR2)
    else:
        ranks = [p for p in psutil.Process(process.pid).children() if "harness.train" in " ".join(p.cmdline())]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGTERM)
    asked = time.monotonic()
    assert process.wait(60) == 85, (run.parent / "log").read_text()[-3000:]
    assert time.monotonic() - asked < 30
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 85)
    newest = max(path.name for path in (run / "checkpoints").iterdir())
    assert newest == f"step-{status['step']:08d}"
    process = start(data, run)
    assert process.wait(120) == 0, (run.parent / "log").read_text()[-3000:]
    assert final(run) == final(undisturbed)
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert [attempt["resumed_from"] for attempt in attempts] == [None, status["step"]]
