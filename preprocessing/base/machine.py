# SPDX-License-Identifier: Apache-2.0
"""Processes, memory and lock files of this machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import signal as signals
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from preprocessing.base.errors import UserError

STATES = {"T": "T (stopped)", "t": "t (held by a debugger)", "D": "D (waiting for a disk)", "Z": "Z (ended)"}
"""States that explain why a process does nothing; others, running or asleep, explain nothing."""
HELD = {"T", "t"}
"""States in which a process does nothing until somebody lets it go on."""


def state(pid: int) -> str | None:
    """The letter that proc(5) has for the state of a process; None where there is no such process, or no /proc."""
    fields = _fields_of_stat(pid)
    return fields[0] if fields else None


def in_words(pid: int) -> str:
    """``process 4711, T (stopped)``; of a state that explains nothing, the process alone."""
    known = STATES.get(state(pid) or "")
    return f"process {pid}, {known}" if known else f"process {pid}"


def cpu_ticks(pid: int) -> int | None:
    """How long a process has computed, in clock ticks; None where that is not known."""
    fields = _fields_of_stat(pid)
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else None


def has_taken(pid: int, signal: int) -> bool:
    """Whether a process has no signal of this number waiting for it, or does not take any yet; True if not known."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = {name: int(value, 16) for name, _, value in (line.partition(":") for line in lines) if name in MASKS}
    bit = 1 << (signal - 1)
    waiting = any(masks.get(name, 0) & bit for name in ("SigPnd", "ShdPnd"))
    return not waiting or bool(masks.get("SigBlk", 0) & bit)


def end_spawned() -> None:
    """Kill the workers of this process, also one that is just being started, which would complain of a broken pipe."""
    found: list[int] = []
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found += map(int, children.read_text().split())
    for pid in found:
        with contextlib.suppress(OSError):  # a process that has
            if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signals.SIGKILL)


MASKS = ("SigPnd", "ShdPnd", "SigBlk")


def _fields_of_stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` from the state on; the name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def memory_bytes(root: str | Path = "/sys/fs/cgroup", membership: str | None = None) -> int:
    """Bytes that processes here can have at most: the machine's, or what their control groups (version 2) are given.

    ``membership`` is the text of ``/proc/self/cgroup`` (cgroups(7)).
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        text = Path("/proc/self/cgroup").read_text(encoding="utf-8") if membership is None else membership
    except OSError:
        text = ""
    path = next((line[3:].lstrip("/") for line in text.splitlines() if line.startswith("0::")), "")
    for folder in (Path(root, path), *Path(root, path).parents):
        try:
            limits.append(int((folder / "memory.max").read_text(encoding="utf-8")))
        except (OSError, ValueError):  # no such file, or max
            continue
    return min(limits)


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
    mend = f"; kill -CONT {pid} lets it go on" if state(pid) in HELD else ""
    return f" ({in_words(pid)}{mend})"


@contextmanager
def locked(path: Path, timeout_s: float, refusal: UserError) -> Iterator[None]:
    """Hold the lock file ``path``, made if need be, while the block runs.

    Raises ``refusal`` as :func:`acquire` does, ``OSError`` if the file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        acquire(file, timeout_s, refusal)
        yield
