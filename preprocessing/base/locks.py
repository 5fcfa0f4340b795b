# SPDX-License-Identifier: Apache-2.0
"""A lock file that processes of one node share: one of them does the work, the others wait for it, but not for ever."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preprocessing.base.errors import UserError

POLL_S = 0.1


@contextmanager
def locked(path: Path, timeout_s: float, refusal: UserError) -> Iterator[None]:
    """Hold the lock file ``path``, made if need be; the kernel frees it when its holder ends, however that happens.

    Raises ``refusal`` if somebody else still holds it after ``timeout_s`` seconds, ``OSError`` if it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise refusal from None
                time.sleep(POLL_S)
        yield
