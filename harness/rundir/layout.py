# SPDX-License-Identifier: Apache-2.0
"""The run directory: who owns it, what state the run is in, and what it ran on.

::

    config.yaml            the resolved configuration
    environment.json       versions, git revision, devices, effective precision
    attempts.jsonl         one line per start: when, where, on how many processes, from which step
    status.json            state, exit code, reason, step: the truth that job scripts read
    metrics.jsonl          what was learned, one JSON object a line, flushed line by line
    throughput.jsonl       how fast, one line for each train line of metrics.jsonl
    tracking/              what each tracker printed and was told
    checkpoints/           where the run can go on from
    bundle/                best weights with all that prediction needs
    test.json              metrics on the test split
    test-predictions.parquet
    report.html            all of it to look at
    report.html            all of it to look at
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TextIO

import yaml

from harness.config import RunConfig, to_dict
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, DataError, StorageError
from preprocessing.base.locks import acquire

STATUS = "status.json"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
THROUGHPUT = "throughput.jsonl"
ATTEMPTS = "attempts.jsonl"
LOCK = ".lock"
BUNDLE = "bundle"
LAUNCH_ID = "PADLESS_LAUNCH_ID"
"""Environment variable by which a launcher recognises the status that its own processes wrote."""

CLAIM_LIMIT_S = 20.0
"""How long a start waits for ranks of the one before to leave, as they do when their launcher was killed."""

State = Literal["running", "finished", "preempted", "failed"]


@contextmanager
def storage(path: str | Path) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a ``StorageError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); make room or name another directory, then start "
            f"again: the run goes on from its last checkpoint"
        ) from None


def holds_run(run: str | Path) -> bool:
    """Whether a run began in this directory."""
    return any(Path(run, name).exists() for name in (CONFIG, STATUS, METRICS))


def check_free(run: str | Path) -> None:
    """Raise ``ConfigError`` if ``run`` holds a run already, or cannot become a directory."""
    check_directory(run)
    if holds_run(run):
        raise ConfigError(f"run: {run} already holds a run; name another directory, or remove it")


def check_directory(run: str | Path) -> None:
    """Raise ``ConfigError`` if ``run`` cannot be a directory."""
    if Path(run).exists() and not Path(run).is_dir():
        raise ConfigError(f"run: {run} is a file; name a directory")


def claim(config: RunConfig) -> TextIO:
    """Make the run directory and hold it against any other process, until the returned file is closed."""
    path = Path(config.run)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "w")  # noqa: SIM115 - held for as long as the run
    except OSError as error:
        raise StorageError(f"run: {path} cannot be written: {error.strerror}; name a directory you may write") from None
    refusal = ConfigError(f"run: another process trains in {path}; wait for it or name another directory")
    try:
        acquire(lock, CLAIM_LIMIT_S, refusal)
    except ConfigError:
        lock.close()
        raise
    except OSError:  # a file system without locks
        pass
    return lock


def write_config(config: RunConfig) -> None:
    """Write the resolved configuration into the run directory."""
    with storage(config.run):
        atomic.write_text(Path(config.run, CONFIG), yaml.safe_dump(to_dict(config), sort_keys=False))


def note_attempt(run: str | Path, facts: dict[str, Any]) -> int:
    """Append a line to ``attempts.jsonl``; the attempt's number, from 1."""
    path = Path(run, ATTEMPTS)
    with storage(path):
        number = 1 + (path.read_text(encoding="utf-8").count("\n") if path.exists() else 0)
        line = {"attempt": number, "started": time.time(), "host": platform.node(), **facts}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    return number


def write_status(run: str | Path, state: State, *, step: int = 0, exit_code: int = 0, reason: str = "") -> None:
    """Say where the run stands. Rank 0 alone calls this."""
    content = {"state": state, "exit_code": exit_code, "reason": reason, "step": step}
    with storage(Path(run, STATUS)):
        atomic.write_json(Path(run, STATUS), {**content, "launch": os.environ.get(LAUNCH_ID)})


def read_status(run: str | Path) -> dict[str, Any] | None:
    """The status of a run, or None where there is none."""
    try:
        content = json.loads(Path(run, STATUS).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{Path(run, STATUS)}: not readable as JSON ({error})") from None
    return content if isinstance(content, dict) else None


def read_config(run: str | Path) -> dict[str, Any]:
    """The resolved configuration of a run, as plain values."""
    path = Path(run, CONFIG)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: missing: {run} is not a run directory") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no keys: damaged")
    return content


def describe_environment(effective: dict[str, Any]) -> dict[str, Any]:
    """What the run ran on; ``effective`` holds the settings that were decided at start-up, with their reasons."""
    names = ("padless", "torch", "accelerate", "numpy", "pyarrow", "safetensors", "scikit-learn", "nltk", "simplemma")
    return {
        "effective": effective,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "command": sys.argv,
        "git_revision": git_revision(),
        "versions": {name: version for name in names if (version := installed_version(name))},
    }


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of the code that runs, with ``-dirty`` for uncommitted changes; None outside a git checkout."""
    root = Path(__file__).resolve().parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
