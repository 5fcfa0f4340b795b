# SPDX-License-Identifier: Apache-2.0
"""A wish to stop, whoever utters it: a signal, a STOP file in the run directory, or the time that was given.

``install`` comes before torch is imported, since a signal may arrive that early. A handler only takes a note; the
training loop acts on it at a step boundary that all ranks agree on (``harness.training.requests``).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from harness.rundir.status import LAUNCH_ID

EXIT_CODE = 85
"""Checkpointed on request: start me again."""
SIGNALS = ("SIGTERM", "SIGUSR2", "SIGINT", "SIGHUP")
STUCK_S = 45.0
"""A rank that was asked to stop and does not reach its next step in this time waits for a rank that is gone."""
LOOK_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the parent dies."""

_signal: str | None = None
_beat = 0


class Preempted(Exception):  # noqa: N818 - it is no error
    """All ranks leave at a common step, with a checkpoint behind them."""


def install() -> None:
    """Take note of stop signals from here on, and of the launcher's death. Safe to call twice."""
    for name in SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job: left ignored
            signal.signal(number, _note)
    if LAUNCH_ID in os.environ and sys.platform == "linux":
        # Ranks have sessions of their own: a SIGKILL of the launcher alone would leave them training for nobody.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR2))


def _note(number: int, _: Any) -> None:
    global _signal
    if _signal is None:
        _signal = signal.Signals(number).name
        threading.Thread(target=_leave_if_stuck, name="padless-watchdog", daemon=True).start()


def received() -> str | None:
    """The first stop signal that came, by name."""
    return _signal


def beat() -> None:
    """The loop came round: a step, or a batch of an evaluation."""
    global _beat
    _beat += 1


def _leave_if_stuck() -> None:
    """End a process whose training loop stands still after a signal, as it does when a peer died inside a collective.

    Before training begins nothing beats: building may take its time, and the launcher has a limit of its own.
    """
    seen = _beat
    while seen:
        time.sleep(STUCK_S)
        if seen == _beat:
            rank = os.environ.get("RANK", "0")
            print(f"error: rank {rank} was told to stop and waited {STUCK_S:.0f} s for another rank", file=sys.stderr)
            sys.stderr.flush()
            os._exit(1)
        seen = _beat


class StopWatch:
    """Why this rank wants to stop, if it does. Only rank 0 looks at the file and the clock."""

    def __init__(self, stop_file: Path, max_time_s: float | None, *, is_main: bool) -> None:
        """``max_time_s`` counts from here. A ``stop_file`` that is older than this process is removed."""
        self.path = stop_file
        self.is_main = is_main
        self.deadline = None if max_time_s is None else time.monotonic() + max_time_s
        self.max_time_s = max_time_s
        self.next_look = 0.0
        self.stale = is_main and self._remove_stale()

    def reason(self) -> str | None:
        """One phrase, or None to go on; looks at the file system at most twice a second."""
        if _signal is not None:
            return f"{_signal} received"
        if not self.is_main:
            return None
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            return f"max_time of {self.max_time_s:g} s reached"
        if now >= self.next_look:
            self.next_look = now + LOOK_EVERY_S
            if self.path.exists():
                return f"{self.path} is there"
        return None

    def clear(self) -> None:
        """Remove the STOP file once it was obeyed, so that the next start does not stop at once."""
        if self.is_main:
            self.path.unlink(missing_ok=True)

    def _remove_stale(self) -> bool:
        import psutil

        try:
            stale = self.path.stat().st_mtime < psutil.Process().create_time()
        except OSError:
            return False
        if stale:
            self.path.unlink(missing_ok=True)
        return stale
