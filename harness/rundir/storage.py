# SPDX-License-Identifier: Apache-2.0
"""The right to write into a run directory: one process holds it, and a disk that takes no more becomes a sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.config import RunConfig
from harness.rundir.layout import LOCK
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.machine import acquire
from preprocessing.base.storage import refusal, storing

GO_ON = "make room and start again: the run goes on from its last checkpoint"
CLAIM_LIMIT_S = 20.0
"""How long a start waits for another process to let go of the directory.

Ranks whose launcher was killed take a moment to leave.
"""


@contextmanager
def storage(path: str | Path) -> Iterator[None]:
    """Turn a failure to write ``path``, or below it, into a ``UserError`` that names the file."""
    with storing(path, otherwise="name another directory", room=GO_ON):
        yield


def taken(path: Path) -> ConfigError:
    """The refusal of a run directory that another process holds."""
    return ConfigError(f"run: another process trains in {path}; wait for it or name another directory")


def check_claim(config: RunConfig) -> None:
    """Raise what ``claim`` would raise, and leave nothing behind: for a rehearsal."""
    path = Path(config.run)
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"run: {path} cannot be written: {nearest} is not yours; name a directory you may write")
    if (path / LOCK).exists():
        with (path / LOCK).open() as lock, contextlib.suppress(OSError):  # a file system without locks
            acquire(lock, 0, taken(path))


def is_free(run: Path) -> bool:
    """Whether a run directory is there and no process holds it."""
    if not run.is_dir():
        return False
    if (run / LOCK).exists():
        with (run / LOCK).open() as lock, contextlib.suppress(OSError):  # a file system without locks
            try:
                acquire(lock, 0, taken(run))
            except ConfigError:
                return False
    return True


def claim(config: RunConfig) -> TextIO:
    """Make the run directory and hold it against any other process, until the returned file is closed.

    Raises ``ConfigError`` if another process holds it, ``StorageError`` if it cannot be written. On a file system
    without locks nothing is held.
    """
    path = Path(config.run)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / LOCK, "a+")  # noqa: SIM115 - held for as long as the run
    except OSError as error:
        raise refusal(error, path, otherwise="name another directory with --run") from None
    try:
        acquire(lock, CLAIM_LIMIT_S, taken(path))
    except ConfigError:
        lock.close()
        raise
    except OSError:  # a file system without locks
        pass
    return lock
