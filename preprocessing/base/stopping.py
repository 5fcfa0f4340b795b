# SPDX-License-Identifier: Apache-2.0
"""Stop signals to a command: it ends with a sentence, a documented exit code and nothing half-written, and soon.

A signal raises :class:`Stopped` in the main thread, so that what was begun is put in order on the way out. While a
module is imported the process is ended at once, and a thread ends it where all that takes too long, or where the main
thread is in a library that does not come back. Nothing is lost even then: files get their names when they are whole.
``python -m harness launch`` has ranks to ask first and takes the signals over (``harness.launch.stop``).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from preprocessing.base import machine

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""What asks a command to stop: schedulers, terminals, people."""
OF_TRAININGS = (*SIGNALS, "SIGQUIT")
"""What asks a training, which saves before it leaves."""
KEYBOARD = "SIGINT"
PREEMPTED = 85
"""The exit code of a training that was asked to stop: start me again, and I go on."""
BASE_CODE = 128
"""A command that a signal ended leaves with this and the signal's number, as shells count."""
LIMIT_S = 10.0
"""How long a command may take to put in order what it has begun."""
ONE_PRESS_S = 0.1
"""Two SIGINT so close together are one: a terminal sends it to all processes, and some wrappers pass it on as well."""
AGAIN_S = 0.5
"""How often the main thread is told again."""
NOTHING = "nothing half-done is left; the same command begins again"

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
    machine.end_spawned()
    if not _settled:
        print(f"error: {words}", file=sys.stderr, flush=True)
    os._exit(_settled[0] if _settled else exit_code())
