# SPDX-License-Identifier: Apache-2.0
"""Training runs in processes of their own, started as a user starts them, for the tests and the proof on a card."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from harness.launch.options import free_port
from tests.commands import PLAIN, ROOT, start_python
from tests.runs import kill

SMALL = (*PLAIN, "--model.embedding_dim", 32, "--model.hidden_size", 32, "--model.dropout", 0.2, "--optim.lr", 0.01)
STOP_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2"


def one_process(device: str) -> tuple[str, ...]:
    """Accelerate's options for a run of one process on this device."""
    name = "gpu" if device == "cuda" else "cpu"
    return ("--config_file", str(ROOT / f"configs/accelerate/{name}.yaml"), "--num_processes", "1")


def start(command: list[object], log: Path, **env: str) -> subprocess.Popen[str]:
    """A Python module with arguments, in a process group of its own; what it says is added to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        pipes = {"stdout": file, "stderr": subprocess.STDOUT}
        return start_python("-m", *command, env={"OMP_NUM_THREADS": "1", **env}, start_new_session=True, **pipes)


def start_run(data: Path, run: Path, device: str, *keys: object) -> subprocess.Popen[str]:
    """``harness train`` with one process and a small model."""
    where = ("--data", data, "--run", run, "--device", device)
    command = ["harness", "train", *one_process(device), *where, *SMALL, *keys]
    return start(command, run.with_suffix(".log"))


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> int:
    """The exit code, within the limit; after that it and all its children are killed, and it is -9."""
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        kill_all(process)
        return -signal.SIGKILL


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for a process and all that it has started."""
    with suppress(psutil.NoSuchProcess):
        kill(process)


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
