# SPDX-License-Identifier: Apache-2.0
"""Lock files that processes of one node share: one of them does the work, the others wait for it, but not for ever.

The kernel frees a lock when the process that holds it ends, however that happens, so no lock is ever left behind.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from preprocessing.base.errors import UserError

POLL_S = 0.1


def acquire(file: IO[Any], timeout_s: float, refusal: UserError) -> None:
    """Lock an open file against every other process; closing the file frees it.

    Raises ``refusal`` if another process still holds the lock after ``timeout_s`` seconds (0: do not wait), ``OSError``
    on a file system without locks.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise refusal from None
            time.sleep(POLL_S)


@contextmanager
def locked(path: Path, timeout_s: float, refusal: UserError) -> Iterator[None]:
    """Hold the lock file ``path``, made if need be, while the block runs.

    Raises ``refusal`` as :func:`acquire` does, ``OSError`` if the file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        acquire(file, timeout_s, refusal)
        yield
