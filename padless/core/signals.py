# SPDX-License-Identifier: Apache-2.0
"""Stop signals. Each is noted at once in ``STOP``, by a thread: Python runs signal handlers in the main thread alone,
which may be inside a library.

- A command (``COMMAND``) ends: its unfinished files are removed, and a sentence says what is kept.
- A training has ranks that save. So its launcher (``listen_in_launcher``) and its ranks (``listen_in_rank``) end at
  once only while ``STOP.must_save`` is false. ``harness.launch.launcher`` and ``harness.distributed.stopping`` do the
  rest.

No file is damaged whenever a process ends: files get their names when they are complete.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from padless.core.atomic import remove_open_paths
from padless.core.terminal import print_stderr


def available_signals(*names: str) -> tuple[signal.Signals, ...]:
    """The signals of these names that this system has; Windows lacks most."""
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))


SIGNALS = available_signals("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Stop signals of a command."""
TRAINING_SIGNALS = (*SIGNALS, *available_signals("SIGQUIT"))
"""Stop signals of a training, which saves a checkpoint before it exits."""
PREEMPTED = 85
"""The exit code of a training that was stopped by a signal or a request: the same command continues it."""
SIGNAL_BASE = 128
"""The exit code after a signal is this plus its number, as in shells."""
INTERRUPTED = SIGNAL_BASE + signal.SIGINT
ONE_PRESS_S = 0.1
"""Two SIGINT within this time count as one: a terminal sends it to all processes, and some wrappers forward it too."""
NOTHING_KEPT = "no partial output is left; run the same command again"


class StopRequest:
    """The stop signals that this process has received. There is one, ``STOP``, since signals are sent to a process."""

    def __init__(self) -> None:
        """No signal has arrived yet."""
        self.signal: signal.Signals | None = None
        """The first one."""
        self.received_at = float("inf")
        """When it arrived, in monotonic seconds."""
        self.is_urgent = False
        """A second Ctrl-C came."""
        self.must_save = False
        """This training has something to save, or ranks that may."""
        self._interrupted_at = float("inf")

    @property
    def name(self) -> str:
        """Name of the first signal."""
        return "" if self.signal is None else self.signal.name

    def note(self, number: int) -> None:
        """Record a signal; those that stop nothing are ignored."""
        if number not in TRAINING_SIGNALS:
            return
        now_s = time.monotonic()
        if number == signal.SIGINT:
            self._interrupted_at = min(self._interrupted_at, now_s)
            self.is_urgent = self.is_urgent or now_s - self._interrupted_at > ONE_PRESS_S
        if self.signal is None:
            self.signal, self.received_at = signal.Signals(number), now_s


STOP = StopRequest()


def end_process(code: int, sentence: str | None = None) -> NoReturn:
    """End this process from any thread, after flushing what it printed.

    At a normal exit the static destructors of C++ libraries race with their threads, and may abort the process.
    """
    if sentence is not None:
        print(f"error: {sentence}", file=sys.stderr)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed, as by >&-
        with contextlib.suppress(OSError):  # a log on a full disk
            stream.flush()
    os._exit(code)


def watch_signals(numbers: tuple[signal.Signals, ...], act: Callable[[], None]) -> None:
    """Note signals in ``STOP`` and call ``act`` after each, in a thread; those that are ignored, as by nohup, stay so.

    Signals that were blocked since this process was started are delivered now.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    reader, writer = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows does not ask for it
        os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def note_signals() -> None:
        while received := os.read(reader, 64):
            for number in received:
                STOP.note(number)
            if STOP.signal is not None:
                act()

    threading.Thread(target=note_signals, name="padless-stop", daemon=True).start()
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TRAINING_SIGNALS)


class StopHandler:
    """How a command ends after a stop signal: with a sentence, and 128 plus the signal's number. One: ``COMMAND``."""

    def __init__(self) -> None:
        """Signals have their default effect until ``listen``."""
        self.advice = NOTHING_KEPT
        """What is kept, and how to continue."""
        self.ending: threading.RLock | None = None
        """Who holds it, the main thread or that of signals, decides the exit code; None until ``listen``."""

    def listen(self) -> None:
        """Handle stop signals from here on. The main thread of a command calls it first."""
        self.ending = threading.RLock()
        watch_signals(SIGNALS, self.stop)

    def fix_exit_code(self) -> None:
        """The command has ended, and decides its exit code: later signals change nothing."""
        if self.ending is not None:
            self.ending.acquire()  # cannot hang: the other thread ends the process
            for number in SIGNALS:  # Python's own end would give handled ones their default effect
                signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def advising(self, advice: str) -> Iterator[None]:
        """If a signal stops the block, the sentence ends with ``advice``: what is kept and how to continue."""
        self.advice = advice
        yield
        self.advice = NOTHING_KEPT

    def stop(self) -> NoReturn:
        """End this process after a signal, whatever its main thread does; its workers end with it."""
        assert self.ending is not None
        assert STOP.signal is not None
        self.ending.acquire()  # cannot hang: the main thread ends the process
        is_interrupt = STOP.signal == signal.SIGINT
        reason = "interrupted from the keyboard" if is_interrupt else f"stopped by {STOP.name}"
        try:
            remove_open_paths()
            print_stderr(f"error: {reason}: {self.advice}")  # in place of a line on progress
            sys.stderr.flush()
        finally:
            os._exit(SIGNAL_BASE + STOP.signal)  # without what standard output still holds: its reader may be stuck


COMMAND = StopHandler()


def listen_in_rank() -> None:
    """Note stop signals from here on; a rank that has nothing to save leaves at once."""

    def leave() -> None:
        if not STOP.must_save:
            end_process(PREEMPTED)

    watch_signals(TRAINING_SIGNALS, leave)


def listen_in_launcher() -> None:
    """Note stop signals from here on; without ranks the launcher leaves at once. Call it before any thread starts.

    Signals stay blocked, and ranks and threads inherit that: none ends a rank half-way through its imports, and torch's
    agent, which would kill ranks, gets none. Windows cannot block signals.
    """

    def leave() -> None:
        if not STOP.must_save:
            sentence = f"stopped by {STOP.name} before any process was started; the same command goes on"
            end_process(PREEMPTED, sentence)

    if not hasattr(signal, "pthread_sigmask"):
        watch_signals(TRAINING_SIGNALS, leave)
        return
    numbers = {number for number in TRAINING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

    def take_signals() -> None:
        while True:
            STOP.note(signal.sigwait(numbers))
            leave()

    threading.Thread(target=take_signals, name="padless-stop", daemon=True).start()
