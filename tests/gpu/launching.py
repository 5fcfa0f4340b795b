# SPDX-License-Identifier: Apache-2.0
"""Training runs in processes of their own, started as a user starts them, for the tests and the proof on a card."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from tests.commands import PLAIN, ROOT, free_port
from tests.runs import kill

SMALL = (*PLAIN, "--model.embedding_dim", 32, "--model.hidden_size", 32, "--model.dropout", 0.2, "--optim.lr", 0.01)
STOP_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2"


def one_process(device: str) -> tuple[str, ...]:
    """Accelerate's options for a run of one process on this device."""
    name = "gpu" if device == "cuda" else "cpu"
    return ("--config_file", str(ROOT / f"configs/accelerate/{name}.yaml"), "--num_processes", "1")


def start(command: list[object], log: Path, **env: str) -> subprocess.Popen[bytes]:
    """A Python module with arguments, in a process group of its own; what it says is added to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def start_run(data: Path, run: Path, device: str, *keys: object) -> subprocess.Popen[bytes]:
    """``harness launch`` with one process and a small model."""
    where = ("--data", data, "--run", run, "--device", device)
    command = ["harness", "launch", *one_process(device), *where, *SMALL, *keys]
    return start(command, run.with_suffix(".log"))


def finish(process: subprocess.Popen[bytes], timeout_s: float = 120) -> int:
    """The exit code, within the limit; after that it and all its children are killed, and it is -9."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        kill_all(process)
        return -signal.SIGKILL


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        kill(process)


def rank_process(launcher: subprocess.Popen[bytes], rank: int, module: str) -> psutil.Process:
    """The process of a rank that ``launcher`` has started to run ``module``. Raises ``LookupError`` without one."""
    for child in psutil.Process(launcher.pid).children(recursive=True):
        try:
            if child.environ().get("RANK") == str(rank) and module in child.cmdline():
                return child
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    raise LookupError(f"no process of rank {rank}")


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def in_parallel(calls: list[Callable[[], int]], at_once: int) -> list[int]:
    """What each call gives, with so many of them at once."""
    with ThreadPoolExecutor(at_once) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def tail(log: Path, length: int = 300) -> str:
    """The end of what a run said, in one line."""
    return " ".join(log.read_text(errors="replace").split())[-length:] if log.is_file() else ""


def ranks_of(number: int) -> tuple[object, ...]:
    """What bare ``accelerate launch`` is told for so many ranks on one machine."""
    plain = ("--num_processes", number, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no")
    return ("accelerate.commands.launch", "--multi_gpu", *plain, "--main_process_port", free_port())
