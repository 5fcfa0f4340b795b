# SPDX-License-Identifier: Apache-2.0
"""Law 6: a run killed at any instant and started again ends bit for bit where it would have ended."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import CPU, ROOT, read_metrics, run_module, succeed
from tests.datasets import write_dataset

MODEL = ("--model.embedding_dim", "16", "--model.hidden_size", "16", "--model.dropout", "0.2", "--optim.ema", "0.99")
TRAINING = (*MODEL, "--epochs", "3", "--global_batch", "16", "--precision", "fp32", "--device", "cpu")
SAVING = ("--checkpoint.every_steps", "11", "--tracking.log_every", "4", "--timeout_s", "60")


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


def command(data: Path, run: Path, *more: str) -> tuple[str, ...]:
    return ("harness", "launch", *CPU, "--data", str(data), "--run", str(run), *TRAINING, *SAVING, *more)


def start(data: Path, run: Path, *more: str) -> subprocess.Popen[str]:
    """The launcher and its two ranks, in a process group of their own."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(run.parent / "log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command(data, run, *more)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and every rank at once."""
    import psutil

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait(20)


def steps_done(run: Path) -> int:
    """Steps of the last log line on disk."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):
        return 0


def wait_until(condition, timeout_s: float = 90) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def final(run: Path) -> dict[str, bytes]:
    """All that must not depend on whether the run was disturbed."""
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    names = ["metrics.jsonl", "test.json", *(f"bundle/{path.name}" for path in (run / "bundle").iterdir())]
    newest = max((run / "checkpoints").iterdir())
    names += [f"checkpoints/{newest.name}/{name}" for name in ("model.safetensors", "optimizer.safetensors")]
    return {name: (run / name).read_bytes() for name in names}


def check_kills(data: Path, undisturbed: Path, run: Path, kills: int) -> int:
    """Kill a run ``kills`` times, wherever it is, and compare its end; how many kills hit a run in its loop."""
    dice = random.Random(0)
    hits = 0
    total = read_metrics(undisturbed, "train")[-1]["step"]
    for number in range(kills):
        process = start(data, run)
        target = (number + dice.random()) / kills * total * 1.02
        wait_until(lambda p=process, t=target: p.poll() is not None or steps_done(run) >= t)  # type: ignore[misc]
        time.sleep(dice.random() * 0.3)
        hits += process.poll() is None
        if process.poll() is None:
            kill(process)
    process = start(data, run)
    assert process.wait(120) == 0, (run.parent / "log").read_text()[-3000:]
    assert final(run) == final(undisturbed)
    return hits


@pytest.mark.timeout(280, func_only=True)
def test_killed_three_times(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert check_kills(data, undisturbed, tmp_path / "run", 3) >= 1


@pytest.mark.slow
@pytest.mark.timeout(900, func_only=True)
def test_killed_thirty_times(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert check_kills(data, undisturbed, tmp_path / "run", 30) >= 10


@pytest.mark.timeout(280, func_only=True)
@pytest.mark.parametrize("way", ["launcher", "rank", "file"])
def test_stopped_on_request_and_started_again(data: Path, undisturbed: Path, tmp_path: Path, way: str) -> None:
    import psutil

    run = tmp_path / "run"
    process = start(data, run)
    wait_until(lambda: steps_done(run) >= 40)
    if way == "launcher":
        process.send_signal(signal.SIGUSR2)
    elif way == "rank":
        ranks = [p for p in psutil.Process(process.pid).children() if "harness.train" in " ".join(p.cmdline())]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGTERM)
    else:
        (run / "STOP").touch()
    asked = time.monotonic()
    assert process.wait(60) == 85, (run.parent / "log").read_text()[-3000:]
    assert time.monotonic() - asked < 30
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("preempted", 85)
    newest = max(path.name for path in (run / "checkpoints").iterdir())
    assert newest == f"step-{status['step']:08d}"
    assert not (run / "STOP").exists()
    process = start(data, run)
    assert process.wait(120) == 0, (run.parent / "log").read_text()[-3000:]
    assert final(run) == final(undisturbed)
    attempts = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert [attempt["resumed_from"] for attempt in attempts] == [None, status["step"]]
