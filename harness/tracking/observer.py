# SPDX-License-Identifier: Apache-2.0
"""The process that owns one tracker: ``python -m harness.tracking.observer NAME RUN``, started by ``tracking.py``.

It reads lines from the trainer and hands them to the tracker, one after the other. A second thread reads ahead and
keeps the time: a tracker that does not return is stopped and reported in one sentence. If the pipe ends before the
trainer has closed the tracker, the trainer was killed. Signals meant for the trainer are ignored here, since the
trainer says when it is over.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.tracking.journal import Journal
from harness.tracking.trackers import TRACKERS
from harness.tracking.tracking import SHORT_FINISH_S, kill_tree
from harness.tracking.wire import Wire
from preprocessing.base.installed import load

START_S = 120.0
"""How long a tracker may take to begin, while training goes on."""
CALL_S = 60.0
"""How long it may take for one row."""
EXIT_S = 5.0
"""How long its own threads may take to end after it has finished."""
QUEUE_ROWS = 20_000
"""Most rows that wait for a slow tracker. Further ones are dropped and counted."""
NICENESS = 10
"""Training comes first where cores are scarce."""


class Inbox:
    """Reads ahead, so that the pipe never fills up. Once the trainer closes, the time to finish is limited."""

    def __init__(self, wire: Wire) -> None:
        """Start reading."""
        self.wire = wire
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.dropped = 0
        self.last_clock: threading.Timer | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Messages in order; the last one is the one that closes."""
        while True:
            message = self.messages.get()  # cannot hang: the other thread puts "close" when the pipe ends
            yield message
            if message["do"] == "close":
                return

    def _read(self) -> None:
        for line in self.wire.lines:
            message = json.loads(line)
            if message["do"] == "close":
                self._end(message)
                return
            if self.messages.qsize() < QUEUE_ROWS:
                self.messages.put(message)
            else:
                self.dropped += 1
        reason = "The trainer was killed."
        self._end({"do": "close", "state": "crashed", "reason": reason, "limit_s": SHORT_FINISH_S, "dropped": 0})

    def _end(self, message: dict[str, Any]) -> None:
        self.dropped += message["dropped"]
        limit_s = message["limit_s"]
        self.last_clock = clock(
            limit_s, lambda: self.give_up(f"did not finish within {limit_s:.0f} s{self.rows_left()}")
        )
        self.messages.put(message)

    def rows_left(self) -> str:
        """A phrase on the rows that the tracker was not told, if there are any."""
        rows = sum(message["do"] == "log" for message in list(self.messages.queue)) + self.dropped
        return f", with {rows} rows not sent" if rows else ""

    def give_up(self, what: str) -> None:
        """Say what happened and kill this process with all its children, without running any more of its code."""
        self.wire.tell(warn=f"{what}, and was stopped")
        kill_tree(os.getpid(), spare_root=True)
        os._exit(1)


def clock(seconds: float, action: Callable[[], None]) -> threading.Timer:
    """Call ``action`` after so many seconds unless cancelled."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


@contextmanager
def at_most(seconds: float, inbox: Inbox, what: str) -> Iterator[None]:
    """Stop the tracker and this process if the block takes longer; ``what`` begins the sentence that says so."""
    timer = clock(seconds, lambda: inbox.give_up(f"{what} within {seconds:.0f} s"))
    yield
    timer.cancel()


def serve(name: str, run: Path, inbox: Inbox, wire: Wire) -> None:
    """Hand the tracker every message, in order, until the one that closes it."""
    journal = Journal(run, name)
    for message in inbox:
        match message["do"]:
            case "start":
                with at_most(START_S, inbox, "did not start"):
                    tracker = load(TRACKERS[name].code)(name, run, message, journal, wire)
                    where = tracker.start()
                wire.tell(started="", say=where)
            case "log":
                if journal.is_new(message["kind"], message["values"]):
                    with at_most(CALL_S, inbox, "did not take a row"):
                        tracker.log(message["kind"], message["values"])
            case "alert":
                with at_most(CALL_S, inbox, "did not take an alert"):
                    tracker.alert(message["title"], message["text"])
            case "summarize":
                with at_most(CALL_S, inbox, "did not take a summary"):
                    tracker.summarize(message["name"], message["values"])
            case "close":
                tracker.close(message["state"], message["reason"])
                journal.commit()


def main(argv: list[str]) -> int:
    """Serve one tracker until the trainer says that it is over, or is gone."""
    name, run = argv[0], Path(argv[1])
    for number in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, number), signal.SIG_IGN)
    os.nice(NICENESS)
    wire = Wire()
    inbox = Inbox(wire)
    try:
        serve(name, run, inbox, wire)
    except Exception as error:
        with contextlib.suppress(OSError):  # the log may lie on the disk that is full
            traceback.print_exc()
        inbox.give_up(f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    assert inbox.last_clock is not None
    inbox.last_clock.cancel()
    if inbox.dropped:
        wire.tell(warn=f"was too slow: {inbox.dropped} rows were not sent")
    clock(EXIT_S, leave)
    return 0


def leave() -> None:
    """End at once, with all that was started here."""
    kill_tree(os.getpid(), spare_root=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
