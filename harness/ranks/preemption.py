# SPDX-License-Identifier: Apache-2.0
"""Preemption: a signal, a stop file, or the end of the time that was given asks all ranks to save and leave.

``install`` comes before torch is imported, since a signal may arrive that early. A thread takes note of signals: Python
runs its handlers in the main thread alone, which may be inside a collective. The training loop acts on the note at a
step that all ranks agree on (``training.requests``).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from harness.ranks.heartbeat import HEARTBEAT
from harness.rundir.records import LAUNCH_ID
from preprocessing.base import stopping

EXIT_CODE = stopping.PREEMPTED
SIGNALS = stopping.OF_TRAININGS
LOOK_EVERY_S = 0.5
PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the parent dies."""

_signal: str | None = None
_pipe: tuple[int, int] | None = None


class Preempted(Exception):  # noqa: N818 - it is no error
    """All ranks leave at a common step, with a checkpoint behind them."""


def install() -> None:
    """Take note of stop signals from here on, and of the launcher's death. Safe to call twice.

    Those that came since this process was started by padless's launcher were blocked, and come now.
    """
    global _pipe
    if _pipe is None:
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)
        signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=_listen, args=(_pipe[0],), name="padless-signals", daemon=True).start()
    for name in SIGNALS:
        number = getattr(signal, name)
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job: left ignored
            signal.signal(number, lambda number, frame: _note(number))
    unblock()
    if LAUNCH_ID in os.environ and sys.platform == "linux":
        # Ranks have sessions of their own: a SIGKILL of the launcher alone would leave them training for nobody.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGUSR2))


def unblock() -> None:
    """Let stop signals through: the launcher's ranks are born with a mask that holds them back."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {getattr(signal, name) for name in SIGNALS})


def _listen(pipe: int) -> None:
    """Note each signal as the kernel delivers it: the interpreter writes its number into the pipe at once."""
    while numbers := os.read(pipe, 64):
        for number in numbers:
            if signal.Signals(number).name in SIGNALS:
                _note(number)


def _note(number: int) -> None:
    global _signal
    if _signal is None:
        _signal = signal.Signals(number).name
    HEARTBEAT.stop_asked()


def received() -> str | None:
    """The first stop signal that came, by name."""
    return _signal


class StopWatch:
    """Whether this rank is asked to stop, and why. Only rank 0 looks at the stop file and the clock."""

    def __init__(self, path: Path, max_time_s: float | None, *, is_main: bool) -> None:
        """``path`` is the stop file; one from before this process began is an old one and is removed.

        ``max_time_s`` counts from here.
        """
        self.path = path
        self.is_main = is_main
        self.deadline = None if max_time_s is None else time.monotonic() + max_time_s
        self.max_time_s = max_time_s
        self.next_look = 0.0
        self.found: str | None = None
        self.stale = is_main and self._remove_stale()

    def reason(self) -> str | None:
        """One phrase, the first that was found, or None to go on; looks at the file at most twice a second."""
        self.found = self.found or self._look()
        return self.found

    def _look(self) -> str | None:
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
        """Remove the stop file once it was obeyed, so that the next start does not stop at once."""
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
