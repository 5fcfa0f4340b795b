# SPDX-License-Identifier: Apache-2.0
"""The lock of a run directory, which one process holds while it trains there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO, cast

from harness.rundir.layout import LOCK, check_directory
from padless.core.atomic import nearest_existing, storage_errors
from padless.core.errors import ConfigError, StorageError, UserError
from padless.core.processes import acquire

MAX_CLAIM_S = 20.0
"""How long a start waits for another process to release the directory.

Ranks take a moment to exit after their launcher was killed.
"""


def claim_run(run: Path) -> TextIO:
    """Make the run directory and lock it until the returned file is closed.

    Raises ``ConfigError`` if another process holds it or it holds other files, ``StorageError`` if it cannot be
    written. A file system without locks is not locked.
    """
    check_directory(run)
    with storage_errors(run, otherwise="name another directory with --run"):
        run.mkdir(parents=True, exist_ok=True)
        return open_locked(run, MAX_CLAIM_S, "a+")


def open_locked(run: Path, limit_s: float, mode: str) -> TextIO:
    """The lock file of a run directory, locked until it is closed. Raises ``ConfigError`` if another process still
    holds it after ``limit_s``.
    """
    lock = cast(TextIO, open(run / LOCK, mode))  # noqa: SIM115 - held for as long as the run
    try:
        sentence = f"run: another process trains in {run}; wait for it or name another directory"
        acquire(lock, limit_s, ConfigError(sentence))
    except ConfigError:
        lock.close()
        raise
    return lock


def check_claim(run: Path, limit_s: float = 0.0) -> None:
    """Raise what ``claim_run`` would raise after ``limit_s``, without writing: for a dry run, and a launcher."""
    nearest = nearest_existing(str(run))  # a file in place of a directory is refused later
    if nearest.is_dir() and not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"run: {run} cannot be written: you may not write to {nearest}; name another directory")
    if (run / LOCK).exists():
        open_locked(run, limit_s, "r").close()


def is_free(run: Path) -> bool:
    """Whether a run directory exists, can be written, and is locked by no process."""
    try:
        check_claim(run)
    except UserError:
        return False
    return run.is_dir()
