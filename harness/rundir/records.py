# SPDX-License-Identifier: Apache-2.0
"""The records of a run: ``config.yaml``, ``environment.json``, ``status.json``, ``attempts.jsonl``.

Also the lock of a run directory, which one process holds.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, Literal, TextIO, TypedDict, cast

import yaml
from msgspec.structs import asdict

from harness.config import RunConfig, Task, to_dict
from harness.rundir.json_files import MEND, Line, read_lines, read_typed
from harness.rundir.layout import (
    ATTEMPTS,
    CONFIG,
    ENVIRONMENT,
    LOCK,
    STATUS,
    check_directory,
    existing,
    instead,
    listed,
    members,
    storage,
)
from preprocessing.base import atomic
from preprocessing.base.atomic import storing
from preprocessing.base.configuration import parse_yaml
from preprocessing.base.errors import ConfigError, DataError, StorageError
from preprocessing.base.processes import acquire, available_cores
from preprocessing.base.schema import Count, Record, typed
from preprocessing.base.terminal import public
from preprocessing.base.untrusted import one_line, parse_json, read_bytes

LAUNCH_ID = "PADLESS_LAUNCH_ID"
"""Environment variable that identifies a launch; copied into the status, so that a launcher recognises its own."""
CLAIM_LIMIT_S = 20.0
"""How long a start waits for another process to release the directory.

Ranks take a moment to exit after their launcher was killed.
"""
QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_CONFIG = 4 << 20
"""Maximum bytes of ``config.yaml``; it usually has a few kilobytes."""
CODE = Path(__file__).resolve().parents[2]
RECORDED = (
    *("padless", "torch", "accelerate", "numpy", "pyarrow", "safetensors", "scikit-learn"),
    *("nltk", "simplemma"),
)
"""Distributions whose versions are recorded."""
State = Literal["running", "finished", "preempted", "failed"]


def claim(config: RunConfig) -> TextIO:
    """Make the run directory and lock it until the returned file is closed.

    Raises ``ConfigError`` if another process holds it or it holds other files, ``StorageError`` if it cannot be
    written. A file system without locks is not locked.
    """
    path = Path(config.run)
    check_directory(path)
    with storing(path, otherwise="name another directory with --run"):
        path.mkdir(parents=True, exist_ok=True)
        return hold(path, CLAIM_LIMIT_S, "a+")


def hold(run: Path, limit_s: float, mode: str) -> TextIO:
    """The lock file of a run directory, locked until it is closed. Raises ``ConfigError`` if another process still
    holds it after ``limit_s``.
    """
    lock = cast(TextIO, open(run / LOCK, mode))  # noqa: SIM115 - held for as long as the run
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            what = f"run: another process trains in {run}; wait for it or name another directory"
            acquire(lock, limit_s, ConfigError(what))
    except ConfigError:
        lock.close()
        raise
    return lock


def check_claim(config: RunConfig) -> None:
    """Raise what ``claim`` would raise, without writing anything: for a dry run."""
    path, nearest = Path(config.run), existing(config.run)
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"run: {path} cannot be written: you may not write to {nearest}; name another directory")
    check_unheld(path)


def check_unheld(run: Path) -> None:
    """Raise ``ConfigError`` if another process has locked the run directory."""
    if (run / LOCK).exists():
        hold(run, 0, "r").close()


def is_free(run: Path) -> bool:
    """Whether a run directory exists and no process has locked it."""
    try:
        check_unheld(run)
    except ConfigError:
        return False
    return run.is_dir()


def write_config(config: RunConfig) -> None:
    """Write the configuration with all defaults into the run directory. Raises ``StorageError``."""
    with storage(config.run):
        atomic.write_text(Path(config.run, CONFIG), yaml.safe_dump(to_dict(config), sort_keys=False))


class Trained(TypedDict):
    """The key that every stored configuration has."""

    data: str


class StoredConfig(Trained, total=False):
    """The keys of a stored configuration that padless reads."""

    run: str
    task: Task
    fold: Count | None
    seed: Count
    model: dict[str, Any]
    optim: dict[str, Any]
    tracking: dict[str, Any]


def read_config(run: str | Path) -> dict[str, Any]:
    """The resolved configuration of a run, as plain values. Raises ``DataError``."""
    path = Path(run, CONFIG)
    try:
        text = read_bytes(path, MOST_CONFIG).decode()
        parse_yaml(text, QUICK)  # refuses aliases that would expand beyond memory
        content = parse_json(json.dumps(yaml.load(text, QUICK)).encode())
    except FileNotFoundError:
        if found := members(run):
            what = f"{run}: holds the runs {listed(found)}; name one of them, as in {found[0].path}"
            raise DataError(what) from None
        raise DataError(f"{path}: missing: {instead(Path(run))}") from None
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {MEND}") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not readable as YAML ({one_line(error)}); {MEND}") from None
    typed(StoredConfig, content, str(path), MEND)
    return dict(content)


def dataset_of(run: str | Path) -> str:
    """The dataset that a run was trained on. Raises ``DataError`` for what is no run directory."""
    return str(read_config(run)["data"])


class StoredEnvironment(TypedDict, total=False):
    """The keys of ``environment.json`` that padless reads."""

    effective: dict[str, str]
    versions: dict[str, str]
    git_revision: str | None
    host: str
    cores: Count


def write_environment(run: str | Path, effective: dict[str, Any]) -> None:
    """Write ``environment.json`` for this process. Raises ``StorageError``.

    ``effective`` has the settings decided at start-up, each with its reason.
    """
    content = {
        "effective": effective,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": available_cores(),
        "git_revision": git_revision(),
        "versions": {name: version for name in RECORDED if (version := installed_version(name))},
    }
    with storage(Path(run, ENVIRONMENT)):
        atomic.write_json(Path(run, ENVIRONMENT), content)


def read_environment(run: str | Path) -> dict[str, Any]:
    """``environment.json`` of the last start; empty if there is none. Raises ``DataError``."""
    mend = "start the run again, which writes it again, or remove it"
    return read_typed(StoredEnvironment, Path(run, ENVIRONMENT), mend) or {}


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of the code that runs, with ``-dirty`` for uncommitted changes; None outside a git checkout."""
    command = ["git", "-C", str(CODE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


class Ending(Record, frozen=True):
    """How a run ended, or where it is: ``status.json``."""

    state: State
    step: Count = 0
    exit_code: int = 0
    reason: str = ""
    launch: str | None = None
    """Which launch wrote it; ``write_status`` fills it in."""


def write_status(run: str | Path, ending: Ending) -> None:
    """Write ``status.json``. Only rank 0 calls this. Raises ``StorageError``."""
    said = public(ending.reason).encode("utf-8", "backslashreplace").decode()  # a file name in it may not be UTF-8
    status = {**asdict(ending), "reason": said, "launch": os.environ.get(LAUNCH_ID)}
    with storage(Path(run, STATUS)):
        atomic.write_json(Path(run, STATUS), status)


def read_status(run: str | Path) -> dict[str, Any]:
    """The status of a run; empty where there is none. Raises ``DataError`` for a damaged one."""
    mend = "remove it, and the run goes on from its newest checkpoint"
    content = read_typed(Ending, Path(run, STATUS), mend)
    return {} if content is None else asdict(Ending(**content))


def note_attempt(run: str | Path, facts: dict[str, Any]) -> None:
    """Append a line to ``attempts.jsonl``, with the attempt's number, from 1. Raises ``StorageError``."""
    path = Path(run, ATTEMPTS)
    with storage(path):
        number = 1 + len(read_lines(path, several_writers=True))
        line = {"attempt": number, "started": time.time(), "host": platform.node(), **facts}
        atomic.append_line(path, json.dumps(line))


def read_attempts(run: str | Path) -> list[Line]:
    """One line for each start of a run, oldest first; an incomplete line is skipped."""
    return read_lines(Path(run, ATTEMPTS), several_writers=True)
