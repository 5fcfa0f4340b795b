# SPDX-License-Identifier: Apache-2.0
"""Stop signals of a command, which ends with a sentence and a documented exit code; locks; facts about processes.

A signal raises :class:`Stopped` in the main thread, so that ``finally`` blocks clean up. During an import the process
exits at once. A thread ends the process if the cleanup takes too long or the main thread does not return from a
library. No file is damaged even then: files get their names when they are complete.
``padless train`` stops its ranks first and handles the signals itself (``harness.launch.stop``).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from preprocessing.base.errors import UserError


def end_spawned() -> None:
    """Kill the workers of this process, also one that is just starting: it would print a broken pipe."""
    found: list[int] = []
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, children.read_text().split())
    for pid in found:
        with contextlib.suppress(OSError):  # the process has ended
            if b"multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def available_cores() -> int:
    """The cores that this process may run on, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Most bytes for processes here: the machine's memory, or the limit of their control groups (version 2)."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError):
        found = re.search("^0::/(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
        group = Path("/sys/fs/cgroup", found[1] if found else "")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or max
                limits.append(int((folder / "memory.max").read_text(encoding="utf-8")))
    return min(limits)


POLL_S = 0.1


def acquire(file: IO[Any], timeout_s: float, refusal: UserError, *, shared: bool = False) -> None:
    """Lock an open file against every other process, or with ``shared`` against those that do not share it; closing the
    file releases it.

    Raises ``refusal``, with the holder, if another process still holds the lock after ``timeout_s`` seconds (0: do not
    wait), ``OSError`` on a file system without locks. The holder is recorded only if the file is writable.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise type(refusal)(f"{refusal}{holder(file)}") from None
            time.sleep(POLL_S)
        else:
            if file.writable() and not shared:
                os.ftruncate(file.fileno(), 0)
                os.pwrite(file.fileno(), f"{os.getpid()} {platform.node()}".encode(), 0)
            return


def holder(file: IO[Any]) -> str:
    """The process that holds a lock, as the end of a sentence; empty if the file does not name it."""
    try:
        number, _, host = os.pread(file.fileno(), 300, 0).decode().partition(" ")
        pid = int(number)
    except (OSError, ValueError):
        return ""
    return f" (process {pid})" if host == platform.node() else f" (process {pid} on {host})"


@contextmanager
def locked(path: Path, timeout_s: float, refusal: UserError, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``, created if missing, while the block runs.

    Raises ``refusal`` as :func:`acquire` does, ``OSError`` if the file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        acquire(file, timeout_s, refusal, shared=shared)
        yield


def is_lock(path: Path) -> bool:
    """Whether a file is one that ``acquire`` locked: it names a process and a machine."""
    return path.is_file() and re.fullmatch(rb"\d+ \S+", path.read_bytes()[:300]) is not None


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Stop signals of a command."""
OF_TRAININGS = (*SIGNALS, signal.SIGQUIT)
"""Stop signals of a training, which saves a checkpoint before it exits."""
PREEMPTED = 85
"""The exit code of a training that was stopped by a signal or a request: the same command continues it."""
BASE_CODE = 128
"""The exit code after a signal is this plus its number, as in shells."""
LIMIT_S = 10.0
"""Most time for cleanup."""
ONE_PRESS_S = 0.1
"""Two SIGINT within this time count as one: a terminal sends it to all processes, and some wrappers forward it too."""
NOTHING = "no partial output is left; run the same command again"

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that the kernel sends when the parent dies."""
PARENT = "PADLESS_PARENT"
"""Environment variable: this command is to end with its parent."""

_heard: list[signal.Signals] = []
_kept: list[str] = []
_state = {"listens": False, "armed": False, "raised": False}
_settled: list[int] = []


class Stopped(KeyboardInterrupt):
    """A stop signal arrived. ``except Exception`` does not catch it, as with Ctrl-C."""


def heard() -> signal.Signals | None:
    """The first stop signal received."""
    return _heard[0] if _heard else None


def on_parents_death(number: int) -> None:
    """Have the kernel send this signal when the parent of this process dies; has no effect outside Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def child(*words: str) -> subprocess.Popen[bytes]:
    """Start another command, ``words`` after ``python``, as a silent process; it ends with the thread that starts it.

    Raises ``OSError``.
    """
    env, null = {**os.environ, PARENT: "1"}, subprocess.DEVNULL
    return subprocess.Popen([sys.executable, *words], stdin=null, stdout=null, stderr=null, env=env)


def listen() -> None:
    """Handle stop signals from here on. The main thread of a command calls it first.

    Until ``armed``, while modules are imported, a signal ends the process at once.
    """
    if _state["listens"]:
        return
    _state["listens"] = True
    if os.environ.pop(PARENT, None):
        on_parents_death(signal.SIGTERM)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup
            signal.signal(number, _raise)
    pipe = os.pipe()
    os.set_blocking(pipe[1], False)
    signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # so that the thread receives none
    threading.Thread(target=_watch, args=(pipe[0],), name="padless-stop", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_TRAININGS)  # the console script blocks them


def armed() -> None:
    """From here on, a caller catches ``Stopped``."""
    _state["armed"] = True


def settle(code: int) -> int:
    """Fix the exit code: later signals are ignored. Returns it."""
    if _state["listens"]:
        _settled.append(code)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return code


def told() -> int:
    """Print why the command ends; returns the exit code."""
    code = settle(exit_code())
    print(f"error: {sentence()}", file=sys.stderr)
    return code


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """If a signal stops the block, the sentence ends with ``what``: what is kept and how to continue."""
    _kept.append(what)
    try:
        yield
    finally:
        if not _heard:
            _kept.remove(what)


def sentence() -> str:
    """Why the command ends, and what is kept."""
    by = heard()
    why = f"told to stop by {by.name}" if by and by != signal.SIGINT else "interrupted from the keyboard"
    return f"{why}: {_kept[-1] if _kept else NOTHING}"


def exit_code() -> int:
    """128 and the number of the first signal: 130 after an interrupt from the keyboard, 143 after SIGTERM."""
    return BASE_CODE + (heard() or signal.SIGINT)


def _raise(number: int, frame: FrameType | None) -> None:
    if not _settled:
        _heard.append(signal.Signals(number))
    if not _state["armed"] or _imports(frame):
        _leave(sentence())
    if not _settled and not _state["raised"]:  # what it unwinds is not interrupted again
        _state["raised"] = True
        raise Stopped


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: an exception meanwhile makes native modules abort, or gets lost."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(pipe: int) -> None:
    """Read signals from the pipe, also while the main thread is inside a library, and end the process after a timeout,
    as where a library caught ``Stopped``.
    """
    deadline: float | None = None
    pressed: float | None = None
    while select.select([pipe], [], [], None if deadline is None else max(0.0, deadline - time.monotonic()))[0]:
        now = time.monotonic()
        for number in os.read(pipe, 64):
            if number in SIGNALS and not _settled:
                _heard.append(signal.Signals(number))
                deadline = deadline or now + LIMIT_S
                if number == signal.SIGINT and pressed is not None and now - pressed > ONE_PRESS_S:
                    _leave("interrupted again: left at once")
                pressed = pressed or (now if number == signal.SIGINT else None)
    _leave(sentence())


def _leave(words: str) -> None:
    """End this process and its workers at once."""
    end_spawned()
    if not _settled:
        print(f"error: {words}", file=sys.stderr, flush=True)
    os._exit(_settled[0] if _settled else exit_code())
