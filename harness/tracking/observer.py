# SPDX-License-Identifier: Apache-2.0
"""The process that owns one tracker: ``python -m harness.tracking.observer NAME RUN``, started by ``tracking.py``.

It follows the run's files and hands the tracker each row that it lacks. From a pipe it learns what is in no file:
alerts, figures of the whole run, and how the run ended. A tracker that does not return from a call is stopped and
reported in one sentence. If the pipe ends before the trainer has closed the tracker, the trainer was killed. Signals
meant for the trainer are ignored here.
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
"""How long a tracker may take to begin, while training goes on; that of the attempt before may have to end first."""
CALL_S = 60.0
"""How long it may take for one row."""
EXIT_S = 5.0
"""How long its own threads may take to end after it has finished."""
LOOK_S = 0.5
"""How often the run's files are looked at."""
NICENESS = 10
"""Training comes first where cores are scarce."""
LOOK = {"do": "look"}
KILLED = {"do": "close", "state": "crashed", "reason": "The trainer was killed.", "limit_s": SHORT_FINISH_S}
Limit = Callable[[float, str], AbstractContextManager[None]]
"""Ends what takes longer than so many seconds; a phrase says what that is."""


def serve(
    name: str,
    run: Path,
    messages: Iterable[dict[str, Any]],
    tell: Callable[..., None],
    limit: Limit = lambda seconds, what: nullcontext(),
    wait_s: float = START_S,
) -> None:
    """Give the tracker ``name`` the rows that it lacks and every message, until the one that closes it.

    ``tell`` takes what is to be printed. Raises ``ConfigError`` if another process still does this after ``wait_s``,
    and whatever the tracker raises.
    """
    with contextlib.ExitStack() as stack:
        with limit(START_S, "did not start"):
            stack.enter_context(alone(run, name, wait_s))
            journal = Journal(run, name)
            tracker = load(TRACKERS[name].code)(name, run, journal.last("start"), journal, tell)
            tell(say=tracker.start(), started="")
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
    """What the trainer says, and ``LOOK`` where it has said nothing for a while; ``KILLED`` when it is gone."""
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
    """End at once, with all that was started here, without running any more of the tracker's code."""
    kill_tree(os.getpid(), spare_root=True)
    os._exit(code)


def clock(seconds: float, action: Callable[[], None]) -> threading.Timer:
    """Call ``action`` after so many seconds unless cancelled."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def main(argv: list[str]) -> int:
    """Serve one tracker until the trainer says that it is over, or is gone."""
    name, run = argv[0], Path(argv[1])
    for number in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, number), signal.SIG_IGN)
    os.nice(NICENESS)
    commands, replies = os.dup(0), os.dup(1)  # which the tracker's own code does not use
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what is printed goes to the log

    def tell(**reply: str) -> None:
        """Answer the trainer, if it still lives; addresses lose their passwords."""
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
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        give_up(f"raised {type(error).__name__}: {one_line(error)}")
    clock(EXIT_S, leave)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
