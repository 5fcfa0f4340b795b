# SPDX-License-Identifier: Apache-2.0
"""The run directory: who owns it, what state the run is in, and what it ran on.

::

    config.yaml            the resolved configuration
    environment.json       versions, git revision, devices, effective precision
    status.json            state, exit code, reason, step: the truth that job scripts read
    metrics.jsonl          one JSON object a line, flushed line by line
    bundle/                best weights with all that prediction needs
    test.json              metrics on the test split
    test-predictions.parquet
    report.html            all of it to look at
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import yaml

from harness.config import RunConfig, to_dict
from preprocessing import atomic
from preprocessing.errors import ConfigError, DataError

STATUS = "status.json"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
BUNDLE = "bundle"
LAUNCH_ID = "PADLESS_LAUNCH_ID"
"""Environment variable by which a launcher recognises the status that its own processes wrote."""

State = Literal["running", "finished", "failed"]


def check_free(run: str | Path) -> None:
    """Raise ``ConfigError`` if ``run`` holds a run already, or cannot become a directory."""
    path = Path(run)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"run: {path} is a file; name a directory that does not exist yet")
    if path.is_dir() and any((path / name).exists() for name in (CONFIG, STATUS, METRICS)):
        raise ConfigError(f"run: {path} already holds a run; name another directory, or remove it")


def claim(config: RunConfig) -> Path:
    """Make the run directory and write the resolved configuration into it."""
    check_free(config.run)
    path = Path(config.run)
    try:
        path.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path / CONFIG, yaml.safe_dump(to_dict(config), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"run: {path} cannot be written: {error.strerror}; name a directory you may write") from None
    return path


def write_status(run: str | Path, state: State, *, step: int = 0, exit_code: int = 0, reason: str = "") -> None:
    """Say where the run stands. Rank 0 alone calls this."""
    content = {"state": state, "exit_code": exit_code, "reason": reason, "step": step}
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
