# SPDX-License-Identifier: Apache-2.0
"""The process that owns one tracker: ``python -m harness.tracking.observer NAME RUN``, started by ``tracking.py``.

It follows the run's files and hands the tracker each row that it lacks. From a pipe it learns what is in no file:
alerts, figures of the whole run, and how the run ended. A second thread reads the pipe and keeps the time: a tracker
that does not return is stopped and reported in one sentence. If the pipe ends before the trainer has closed the
tracker, the trainer was killed. Signals meant for the trainer are ignored here.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
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
            tracker = load(TRACKERS[name].code)(name, run, journal.start, journal, tell)
            tell(say=tracker.start(), started="")
            rows = Rows(run, latest(journal.kept, tracker.known()))
        for message in messages:
            for kind, values in rows.new():
                with limit(CALL_S, "did not take a row"):
                    tracker.log(kind, values)
            with limit(CALL_S, "did not take a message"):
                if message["do"] == "alert":
                    tracker.alert(message["title"], message["text"])
                elif message["do"] == "summarize":
                    tracker.summarize(message["name"], message["values"])
            if message["do"] == "close":
                tracker.close(message["state"], message["reason"])
                journal.note(kept=rows.last, finished=tracker.kept_in)


class Wire:
    """The two pipes to the trainer, moved to file descriptors that the tracker's own code does not use.

    Reads ahead, so that the pipe never fills up. Once the trainer closes, the time to finish is limited.
    """

    def __init__(self) -> None:
        """Keep copies of stdin and stdout; then stdin becomes empty, and what is printed goes to the log."""
        self.lines = os.fdopen(os.dup(0), "rb")
        self.replies = os.dup(1)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.last_clock: threading.Timer | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def tell(self, **reply: str) -> None:
        """Answer the trainer, if it still lives; addresses lose their passwords."""
        reply = {key: public(value) for key, value in reply.items()}
        try:
            os.write(self.replies, json.dumps(reply).encode() + b"\n")
        except OSError:
            print(reply, file=sys.stderr)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Messages in order, and ``LOOK`` where none has come for a while; the last one is the one that closes."""
        message = LOOK
        while message["do"] != "close":
            try:
                message = self.messages.get(timeout=LOOK_S)
            except queue.Empty:
                message = LOOK
            yield message

    def _read(self) -> None:
        reason = "The trainer was killed."
        message: dict[str, Any] = {"do": "close", "state": "crashed", "reason": reason, "limit_s": SHORT_FINISH_S}
        for line in self.lines:
            told = json.loads(line)
            if told["do"] == "close":
                message = told
                break
            self.messages.put(told)
        limit_s = message["limit_s"]
        self.last_clock = clock(limit_s, lambda: self.give_up(f"did not finish within {limit_s:.0f} s"))
        self.messages.put(message)

    @contextmanager
    def at_most(self, seconds: float, what: str) -> Iterator[None]:
        """Stop the tracker and this process if the block takes longer; ``what`` begins the sentence that says so."""
        timer = clock(seconds, lambda: self.give_up(f"{what} within {seconds:.0f} s"))
        yield
        timer.cancel()

    def give_up(self, what: str) -> None:
        """Say what happened and kill this process with all its children, without running any more of its code."""
        self.tell(warn=f"{what}, and was stopped")
        leave(1)


def clock(seconds: float, action: Callable[[], None]) -> threading.Timer:
    """Call ``action`` after so many seconds unless cancelled."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def leave(code: int = 0) -> None:
    """End at once, with all that was started here."""
    kill_tree(os.getpid(), spare_root=True)
    os._exit(code)


def main(argv: list[str]) -> int:
    """Serve one tracker until the trainer says that it is over, or is gone."""
    name, run = argv[0], Path(argv[1])
    for number in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, number), signal.SIG_IGN)
    os.nice(NICENESS)
    wire = Wire()
    try:
        serve(name, run, wire, wire.tell, wire.at_most)
    except Exception as error:
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        wire.give_up(f"raised {type(error).__name__}: {one_line(error)}")
    if wire.last_clock is not None:
        wire.last_clock.cancel()
    clock(EXIT_S, leave)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
