# SPDX-License-Identifier: Apache-2.0
"""How a rank stops: on request, when another rank is gone, and how it reports the reason.

**Asked**: a signal, the stop file, or the end of ``max_time``. ``install`` comes before torch is imported, since a
signal may arrive that early. A thread notes signals, since Python runs handlers in the main thread alone, which may be
inside a collective; the training loop acts on the note at a step that all ranks agree on (``training.run``).

**Watchdog** (``HEARTBEAT``): under NCCL a collective only enqueues kernels, and torch's own watchdog aborts the process
without a sentence. So a thread watches what the main thread waits for. After the time limit, soon after a stop signal,
or when the process group reports a broken collective, it prints why, writes it to ``status.json``, and ends the
process.

**Leaving** (``run_rank``, ``leave``): the launcher kills all ranks when the first one fails. When the ranks have agreed
on an error, rank 0 reports it and the others leave with exit code 0; before ranks can talk to each other, the others
wait a moment for rank 0. The reason also goes to the file that torch's elastic agent reads (``leave_words``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from harness.rundir.records import LAUNCH_ID
from preprocessing.base import cli, processes
from preprocessing.base.errors import UserError
from preprocessing.base.terminal import tell

EXIT_CODE = processes.PREEMPTED
SIGNALS = processes.OF_TRAININGS
LOOK_EVERY_S = 0.5
MARGIN_S = 10.0
"""A collective with its own time limit has this much longer to raise before the watchdog ends the process."""
STOP_LIMIT_S = 45.0
"""Longest wait for another rank after this one was asked to stop."""
OF_ANOTHER = ("TIMEOUT", "REMOTE_ERROR")
"""Errors of a process group that another rank is the cause of; COMM_ERROR may also be a fault of this rank's device."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Environment variable: the file in which torch's agent looks for the reason; empty or missing under no launcher."""
GRACE_S = 5.0
"""How long other ranks wait for rank 0 to report an error before ranks can talk."""


class Heartbeat:
    """What this rank waits for, and the watchdog's thread. There is one, ``HEARTBEAT``, for the one main thread."""

    def __init__(self) -> None:
        self.step = 0
        """The optimizer step that messages name."""
        self.waits: list[tuple[str, float]] = []
        """What is waited for, and since when (monotonic seconds); inner waits last."""
        self.stopped_at: float | None = None
        """When a stop signal came (monotonic seconds): from then on no wait may be long."""
        self.in_loop = False
        """Training has begun; before that, long waits are allowed even after a stop signal."""
        self.last_words: Callable[[str], object] | None = None
        """Takes the reason before the process ends, as the writer of ``status.json`` does."""
        self.group_error: Callable[[], str | None] | None = None
        """Asks the process group for its error, by torch's name; None where there is none."""
        self.limit_s: float | None = None

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Record what the block waits for; blocks may be nested."""
        self.waits.append((what, time.monotonic()))
        try:
            yield
        finally:
            self.waits.pop()

    def start(self, limit_s: float) -> None:
        """Start the watchdog; a wait of more than ``limit_s`` and a margin ends the process. Safe to call twice."""
        if self.limit_s is None:
            threading.Thread(target=self._watch, name="padless-heartbeat", daemon=True).start()
        self.limit_s = limit_s

    def problem(self, now: float) -> tuple[str, bool] | None:
        """Why this rank cannot go on, and whether only because another is gone or silent; None while it can."""
        who, waits, limit_s = f"rank {os.environ.get('RANK', '0')}", self.waits[-1:], (self.limit_s or 0.0) + MARGIN_S
        for what, since in waits:
            gone = f"for {what}: another rank is gone or stands still"
            if self.in_loop and self.stopped_at is not None and now - max(since, self.stopped_at) > STOP_LIMIT_S:
                return f"{who} was told to stop at step {self.step} and waited {STOP_LIMIT_S:.0f} s {gone}", True
            if now - since > limit_s:
                return f"{who} at step {self.step} waited {now - since:.0f} s {gone}", True
        if self.group_error is None or (error := self.group_error()) is None:
            return None
        follows = error in OF_ANOTHER
        waited = "".join(f" waited for {what}" for what, _ in waits)
        cause = "another rank is gone or has failed" if follows else "another rank is gone, or the device here failed"
        return f"{who} at step {self.step}{waited}: {cause} (the process group says {error})", follows

    def _watch(self) -> None:
        while (found := self.problem(time.monotonic())) is None:
            time.sleep(LOOK_EVERY_S)
        sentence, follows = found
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        leave_words(sentence, follows=follows)
        if self.last_words is not None:
            with contextlib.suppress(Exception):  # whatever it is, leaving comes first
                self.last_words(sentence)
        os._exit(1)


HEARTBEAT = Heartbeat()
_signal: str | None = None
_pipe: tuple[int, int] | None = None


class Preempted(Exception):  # noqa: N818 - it is no error
    """All ranks leave at a common step, after a checkpoint."""


def install() -> None:
    """Note stop signals from here on, and the launcher's death. Safe to call twice.

    Signals that came since padless's launcher started this process were blocked, and are delivered now.
    """
    global _pipe
    if _pipe is None:
        _pipe = os.pipe()
        os.set_blocking(_pipe[1], False)
        signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=_listen, args=(_pipe[0],), name="padless-signals", daemon=True).start()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job: left ignored
            signal.signal(number, _note)
    # the launcher's ranks are started with a mask that blocks them
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if LAUNCH_ID in os.environ:
        # Ranks have sessions of their own: a SIGKILL of the launcher alone would leave them training without it.
        processes.on_parents_death(signal.SIGUSR2)


@contextmanager
def noting() -> Iterator[None]:
    """In this block the main thread notes an interrupt, as a rank does; a second one ends the block at once.

    Then the handler is that from before, and takes the interrupt that came. In another thread it does nothing.
    """
    global _signal
    pressed = False

    def note(number: int, _: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        _note(number)
        with contextlib.suppress(RuntimeError):  # the main thread was printing
            tell("saving a checkpoint; interrupt again to leave without")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _signal, HEARTBEAT.stopped_at, HEARTBEAT.in_loop = None, None, False
        if pressed:
            signal.raise_signal(signal.SIGINT)


def _listen(pipe: int) -> None:
    """Note each signal as the kernel delivers it: the interpreter writes its number into the pipe at once."""
    while numbers := os.read(pipe, 64):
        for number in numbers:
            if number in SIGNALS:
                _note(number)


def _note(number: int, _: object = None) -> None:
    global _signal
    if _signal is None:
        _signal = signal.Signals(number).name
    HEARTBEAT.stopped_at = HEARTBEAT.stopped_at or time.monotonic()


def received() -> str | None:
    """The first stop signal that came, by name."""
    return _signal


class StopWatch:
    """Whether this rank must stop, and why. Only rank 0 checks the stop file and the clock."""

    def __init__(self, path: Path, max_time_s: float | None, *, is_main: bool) -> None:
        """``path`` is the stop file; one that is older than this process is removed.

        ``max_time_s`` counts from here.
        """
        import psutil

        self.path, self.is_main, self.max_time_s = path, is_main, max_time_s or float("inf")
        self.began = time.monotonic()
        self.next_look = 0.0
        self.found: str | None = None
        with contextlib.suppress(OSError):
            if is_main and path.stat().st_mtime < psutil.Process().create_time():
                path.unlink()

    def reason(self) -> str | None:
        """One phrase, the first that was found, or None to go on; looks at the file at most twice a second."""
        if self.found is None and _signal is not None:
            self.found = f"{_signal} received"
        if self.found is None and self.is_main:
            now = time.monotonic()
            if now - self.began >= self.max_time_s:
                self.found = f"max_time of {self.max_time_s:g} s reached"
            elif now >= self.next_look:
                self.next_look = now + LOOK_EVERY_S
                self.found = f"{self.path} is there" if self.path.exists() else None
        return self.found

    def clear(self) -> None:
        """Remove the stop file once it was obeyed, so that the next start does not stop at once."""
        if self.is_main:
            self.path.unlink(missing_ok=True)


def leave_words(sentence: str, *, follows: bool = False) -> None:
    """Write the reason why this rank exits to ``TORCHELASTIC_ERROR_FILE``, for its launcher; the first reason stays.

    The file is on this machine, so no shared file system and no other rank is needed. ``follows``: only because another
    rank is gone or silent.
    """
    path = os.environ.get(ERROR_FILE)
    if not path or Path(path).exists():
        return
    words = {"message": sentence, "timestamp": time.time(), "follows": follows}
    with contextlib.suppress(OSError):  # a full disk must not change how a rank ends
        Path(f"{path}.part").write_text(json.dumps(words), encoding="utf-8")
        os.replace(f"{path}.part", path)


def leave(code: int) -> NoReturn:
    """End this process with ``code`` at once, after flushing its output.

    The static destructors of C++ libraries race with their own threads in a process that had a process group: one rank
    in ten was ended by SIGABRT after all its work was done, and the launcher took that for a failure.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # closed, as by >&-: None
        with contextlib.suppress(OSError):  # a log on a full disk
            stream.flush()
    os._exit(code)


def run_rank(main: Callable[[list[str]], int]) -> int:
    """Run a rank's ``main`` and return its exit code; user errors become one line on stderr, a bug its traceback.

    It raises nothing, so that the caller can ``leave``: at a normal interpreter exit a process group would wait for
    other ranks.
    """
    rank = int(os.environ.get("RANK", "0"))
    speaks = int(os.environ.get("LOCAL_RANK", rank)) == 0

    def quiet(argv: list[str]) -> int:
        try:
            return main(argv)
        except UserError as error:
            agreed = getattr(error, "agreed", False)
            if speaks or not agreed:
                leave_words(str(error), follows=getattr(error, "follows", False))
            if agreed and not speaks:
                return 0
            deadline = time.monotonic() + (0 if agreed or rank == 0 else GRACE_S)
            while time.monotonic() < deadline:
                if received() is not None:  # rank 0 has reported, and the launcher ends the others
                    return error.exit_code
                time.sleep(0.05)
            raise
        except Exception as error:
            leave_words(f"rank {rank}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            raise

    try:
        code = cli.run(quiet, sys.argv[1:])
    except Exception:
        traceback.print_exc()
        code = 1
    return code
