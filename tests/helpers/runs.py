# SPDX-License-Identifier: Apache-2.0
"""Small training runs, to be killed, stopped and started again.

``launch`` starts them as users do; ``start`` and ``train_to_end`` fork the ranks alone, in milliseconds, for tests
whose point is not the launcher.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import train
from harness.config import ModelConfig, RunConfig
from harness.distributed.stopping import run_rank
from padless.core.signals import end_process
from tests.helpers.commands import CPU, PLAIN_RECIPE, later_wins, start_python, status_of, wait_until
from tests.helpers.ranks import start_ranks

MODEL = "--model.embedding_dim 16 --model.hidden_size 16 --model.dropout 0.2 --optim.ema 0.99 --model.wide 256"
LENGTH = "--epochs 3 --global_batch 16 --precision fp32 --device cpu"
TRAINING = (*PLAIN_RECIPE, *f"{MODEL} {LENGTH}".split())
SAVING = ["--checkpoint.every_steps", "11", "--tracking.log_every", "4", "--timeout_s", "60"]


def arguments(data: Path, run: Path, *more: str) -> tuple[str, ...]:
    """The keys of a training."""
    return (*later_wins("--data", data, "--run", run, *TRAINING, *SAVING, *more),)


def small(data: object, run: object, *, wide: int = 0, **more: Any) -> RunConfig:
    """The configuration of a training of a tiny network on the CPU."""
    model = ModelConfig(embedding_dim=4, hidden_size=4, wide=wide)
    options = {"device": "cpu", "precision": "fp32", "model": model, **more}
    return RunConfig(data=str(data), run=str(run), **options)


def launch(data: Path, run: Path, *more: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """The launcher and its two ranks, in a process group of their own; ``options`` are accelerate's."""
    run.parent.mkdir(parents=True, exist_ok=True)
    with open(run.parent / "log", "a") as log:
        words = ("-m", "padless", "train", *CPU, *options, *arguments(data, run, *more))
        pipes = {"stdout": log, "stderr": subprocess.STDOUT}
        return start_python(*words, start_new_session=True, **pipes)


@dataclass(frozen=True)
class Ranks:
    """Ranks that train without a launcher, to be treated like its process."""

    run: Path
    processes: list[Any]

    def poll(self) -> int | None:
        """None while a rank is alive, then the exit code that the run's ``status.json`` has, as a launcher's."""
        if any(process.exitcode is None for process in self.processes):
            return None
        return int(status_of(self.run)["exit_code"])

    def wait(self, timeout_s: float) -> int:
        """The exit code, when all ranks have left."""
        wait_until(lambda: self.poll() is not None, timeout_s)
        code = self.poll()
        return code

    def kill(self) -> None:
        """SIGKILL for every rank at once."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(20)


def start(data: Path, run: Path, *more: str, processes: int = 2, setup: Callable[[], object] | None = None) -> Ranks:
    """Only the ranks; each calls ``setup``, which is importable, before it begins."""
    run.parent.mkdir(parents=True, exist_ok=True)
    log = run.parent / "log"
    return Ranks(run, start_ranks(_train, processes, arguments(data, run, *more), log, log, setup))


def train_to_end(
    *argv: object,
    processes: int = 1,
    setup: Callable[[], object] | None = None,
    timeout_s: float = 150,
) -> subprocess.CompletedProcess[str]:
    """``harness.train argv`` on ranks of its own, with the exit code of rank 0 and what all ranks printed."""
    words = (*later_wins(*argv, *(() if "--baseline" in argv else ("--baseline", "none"))),)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        ranks = start_ranks(_train, processes, words, out, err, setup)
        try:
            for rank in ranks:
                rank.join(timeout_s)
                assert rank.exitcode is not None, f"{words} took longer than {timeout_s} s"
        finally:
            for rank in ranks:
                rank.kill()
        return subprocess.CompletedProcess(words, ranks[0].exitcode, out.read_text(), err.read_text())


def _train(
    argv: tuple[str, ...],
    out: Path,
    err: Path,
    setup: Callable[[], object] | None,
) -> None:
    """What ``python -m harness.train`` does."""
    for number, path in ((1, out), (2, err)):
        with open(path, "a") as file:
            os.dup2(file.fileno(), number)
    if setup is not None:
        setup()
    sys.argv = ["harness.train", *argv]
    end_process(run_rank(train.main))


def log(run: Path) -> str:
    """What the starts of a run have printed."""
    return (run.parent / "log").read_text()


def finish(process: Any, run: Path, code: int = 0) -> None:
    """Wait until a run ends with this exit code."""
    assert process.wait(150) == code, log(run)[-4000:]


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the launcher and every rank at once."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait(20)


def rank_of(run: Path, rank: int = 1, module: str = "harness.train") -> psutil.Process:
    """The process of a rank that trains into ``run``, on whichever machine this system has. Raises ``LookupError``."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = {word.removeprefix("--run=") for word in process.info["cmdline"] or []}
        if {module, str(run)} <= words and (process.info["environ"] or {}).get("RANK") == str(rank):
            return process
    raise LookupError(f"no rank {rank} trains into {run}")


def steps_done(run: Path) -> int:
    """Steps of the last log line on disk."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (OSError, ValueError):
        return 0


def wait_for_step(process: subprocess.Popen[str] | Ranks, run: Path, step: float) -> None:
    """Until a run has logged a step; or has ended, which is for the caller to notice."""
    wait_until(lambda: process.poll() is not None or steps_done(run) >= step)


def final(run: Path) -> dict[str, bytes]:
    """All that must not depend on whether the run was disturbed."""
    status = status_of(run)
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    names = ["metrics.jsonl", *(f"bundle/{path.name}" for path in (run / "bundle").iterdir())]
    if (run / "test.json").exists():  # a pretraining has no test
        names.append("test.json")
    newest = max((run / "checkpoints").iterdir())
    names += [f"checkpoints/{newest.name}/{name}" for name in ("model.safetensors", "optimizer.safetensors")]
    return {name: (run / name).read_bytes() for name in names}
