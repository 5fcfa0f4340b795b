# SPDX-License-Identifier: Apache-2.0
"""Run padless commands as a user does, each with a hard limit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
PLAIN_RECIPE = ("--config", str(ROOT / "tests" / "plain.yaml"))
"""A recipe that sets nothing, for trainings without the default recipe."""
CPU = ("--config_file", str(ROOT / "configs/accelerate/cpu.yaml"))


def later_wins(*words: object) -> list[str]:
    """Keys and their values, as a command takes them: of a key that stands there twice, the last."""
    group_by_key: dict[str, list[str]] = {}
    key = ""
    for word in map(str, words):
        if word.startswith("--"):
            key = word.partition("=")[0]
            group_by_key[key] = []
        group_by_key.setdefault(key, []).append(word)
    return [word for group in group_by_key.values() for word in group]


def run_module(module: str, *arguments: object, timeout_s: float = 180, **env: str) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments`` from the repository's root."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return run_command(command, timeout_s, env)


def start_python(
    *words: object, env: Mapping[str, str] = MappingProxyType({}), **options: Any
) -> subprocess.Popen[str]:
    """The interpreter with these words, from the repository's root; ``options`` are those of ``Popen``."""
    popen_options = {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT), **env}, "text": True, **options}
    return subprocess.Popen([sys.executable, *map(str, words)], **popen_options)


def run_command(
    command: list[str], timeout_s: float = 180, env: Mapping[str, str] = MappingProxyType({}), cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """A command in a directory; it and its children are killed when the time is up. Its stderr has each sentence on one
    line.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, err = process.communicate()
        raise AssertionError(f"{command} took longer than {timeout_s} s:\n{out[-2000:]}\n{err[-2000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, unwrapped(err))


def unwrapped(text: str) -> str:
    """What was printed, each sentence on one line again: lines that begin with blanks go on with the one before."""
    return re.sub(r"\n +", " ", text)


def listens(pid: int) -> bool:
    """Whether a process catches or blocks SIGTERM. It does neither until its first line runs, a tenth of a second or
    more after its start.
    """
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return any(int(lines[mask], 16) & 1 << (signal.SIGTERM - 1) for mask in ("SigCgt", "SigBlk"))


def succeed(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    """Assert exit code 0, showing what was printed if not."""
    assert result.returncode == 0, f"{result.args}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused command printed on stderr, without a traceback."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def is_gone(pid: int) -> bool:
    """Whether a process has ended, also one that nobody has reaped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], object], timeout_s: float = 150) -> None:
    """Fails if it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def read_json(path: Path) -> Any:
    """The value in a file of JSON."""
    return json.loads(path.read_bytes())


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of one kind of a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def values_in_log(run: Path, name: str, kind: str = "train") -> list[Any]:
    """A figure in each line of one kind of a run's metrics.jsonl."""
    return [line[name] for line in read_metrics(run, kind)]


def status_of(run: Path) -> dict[str, Any]:
    """What ``status.json`` of a run says."""
    return read_json(run / "status.json")
