# SPDX-License-Identifier: Apache-2.0
"""Stop signals to ``padless train``: passed on to the ranks, which save and leave, or are ended in time.

From ``begin`` on the signals are blocked in the launcher and, since a mask is inherited, in its ranks until these
listen (``harness.ranks.stopping``): none is lost, and none ends a process half-way through its imports. A thread
takes them. What a signal does depends on what runs:

- no rank yet, or between two trainings of one command: the launcher leaves at once;
- ranks that have not begun their run: they are killed, since there is nothing to save;
- ranks at work: they get the signal and SIGCONT, and have at most ``LIMIT_S``. A rank that waits for one which does not
  take it leaves by itself (``harness.ranks.stopping``);
- a second Ctrl-C: all are killed now.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from preprocessing.base import processes
from preprocessing.base.processes import OF_TRAININGS, ONE_PRESS_S, PREEMPTED
from preprocessing.base.terminal import Screen

if TYPE_CHECKING:
    import psutil

LIMIT_S = 300.0
"""How long ranks that are at work may take to save."""
BACKSTOP_S = 10.0
"""How long torch's agent may take to notice that all ranks are gone."""
NOW_S = 1.0
"""The same, after a second Ctrl-C."""
LOOK_EVERY_S = 0.1
GOES_ON = "the last whole checkpoint is kept, and the same command goes on"
AT_ONCE = f"interrupted twice from the keyboard: ended at once; {GOES_ON}"
INTERRUPTED = processes.BASE_CODE + signal.SIGINT


class Stop:
    """The stop signals of this launcher. There is one, ``STOP``, since signals are sent to a process."""

    def __init__(self) -> None:
        """No signal has arrived yet."""
        self.heard: list[str] = []
        """Stop signals by name, in order; after one, no further training begins."""
        self.now = False
        """A second Ctrl-C came."""
        self.unbegun = False
        """The ranks were killed before they had begun their run."""
        self.verdict: str | None = None
        """Why the ranks were killed."""
        self.deciding = threading.Lock()
        """Held while the end of the run is written."""
        self._phase = "nothing"
        self._begun: Callable[[], bool] = lambda: True
        self._conclude: Callable[[], int] = lambda: PREEMPTED

    def begin(self) -> None:
        """Take the signals from here on. Call it before any thread starts, since threads inherit the signal mask."""
        ignored = signal.SIG_IGN  # by nohup, and it stays so
        numbers = {number for number in OF_TRAININGS if signal.getsignal(number) is not ignored}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        threading.Thread(target=self._take, args=(numbers,), name="padless-stop", daemon=True).start()

    def between(self) -> None:
        """No rank is running: a stop signal ends the command at once; for an earlier one, callers check ``heard``."""
        self._phase = "nothing"

    @contextmanager
    def ranks(self, begun: Callable[[], bool], conclude: Callable[[], int]) -> Iterator[None]:
        """Ranks are running in the block; after it signals are noted and change nothing.

        ``begun``: whether they have anything to save. ``conclude`` writes how the run ended and returns the exit code;
        it is called if the block does not end.
        """
        self._begun, self._conclude, self._phase = begun, conclude, "ranks"
        try:
            yield
        finally:
            self._phase = "over"

    def _take(self, numbers: set[signal.Signals]) -> None:
        pressed: float | None = None
        while True:
            name, now = signal.Signals(signal.sigwait(numbers)).name, time.monotonic()
            again = name == "SIGINT" and pressed is not None and now - pressed > ONE_PRESS_S
            pressed = pressed or (now if name == "SIGINT" else None)
            self.heard.append(name)
            if self._phase == "nothing":
                leave(PREEMPTED, f"told to stop by {name} before any process was started; the same command goes on")
            if self._phase == "ranks":
                self.now = self.now or again
                if len(self.heard) == 1:
                    threading.Thread(target=self._enforce, args=(name,), name="padless-end", daemon=True).start()

    def _enforce(self, name: str) -> None:
        """Until the ranks have left: signal each, and kill all after the limit."""
        import psutil

        self.unbegun = not self._begun()
        if not self.unbegun and name == "SIGINT":
            Screen(errors=True).say("Saving a checkpoint. Press Ctrl-C again to quit without saving.")
        number, began = int(getattr(signal, name)), time.monotonic()
        kill_at = began if self.unbegun else began + LIMIT_S
        leave_at = began + BACKSTOP_S  # without ranks: torch's agent may wait for other machines
        killed: float | None = None
        told: set[int] = set()
        while self._phase == "ranks":
            now, ranks = time.monotonic(), psutil.Process().children()
            for rank in ranks:
                if rank.pid not in told and not self.unbegun:
                    send(rank, number, signal.SIGCONT)
                    told.add(rank.pid)
                    leave_at = float("inf")
            if self.now or now > kill_at:
                if not (self.now or self.unbegun):
                    self.verdict = f"the ranks had not left {LIMIT_S:.0f} s after {name}, and were killed; {GOES_ON}"
                killed = killed or now
                leave_at = killed + (NOW_S if self.now else BACKSTOP_S)
                for rank in ranks:
                    send(rank, signal.SIGKILL)
            if now > leave_at:
                with self.deciding:
                    leave(self._conclude())
            time.sleep(LOOK_EVERY_S)


STOP = Stop()


def listen(argv: Sequence[str]) -> None:
    """Take stop signals from here on; ``padless`` calls this first."""
    if argv[:1] in (["train"], ["launch"]):  # it stops its ranks first
        STOP.begin()
    else:
        processes.listen()


def send(rank: psutil.Process, *numbers: int) -> None:
    """Send signals to a rank and to what it has started in its own session.

    A tracker has its own session, and ends when its rank asks it to or is gone.
    """
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        session = os.getsid(rank.pid)
        for member in [*rank.children(recursive=True), rank]:
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(member.pid) == session:
                    for number in numbers:
                        member.send_signal(number)


def leave(code: int, sentence: str | None = None) -> None:
    """End the launcher from any thread."""
    if sentence is not None:
        print(f"error: {sentence}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
