# SPDX-License-Identifier: Apache-2.0
"""Stop signals to a command: it ends with a sentence, a documented exit code and nothing half-written, and soon.

A signal raises :class:`Stopped` in the main thread, so that what was begun is put in order on the way out. While a
module is imported the process is ended at once, and a thread ends it where all that takes too long, or where the main
thread is in a library that does not come back. Nothing is lost even then: files get their names when they are whole.
``python -m harness launch`` has ranks to ask first and takes the signals over (``harness.launch.stop``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import select
import signal
import signal as signals
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from preprocessing.base.errors import UserError

HELD = {"T": "stopped", "t": "held by a debugger"}
"""States in which a process does nothing until somebody lets it go on (proc(5))."""


def status(pid: int) -> dict[str, str]:
    """What Linux says of a process (``/proc/PID/status``); nothing of one that is gone, and where there is no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def held(pid: int) -> str | None:
    """Why a process does nothing until somebody lets it go on; None for one that runs, and if that is not known."""
    return HELD.get(status(pid).get("State", "")[:1])


def in_words(pid: int) -> str:
    """``process 4711, stopped``; of one that runs, the process alone."""
    why = held(pid)
    return f"process {pid}, {why}" if why else f"process {pid}"


def has_taken(pid: int, signal: int) -> bool:
    """Whether a process has no signal of this number waiting for it, or does not take any yet; True if not known."""
    found = status(pid)
    own, shared, blocked = (int(found.get(mask, "0"), 16) for mask in ("SigPnd", "ShdPnd", "SigBlk"))
    return not (own | shared) & ~blocked & 1 << (signal - 1)


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


def memory_bytes() -> int:
    """Bytes that processes here can have at most: the machine's, or what their control groups (version 2) are given."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError):
        found = re.search("^0::/(.*)$", Path("/proc/self/cgroup").read_text(encoding="utf-8"), re.MULTILINE)
        group = Path("/sys/fs/cgroup", found[1] if found else "")
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or max
                limits.append(int((folder / "memory.max").read_text(encoding="utf-8")))
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
    mend = f"; kill -CONT {pid} lets it go on" if held(pid) else ""
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


SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Stop signals of a command; schedulers, terminals and people send them."""
OF_TRAININGS = (*SIGNALS, "SIGQUIT")
"""Stop signals of a training, which saves a checkpoint before it exits."""
KEYBOARD = "SIGINT"
PREEMPTED = 85
"""The exit code of a training that was stopped by a signal or a request: the same command continues it."""
BASE_CODE = 128
"""A command that a signal ended leaves with this and the signal's number, as shells count."""
LIMIT_S = 10.0
"""How long a command may take to put in order what it has begun."""
ONE_PRESS_S = 0.1
"""Two SIGINT so close together are one: a terminal sends it to all processes, and some wrappers pass it on as well."""
AGAIN_S = 0.5
"""Interval at which the signal is sent to the main thread again."""
NOTHING = "no partial output is left; run the same command again"

_heard: list[str] = []
_kept: list[str] = []
_state = {"listens": False, "armed": False}
_settled: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal asks the command to stop; no ``except`` of errors catches it, as none catches Ctrl-C."""


def heard() -> str | None:
    """The first stop signal that came, by name."""
    return _heard[0] if _heard else None


def listen() -> None:
    """From here on a stop signal ends this process with a sentence. For the main thread of a command, first of all.

    Until ``armed``, while modules are imported and nothing is begun, the process is simply ended.
    """
    if _state["listens"]:
        return
    _state["listens"] = True
    taken = [name for name in SIGNALS if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN]  # by nohup
    for name in taken:
        signal.signal(getattr(signal, name), _raise)
    pipe = os.pipe()
    os.set_blocking(pipe[1], False)
    signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
    numbers = {getattr(signal, name) for name in SIGNALS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # of the thread, which is to interrupt no other
    threading.Thread(target=_watch, args=(pipe[0],), name="padless-stop", daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def armed() -> None:
    """Something catches ``Stopped`` from here on."""
    _state["armed"] = True


def settle(code: int) -> int:
    """The exit code is decided, and no signal changes it any more; returns it."""
    if _state["listens"]:
        _settled.append(code)
        for name in SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    return code


def told() -> int:
    """Say why the command ends, for good; the exit code."""
    code = settle(exit_code())
    print(f"error: {sentence()}", file=sys.stderr)
    return code


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """If the block is stopped, the sentence says ``what`` is kept and how to go on."""
    _kept.append(what)
    try:
        yield
    finally:
        if not _heard:
            _kept.remove(what)


def sentence() -> str:
    """Why the command ends, and what is left of its work."""
    by = heard()
    why = "interrupted from the keyboard" if by in (None, KEYBOARD) else f"told to stop by {by}"
    return f"{why}: {_kept[-1] if _kept else NOTHING}"


def exit_code() -> int:
    """128 and the number of the first signal: 130 after an interrupt from the keyboard, 143 after SIGTERM."""
    return BASE_CODE + int(getattr(signal, heard() or KEYBOARD))


def _raise(number: int, frame: FrameType | None) -> None:
    if not _settled:
        _heard.append(signal.Signals(number).name)
    if not _state["armed"] or _imports(frame):
        _leave(sentence())
    if not _settled and not _unwinds(sys.exc_info()[1]):
        raise Stopped(_heard[0])


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: native ones abort the process, or pass over what is raised meanwhile."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _unwinds(error: BaseException | None) -> bool:
    """Whether what is being handled in the main thread began with a stop: then it is on its way out."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _watch(pipe: int) -> None:
    """See each signal as it comes, also while the main thread is in a library, and see to it that the process ends.

    Some libraries catch whatever is raised, so ``Stopped`` is raised until it is on its way.
    """
    main = threading.main_thread().ident
    deadline: float | None = None
    pressed: float | None = None
    while True:
        ready = select.select([pipe], [], [], None if deadline is None else AGAIN_S)[0]
        now = time.monotonic()
        if deadline is not None and now > deadline:
            _leave(sentence())
        if not ready and main is not None and not _settled:
            signal.pthread_kill(main, signal.SIGTERM)
        for number in os.read(pipe, 64) if ready else ():
            name = signal.Signals(number).name
            if name in SIGNALS and not _settled:
                _heard.append(name)
                deadline = deadline or now + LIMIT_S
                if name == KEYBOARD and pressed is not None and now - pressed > ONE_PRESS_S:
                    _leave("interrupted again: left at once")
                pressed = pressed or (now if name == KEYBOARD else None)


def _leave(words: str) -> None:
    """End this process at once, and the workers that it started."""
    end_spawned()
    if not _settled:
        print(f"error: {words}", file=sys.stderr, flush=True)
    os._exit(_settled[0] if _settled else exit_code())
