# SPDX-License-Identifier: Apache-2.0
"""The process that owns one tracker: ``python -m harness.tracking.observer NAME RUN``, started by ``tracking.py``.

It follows the run's files and passes each missing row to the tracker. A pipe brings what is in no file: alerts, figures
of the whole run, and the end of the run. A tracker that does not return from a call is stopped, with one warning. If
the pipe closes before the message ``close``, the trainer was killed. Signals for the trainer are ignored here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from harness.tracking.journal import Journal, Rows, alone, latest
from harness.tracking.trackers import TRACKERS
from harness.tracking.tracking import SHORT_FINISH_S, kill_tree
from preprocessing.base.installed import load
from preprocessing.base.terminal import public
from preprocessing.base.untrusted import one_line

START_S = 120.0
"""How long a tracker may take to start, while training continues; the previous attempt's may have to end first."""
CALL_S = 60.0
"""How long it may take for one row."""
EXIT_S = 5.0
"""How long the tracker's threads may take to end after it has finished."""
LOOK_S = 0.5
"""Interval between reads of the run's files."""
NICENESS = 10
"""Training has priority where cores are scarce."""
LOOK = {"do": "look"}
KILLED = {"do": "close", "state": "crashed", "reason": "The trainer was killed.", "limit_s": SHORT_FINISH_S}
Limit = Callable[[float, str], AbstractContextManager[None]]
"""Stops a block that takes longer than so many seconds; the text completes the warning."""


def serve(
    name: str,
    run: Path,
    messages: Iterable[dict[str, Any]],
    tell: Callable[..., None],
    limit: Limit = lambda seconds, what: nullcontext(),
    wait_s: float = START_S,
) -> None:
    """Pass missing rows and messages to the tracker ``name``, until the message that closes it.

    ``tell`` prints. Raises ``ConfigError`` if another process still serves the tracker after ``wait_s``, and the errors
    of the tracker.
    """
    with contextlib.ExitStack() as stack:
        with limit(START_S, "did not start"):
            stack.enter_context(alone(run, name, wait_s))
            journal = Journal(run, name)
            tracker = load(TRACKERS[name])(name, run, journal.last("start"), journal, tell)
            tell(say=tracker.start())
            rows = Rows(run, latest(journal.kept, tracker.known()))
        for message in messages:
            do = message["do"]
            with limit(message["limit_s"], "did not finish") if do == "close" else nullcontext():
                for kind, values in rows.new():
                    with limit(CALL_S, "did not take a row"):
                        tracker.log(kind, values)
                if do == "close":
                    tracker.close(message["state"], message["reason"])
                    journal.note(kept=rows.last, finished=tracker.kept_in)
                    return
            with limit(CALL_S, "did not take a message"):
                if do == "alert":
                    tracker.alert(message["title"], message["text"])
                elif do == "summarize":
                    tracker.summarize(message["name"], message["values"])


def messages_from(pipe: int) -> Iterator[dict[str, Any]]:
    """The trainer's messages, ``LOOK`` after each ``LOOK_S`` without one, and ``KILLED`` if the pipe closes early."""
    said = b""
    while True:
        if not select.select([pipe], [], [], LOOK_S)[0]:
            yield LOOK
        elif data := os.read(pipe, 1 << 16):
            *lines, said = (said + data).split(b"\n")
            yield from map(json.loads, lines)
        else:
            yield KILLED


def leave(code: int = 0) -> None:
    """Exit at once and kill all child processes, without running more of the tracker's code."""
    kill_tree(os.getpid(), spare_root=True)
    os._exit(code)


def clock(seconds: float, action: Callable[[], None]) -> threading.Timer:
    """Call ``action`` after so many seconds unless cancelled."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def main(argv: list[str]) -> int:
    """Serve one tracker until the trainer closes it or dies."""
    name, run = argv[0], Path(argv[1])
    for number in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, number), signal.SIG_IGN)
    os.nice(NICENESS)
    commands, replies = os.dup(0), os.dup(1)  # hidden from the tracker's own code
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # prints go to the log

    def tell(**reply: str) -> None:
        """Answer the trainer, if it is alive; passwords are removed from addresses."""
        reply = {key: public(value) for key, value in reply.items()}
        try:
            os.write(replies, json.dumps(reply).encode() + b"\n")
        except OSError:
            print(reply, file=sys.stderr)

    def give_up(what: str) -> None:
        tell(warn=f"{what}, and was stopped")
        leave(1)

    @contextmanager
    def limit(seconds: float, what: str) -> Iterator[None]:
        timer = clock(seconds, lambda: give_up(f"{what} within {seconds:.0f} s"))
        yield
        timer.cancel()

    try:
        serve(name, run, messages_from(commands), tell, limit)
    except Exception as error:
        with contextlib.suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        give_up(f"raised {type(error).__name__}: {one_line(error)}")
    clock(EXIT_S, leave)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
