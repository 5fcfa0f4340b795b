# SPDX-License-Identifier: Apache-2.0
"""Lock files that processes of one node share: one of them does the work, the others wait for it, but not for ever.

The kernel frees a lock when the process that holds it ends, however that happens, so no lock is ever left behind. The
file says who holds it, for the sentence of whoever is refused.
"""

from __future__ import annotations

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from preprocessing.base import processes
from preprocessing.base.errors import UserError

POLL_S = 0.1


def acquire(file: IO[Any], timeout_s: float, refusal: UserError) -> None:
    """Lock an open file against every other process; closing the file frees it.

    Raises ``refusal``, and who it is, if another process still holds the lock after ``timeout_s`` seconds (0: do not
    wait), ``OSError`` on a file system without locks. A file that is open for reading alone names nobody.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise type(refusal)(f"{refusal}{holder(file)}") from None
            time.sleep(POLL_S)
        else:
            if file.writable():
                os.ftruncate(file.fileno(), 0)
                os.pwrite(file.fileno(), f"{os.getpid()} {platform.node()}".encode(), 0)
            return


def holder(file: IO[Any]) -> str:
    """Who holds a lock, as a phrase that ends a sentence; empty if the file does not say."""
    try:
        number, _, host = os.pread(file.fileno(), 300, 0).decode().partition(" ")
        pid = int(number)
    except (OSError, ValueError):
        return ""
    if host != platform.node():
        return f" (process {pid} on {host})"
    mend = f"; kill -CONT {pid} lets it go on" if processes.state(pid) in processes.HELD else ""
    return f" ({processes.in_words(pid)}{mend})"


@contextmanager
def locked(path: Path, timeout_s: float, refusal: UserError) -> Iterator[None]:
    """Hold the lock file ``path``, made if need be, while the block runs.

    Raises ``refusal`` as :func:`acquire` does, ``OSError`` if the file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        acquire(file, timeout_s, refusal)
        yield
