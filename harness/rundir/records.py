# SPDX-License-Identifier: Apache-2.0
"""The records of a run: ``config.yaml``, ``environment.json``, ``status.json``, ``attempts.jsonl``."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from msgspec.structs import asdict

from harness.config import RunConfig, to_record
from harness.rundir.json_files import RESTORE, read_object
from harness.rundir.layout import (
    ATTEMPTS,
    CONFIG,
    ENVIRONMENT,
    STATUS,
    describe_missing_bundle,
    storage,
)
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.processes import available_cores
from padless.core.schema import AtLeast0, Record, convert_json
from padless.core.terminal import public
from padless.core.untrusted import one_line

LAUNCH_ID = "PADLESS_LAUNCH_ID"
"""Environment variable that identifies a launch; copied into the status, so that a launcher recognises its own."""
QUICK = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
CODE = Path(__file__).resolve().parents[2]
RECORDED = ("padless", "torch", "accelerate", "numpy", "pyarrow", "safetensors", "scikit-learn", "nltk")
"""Distributions whose versions are recorded."""
RESTORE_STATUS = 'restore it, or write {"state": "failed"} into it to go on from the newest checkpoint'
State = Literal["running", "finished", "preempted", "failed"]


def write_config(config: RunConfig) -> None:
    """Write the configuration with all defaults, but no secrets, into the run directory. Raises ``StorageError``."""
    with storage(config.run):
        atomic.write_text(Path(config.run, CONFIG), yaml.safe_dump(to_record(config), sort_keys=False))


def read_run_config(run: str | Path) -> dict[str, Any]:
    """The resolved configuration of a run, as plain values; dataset and teacher as they are reached from here.

    Raises ``DataError``.
    """
    path = Path(run, CONFIG)
    try:
        content = dict[str, Any](yaml.load(path.read_text(encoding="utf-8"), QUICK))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: missing: {describe_missing_bundle(Path(run))}") from None
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not readable as YAML ({one_line(error)}); {RESTORE}") from None
    if "data" not in content:
        raise DataError(f"{path}: has no key data; {RESTORE}")
    for key in ("data", "teacher"):
        if content.get(key):
            content[key] = reach_path(str(content[key]), run)
    return content


def reach_path(path: str, run: str | Path) -> str:
    """A ``path`` in the command that made a run, as it is reached from here: in the folder where that command was
    given; unchanged where it is not found there.
    """
    folder = ""
    with suppress(DataError):
        folder = read_environment(run).get("folder", "")
    reached = os.path.normpath(os.path.join(folder, path))
    return reached if os.path.exists(reached) and reached != os.path.abspath(path) else path


def write_environment(run: str | Path, effective: dict[str, Any]) -> None:
    """Write ``environment.json`` for this process. Raises ``StorageError``.

    ``effective`` has the settings decided at start-up, each with its reason.
    """
    content = {
        "folder": os.getcwd(),
        "effective": effective,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": available_cores(),
        "git_revision": git_revision(),
        "versions": {name: installed_version(name) for name in RECORDED if installed_version(name)},
    }
    with storage(Path(run, ENVIRONMENT)):
        atomic.write_json(Path(run, ENVIRONMENT), content)


def read_environment(run: str | Path) -> dict[str, Any]:
    """``environment.json`` of the last start; empty if there is none. Raises ``DataError``."""
    advice = "start the run again, which writes it again, or remove it"
    return read_object(Path(run, ENVIRONMENT), advice) or {}


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
    step: AtLeast0 = 0
    exit_code: int = 0
    reason: str = ""
    launch: str | None = None
    """Which launch wrote it; ``write_status`` fills it in."""


def write_status(run: str | Path, ending: Ending) -> None:
    """Write ``status.json``. Only rank 0 calls this. Raises ``StorageError``."""
    reason = public(ending.reason).encode("utf-8", "backslashreplace").decode()  # a file name in it may not be UTF-8
    status = {**asdict(ending), "reason": reason, "launch": os.environ.get(LAUNCH_ID)}
    with storage(Path(run, STATUS)):
        atomic.write_json(Path(run, STATUS), status)


def read_status(run: str | Path) -> dict[str, Any]:
    """The status of a run; empty where there is none. Raises ``DataError`` for a damaged one."""
    path = Path(run, STATUS)
    content = read_object(path, RESTORE_STATUS)
    return {} if content is None else asdict(convert_json(Ending, content, str(path), RESTORE_STATUS))


def note_attempt(run: str | Path, facts: dict[str, Any]) -> None:
    """Append a line to ``attempts.jsonl``, with the attempt's number, from 1. Raises ``StorageError``."""
    path = Path(run, ATTEMPTS)
    with storage(path):
        num_lines = path.read_bytes().count(b"\n") if path.exists() else 0
        line = {"attempt": num_lines + 1, "started": time.time(), "host": platform.node(), **facts}
        atomic.append_line(path, json.dumps(line))
