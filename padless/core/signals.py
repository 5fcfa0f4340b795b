# SPDX-License-Identifier: Apache-2.0
"""Stop signals: each is noted at once, and from then on the process has a deadline.

Python runs signal handlers in the main thread alone, which may be inside a library. So a thread notes signals in
``STOP``, and a watchdog ends the process if it has not ended by itself:

- a command (``StopHandler``): ``Stopped`` is raised in the main thread, so that ``finally`` blocks clean up;
- a rank of a training (``listen_in_rank``): it leaves at once, or its training loop reads ``STOP`` and saves;
  ``harness.distributed.stopping`` has its watchdog;
- the launcher of a training (``Launcher``): its ranks get the signal, and are killed at the deadline.

No file is damaged whenever a process ends: files get their names when they are complete.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from padless.core.atomic import remove_open_folders
from padless.core.processes import PARENT, signal_on_parents_death

if TYPE_CHECKING:
    import psutil

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Stop signals of a command."""
TRAINING_SIGNALS = (*SIGNALS, signal.SIGQUIT)
"""Stop signals of a training, which saves a checkpoint before it exits."""
PREEMPTED = 85
"""The exit code of a training that was stopped by a signal or a request: the same command continues it."""
SIGNAL_BASE = 128
"""The exit code after a signal is this plus its number, as in shells."""
INTERRUPTED = SIGNAL_BASE + signal.SIGINT
CLEANUP_LIMIT_S = 10.0
"""Most time for the cleanup of a command."""
SAVE_LIMIT_S = 300.0
"""Most time for ranks at work to save."""
AGENT_LIMIT_S = 5.0
"""Most time for a launcher to end once its ranks are gone: torch's agent may wait for other machines."""
ONE_PRESS_S = 0.1
"""Two SIGINT within this time count as one: a terminal sends it to all processes, and some wrappers forward it too."""
POLL_S = 0.1
NOTHING_KEPT = "no partial output is left; run the same command again"
RESUMES = "the last whole checkpoint is kept, and the same command goes on"


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
        self._interrupted_at = float("inf")

    @property
    def name(self) -> str:
        """Name of the signal; an interrupt that no handler noted is SIGINT."""
        return (self.signal or signal.SIGINT).name

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


class Stopped(KeyboardInterrupt):
    """A stop signal arrived. ``except Exception`` does not catch it, as with Ctrl-C."""


def open_signal_pipe(numbers: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], object]) -> int:
    """Handle signals in the main thread, and have the interpreter write their numbers into a pipe at once.

    Signals that are ignored, as by nohup, stay so. Returns the end of the pipe to read.
    """
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def start_thread(function: Callable[..., None], *arguments: object) -> None:
    """Run a function in a thread that ends with the process."""
    threading.Thread(target=function, args=arguments, name="padless-stop", daemon=True).start()


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


class StopHandler:
    """How a command ends after a stop signal: with a sentence, and 128 plus the signal's number."""

    def __init__(self) -> None:
        """Signals have their default effect until ``listen``."""
        self.is_listening = False
        self.can_catch = False
        """A caller catches ``Stopped``; before, while modules are imported, a signal ends the process at once."""
        self.exit_code: int | None = None
        """Fixed once the command has ended; later signals are ignored."""
        self.advice = NOTHING_KEPT
        """What is kept, and how to continue."""
        self._has_raised = False

    def listen(self) -> None:
        """Handle stop signals from here on. The main thread of a command calls it first."""
        if self.is_listening:
            return
        self.is_listening = True
        if os.environ.pop(PARENT, None):
            signal_on_parents_death(signal.SIGTERM)
        start_thread(self._watch, open_signal_pipe(SIGNALS, self._handle))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TRAINING_SIGNALS)  # the console script blocks them

    def fix_exit_code(self, code: int) -> int:
        """Fix the exit code: later signals are ignored. Returns it."""
        if self.is_listening:
            self.exit_code = code
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        return code

    def report_stop(self) -> int:
        """Print why the command ends; returns the exit code."""
        code = self.fix_exit_code(self.stop_code)
        print(f"error: {self.stop_sentence}", file=sys.stderr)
        return code

    @contextmanager
    def advising(self, advice: str) -> Iterator[None]:
        """If a signal stops the block, the sentence ends with ``advice``: what is kept and how to continue."""
        self.advice = advice
        yield
        self.advice = NOTHING_KEPT

    @property
    def stop_sentence(self) -> str:
        """Why the command ends, and what is kept."""
        is_interrupt = STOP.name == "SIGINT"
        reason = "interrupted from the keyboard" if is_interrupt else f"stopped by {STOP.name}"
        return f"{reason}: {self.advice}"

    @property
    def stop_code(self) -> int:
        """128 and the number of the first signal: 130 after an interrupt from the keyboard, 143 after SIGTERM."""
        return SIGNAL_BASE + signal.Signals[STOP.name]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code is None and STOP.signal is None:
            STOP.note(number)
        if not self.can_catch or is_importing(frame):
            self._end(self.stop_sentence)
        if self.exit_code is None and not self._has_raised:  # what it unwinds is not interrupted again
            self._has_raised = True
            raise Stopped

    def _watch(self, pipe: int) -> None:
        """Note signals; end the process at the deadline, or at once after a second Ctrl-C."""
        timeout_s: float | None = None
        while select.select([pipe], [], [], timeout_s)[0]:
            for number in os.read(pipe, 64):
                if self.exit_code is None:
                    STOP.note(number)
            if STOP.is_urgent:
                self._end("interrupted again: ended at once")
            if STOP.signal is not None:
                timeout_s = max(0.0, STOP.received_at + CLEANUP_LIMIT_S - time.monotonic())
        self._end(self.stop_sentence)

    def _end(self, sentence: str) -> NoReturn:
        """End this process at once; its workers end with it."""
        remove_open_folders()
        if self.exit_code is None:
            end_process(self.stop_code, sentence)
        end_process(self.exit_code)


COMMAND = StopHandler()


def is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception meanwhile makes native modules abort, or gets lost."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def listen_in_rank(can_save: Callable[[], bool]) -> None:
    """Note stop signals from here on; a rank that has nothing to save leaves at once.

    Signals that came since the launcher started this process were blocked, and are delivered now.
    """
    pipe = open_signal_pipe(TRAINING_SIGNALS, lambda number, frame: None)

    def note_signals() -> None:
        while numbers := os.read(pipe, 64):
            for number in numbers:
                STOP.note(number)
            if STOP.signal is not None and not can_save():
                end_process(PREEMPTED)

    start_thread(note_signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TRAINING_SIGNALS)


class Launcher:
    """How the launcher of ranks ends them after a stop signal. There is one, ``LAUNCHER``.

    Without ranks the launcher leaves at once. Ranks get the signal, and SIGCONT: those with nothing to save leave, the
    others have ``SAVE_LIMIT_S``. After a second Ctrl-C all are killed now.
    """

    def __init__(self) -> None:
        """No rank is running."""
        self.verdict: tuple[int, str] | None = None
        """Exit code and sentence if the ranks were killed."""
        self.concluding = threading.Lock()
        """Held while the end of the run is written."""
        self.is_idle = True
        """No rank is running: a stop signal ends the command at once; for an earlier one, callers read ``STOP``."""

    def listen(self) -> None:
        """Take signals from here on. Call it before any thread starts: threads and ranks inherit the signal mask.

        Signals are blocked, so that none is lost and none ends a rank half-way through its imports.
        """
        numbers = {number for number in TRAINING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)

        def take_signals() -> None:
            while True:
                STOP.note(signal.sigwait(numbers))
                if self.is_idle:
                    sentence = f"stopped by {STOP.name} before any process was started; the same command goes on"
                    end_process(PREEMPTED, sentence)

        start_thread(take_signals)

    @contextmanager
    def supervise(self, conclude: Callable[[], int], start_limit_s: float) -> Iterator[None]:
        """Ranks are running in the block; after it signals are noted and change nothing.

        ``conclude`` writes how the run ended and returns the exit code; it is called if the block does not end, or if
        it has not started a rank after ``start_limit_s``: what answers for another machine may be another program.
        """
        self.is_idle, self.verdict = False, None
        ended = threading.Event()
        start_thread(self._end_ranks, ended, conclude, time.monotonic() + start_limit_s)
        try:
            yield
        finally:
            ended.set()

    def _end_ranks(self, ended: threading.Event, conclude: Callable[[], int], start_by: float) -> None:
        """After a stop signal: signal each rank, kill all at the deadline, and end this process if it does not."""
        import psutil

        signalled, gone_since = set[int](), float("inf")
        while not ended.wait(POLL_S):
            if STOP.signal is None and start_by == float("inf"):
                continue
            ranks, now_s = psutil.Process().children(), time.monotonic()
            start_by = float("inf") if ranks else start_by
            if now_s > start_by:
                with self.concluding:
                    end_process(conclude())
            if STOP.signal is None:
                continue
            if STOP.is_urgent:
                self.verdict = INTERRUPTED, f"interrupted twice from the keyboard: ended at once; {RESUMES}"
            elif now_s > STOP.received_at + SAVE_LIMIT_S:
                reason = f"the ranks had not ended {SAVE_LIMIT_S:.0f} s after {STOP.name}, and were killed"
                self.verdict = 1, f"{reason}; {RESUMES}"
            for rank in ranks:
                if self.verdict is not None:
                    send_signals(rank, signal.SIGKILL)
                elif rank.pid not in signalled:
                    signalled.add(rank.pid)
                    send_signals(rank, STOP.signal, signal.SIGCONT)
            gone_since = float("inf") if ranks else min(gone_since, now_s)
            if now_s > gone_since + (0 if self.verdict else AGENT_LIMIT_S):
                with self.concluding:
                    end_process(conclude())


LAUNCHER = Launcher()


def listen(argv: Sequence[str]) -> None:
    """Take stop signals from here on; ``padless`` calls this first, with its words."""
    if argv[:1] == ["train"]:  # it stops its ranks first
        LAUNCHER.listen()
    else:
        COMMAND.listen()


def send_signals(rank: psutil.Process, *numbers: int) -> None:
    """Send signals to a rank and to what it has started in its own session.

    A tracker has its own session, and ends when its rank closes it or is gone.
    """
    import psutil

    with contextlib.suppress(OSError, psutil.Error):
        session = os.getsid(rank.pid)
        for member in [*rank.children(recursive=True), rank]:
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(member.pid) == session:
                    for number in numbers:
                        member.send_signal(number)
