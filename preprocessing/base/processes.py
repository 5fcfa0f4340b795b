# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of other processes where it has ``/proc``: whether they run, and which signals they took."""

from __future__ import annotations

import contextlib
import os
import signal as signals
from pathlib import Path

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
