# SPDX-License-Identifier: Apache-2.0
"""Small training runs of two ranks under the real launcher, to be killed, stopped and started again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.commands import CPU, ROOT

MODEL = ("--model.embedding_dim", "16", "--model.hidden_size", "16", "--model.dropout", "0.2", "--optim.ema", "0.99")
TRAINING = (*MODEL, "--epochs", "3", "--global_batch", "16", "--precision", "fp32", "--device", "cpu")
SAVING = ("--checkpoint.every_steps", "11", "--tracking.log_every", "4", "--timeout_s", "60")


def command(data: Path, run: Path, *more: str, options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """``options`` are accelerate's; ``more`` are keys of the training."""
    return ("harness", "launch", *CPU, *options, "--data", str(data), "--run", str(run), *TRAINING, *SAVING, *more)


def start(data: Path, run: Path, *more: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The launcher and its two ranks, in a process group of their own."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(run.parent / "log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command(data, run, *more, options=options)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and every rank at once."""
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


def wait_until(condition: Callable[[], bool], timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: float) -> None:
    """Until a run has logged a step; or has ended, which is for the caller to notice."""
    wait_until(lambda: process.poll() is not None or steps_done(run) >= step)


def final(run: Path) -> dict[str, bytes]:
    """All that must not depend on whether the run was disturbed."""
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    names = ["metrics.jsonl", "test.json", *(f"bundle/{path.name}" for path in (run / "bundle").iterdir())]
    newest = max((run / "checkpoints").iterdir())
    names += [f"checkpoints/{newest.name}/{name}" for name in ("model.safetensors", "optimizer.safetensors")]
    return {name: (run / name).read_bytes() for name in names}
