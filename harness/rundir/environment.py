# SPDX-License-Identifier: Apache-2.0
"""``environment.json``: what a run ran on, and the settings that were decided at its start."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from harness.rundir.json_files import read_object
from harness.rundir.layout import ENVIRONMENT
from harness.rundir.storage import storage
from preprocessing.base import atomic
from preprocessing.base.printable import public
from preprocessing.base.typed import Count, typed

PACKAGES = ("harness", "preprocessing")


def write_environment(run: str | Path, effective: dict[str, Any]) -> None:
    """Describe this process's surroundings in the run directory. Raises ``StorageError``.

    ``effective`` holds the settings that were decided at start-up, each with its reason.
    """
    with storage(Path(run, ENVIRONMENT)):
        atomic.write_json(Path(run, ENVIRONMENT), describe_environment(effective))


def read_environment(run: str | Path) -> dict[str, Any]:
    """What the last start of a run ran on; empty where nothing is known. Raises ``DataError``."""
    path, mend = Path(run, ENVIRONMENT), "start the run again, which writes it anew, or remove it"
    content = read_object(path, mend) or {}
    typed(Known, {name: content[name] for name in KNOWN if name in content}, str(path), mend)
    return content


@dataclass(frozen=True)
class Known:
    """What others ask of it, whichever version wrote it."""

    effective: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_revision: str | None = None
    host: str = ""
    cores: Count = 0
    command: list[str] = field(default_factory=list)


KNOWN = tuple(one.name for one in fields(Known))


def describe_environment(effective: dict[str, Any]) -> dict[str, Any]:
    """Versions, machine, command and git revision of this process, beside the ``effective`` settings."""
    names = (
        "padless",
        "torch",
        "accelerate",
        "numpy",
        "pyarrow",
        "safetensors",
        "scikit-learn",
        "nltk",
        "simplemma",
        "gensim",
    )
    return {
        "effective": effective,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "command": [public(word) for word in sys.argv],
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


@cache
def code_hash() -> str:
    """The first digits of a hash over all modules of this version, which tells two revisions apart without git."""
    root = Path(__file__).resolve().parents[2]
    hashed = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            hashed.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return hashed.hexdigest()[:12]
