# SPDX-License-Identifier: Apache-2.0
"""Law 7, for stop signals: after any signal, at any time, a command ends soon, with a sentence and a documented code.

Real processes, real signals. ``status.json`` of a training has the exit code of its command.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.commands import listens, status_of, wait_until
from tests.helpers.datasets import shared_dataset
from tests.helpers.runs import launch

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]
data = shared_dataset({"train": 400, "validation": 40, "test": 40})


@pytest.mark.parametrize(
    ("phase", "sequence", "codes"),
    [
        ("start", "TERM", (85,)),
        ("start", "INT INT", (85, 130)),
        ("ranks", "TERM INT", (85,)),
        ("training", "INT TERM", (85,)),
        ("training", "TERM INT INT", (85, 130)),
    ],
)
def test_exit_code_and_status_agree_whatever_signals_come(
    data: Path, tmp_path: Path, phase: str, sequence: str, codes: tuple[int, ...]
) -> None:
    run, draw = tmp_path / "run", random.Random(f"{sequence} {phase}")
    process = launch(data, run, "--epochs", "300")
    wait_until(lambda: listens(process.pid), 30)
    if phase == "training":
        wait_until(lambda: process.poll() is not None or (run / "metrics.jsonl").exists())
    if phase == "ranks":
        wait_until(lambda: process.poll() is not None or bool(psutil.Process(process.pid).children()))
    time.sleep(draw.uniform(0, 2) if phase != "start" else draw.uniform(0, 8))
    for name in sequence.split():
        os.killpg(process.pid, getattr(signal, f"SIG{name}"))
        time.sleep(draw.choice([0.0, 0.15, 0.5]))
    code, stderr = process.wait(90), (tmp_path / "log").read_text()
    assert "Traceback" not in stderr
    assert code in codes, stderr
    if (run / "status.json").exists():
        status = status_of(run)
        assert (status["exit_code"], status["state"]) == (code, "preempted" if code == 85 else "failed")
    else:  # a signal before the first step
        assert phase != "training"
