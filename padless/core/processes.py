# SPDX-License-Identifier: Apache-2.0
"""Facts about processes and their machine, and locks between processes."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from padless.core.errors import UserError
from padless.core.terminal import print_stderr


def available_cores() -> int:
    """The cores that this process may run on, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


POLL_S = 0.1
unlocked_names = set[str]()
"""Files that were to be locked, on file systems without locks."""


def acquire(file: IO[Any], timeout_s: float, refusal: UserError, *, shared: bool = False) -> None:
    """Lock an open file against every other process, or with ``shared`` against those that do not share it; closing the
    file releases it. On a file system without locks nothing is locked, which a warning says.

    Raises ``refusal`` if another process still holds the lock after ``timeout_s`` seconds (0: do not
    wait). The holder is recorded only if the file is writable.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            try_lock(file, shared)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise refusal from None
            time.sleep(POLL_S)
            continue
        except OSError as error:
            if not unlocked_names:  # one warning in a process
                problem = f"{file.name}: cannot be locked ({error.strerror})"
                print_stderr(f"warning: {problem}: start no other command that writes there meanwhile")
            unlocked_names.add(file.name)
        if file.writable() and not shared:
            os.ftruncate(file.fileno(), 0)
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            os.write(file.fileno(), f"padless {os.getpid()} {platform.node()}".encode())
        return


def try_lock(file: IO[Any], shared: bool) -> None:
    """Lock a file without waiting; Windows has no shared lock, so one process reads there at a time.

    Raises ``BlockingIOError`` if another process holds it, ``OSError`` on a file system without locks.
    """
    try:
        import fcntl
    except ImportError:
        lock_byte(file)
    else:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


LOCKED_BYTE = 1 << 30
"""Position of the byte that Windows locks: beyond the content, which others read."""


def lock_byte(file: IO[Any]) -> None:
    """``try_lock`` by the functions of Windows."""
    import msvcrt

    windows: Any = msvcrt  # whose types are known on Windows alone
    os.lseek(file.fileno(), LOCKED_BYTE, os.SEEK_SET)
    try:
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(*error.args) from None


@contextmanager
def lock_file(path: Path, timeout_s: float, refusal: UserError, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``, created if missing, while the block runs.

    Raises ``refusal`` as :func:`acquire` does, ``OSError`` if the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        acquire(file, timeout_s, refusal, shared=shared)
        yield


def is_lock(path: Path) -> bool:
    """Whether a file is one that ``acquire`` locked: it names a process and a machine."""
    return path.is_file() and re.fullmatch(rb"padless \d+ \S+", path.read_bytes()[:300]) is not None


PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the parent ends."""


def signal_on_parents_death(name: str) -> None:
    """Have the kernel send this signal when the parent of this process ends; has no effect outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.Signals[name])


def lower_priority(number: int, niceness: int) -> None:
    """Give a process or a thread less processor time; has no effect outside Linux."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, number, niceness)
