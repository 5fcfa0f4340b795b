# SPDX-License-Identifier: Apache-2.0
"""The right to write into a run directory: one process holds it, and a disk that takes no more becomes a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.config import RunConfig
from harness.rundir.layout import LOCK
from preprocessing.base.errors import ConfigError, StorageError
from preprocessing.base.locks import acquire

CLAIM_LIMIT_S = 20.0
"""How long a start waits for another process to let go of the directory.

Ranks whose launcher was killed take a moment to leave.
"""


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


def claim(config: RunConfig) -> TextIO:
    """Make the run directory and hold it against any other process, until the returned file is closed.

    Raises ``ConfigError`` if another process holds it, ``StorageError`` if it cannot be written. On a file system
    without locks nothing is held.
    """
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
