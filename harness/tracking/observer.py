# SPDX-License-Identifier: Apache-2.0
"""The process that owns one tracker: ``python -m harness.tracking.observer NAME RUN``, started by ``tracking.py``.

It reads lines on stdin and hands them to the tracker, one after the other. A second thread reads ahead and keeps the
time, so that a tracker which sleeps for ever is given up with a sentence, and the trainer's death is noticed: the end
of stdin without a word means that it was killed. Signals meant for the trainer are ignored here; the trainer says when
it is over.
"""

from __future__ import annotations

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
from typing import Any, Protocol

from harness.config import flat
from harness.tracking.journal import Journal
from harness.tracking.tracking import SHORT_FINISH_S, kill_tree

START_S = 120.0
"""How long a tracker may take to begin, while training goes on."""
CALL_S = 60.0
"""How long it may take for one row."""
EXIT_S = 5.0
"""How long its own threads may take to end after it has finished."""
QUEUE_ROWS = 20_000
"""Most rows that wait for a slow tracker; beyond that they are dropped and counted."""
NICENESS = 10
"""Training comes first where cores are scarce."""


class Tracker(Protocol):
    """What can be told things."""

    def start(self) -> str:
        """Begin; a sentence on where to look."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """One row."""

    def alert(self, title: str, text: str) -> None:
        """Tell people."""

    def close(self, state: str, reason: str) -> None:
        """Finish as finished, preempted, failed or crashed."""


class Wire:
    """The two pipes to the trainer, out of reach of whatever the tracker prints, reads or starts."""

    def __init__(self) -> None:
        """Take stdin and stdout away: stdin becomes empty, stdout the log."""
        self.lines = os.fdopen(os.dup(0), "rb")
        self.replies = os.dup(1)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)

    def tell(self, **reply: str) -> None:
        """Answer the trainer, if it still lives."""
        try:
            os.write(self.replies, json.dumps(reply).encode() + b"\n")
        except OSError:
            print(reply, file=sys.stderr)


class Inbox:
    """Reads ahead, so that the pipe never fills up, and starts the last clock when the end is announced."""

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
            message = self.messages.get()
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
        return f", with {rows} rows not told" if rows else ""

    def give_up(self, what: str) -> None:
        """Say what happened and end this process with all it has started; no tracker's code has a say in it."""
        self.wire.tell(warn=f"{what}, and was stopped")
        kill_tree(os.getpid(), spare_root=True)
        os._exit(1)


def clock(seconds: float, action: Callable[[], None]) -> threading.Timer:
    """Call ``action`` after so many seconds unless cancelled."""
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


class AccelerateTracker:
    """Any of Accelerate's trackers, by its own class."""

    def __init__(self, name: str, run: Path, spec: dict[str, Any], journal: Journal) -> None:
        """``spec`` is the first line that the trainer wrote."""
        self.name, self.run, self.spec, self.journal = name, run, spec, journal

    def start(self) -> str:
        """Begin, under the run's name where the tracker takes one."""
        self.tracker = self._make({"trackio": {"name": self.spec["name"], "resume": "allow"}}.get(self.name, {}))
        self.tracker.store_init_configuration(showable({**self.spec["config"], **self.spec["facts"]}))
        return f"project {self.spec['project']}"

    def _make(self, options: dict[str, Any]) -> Any:
        """Accelerate's tracker, started. It asks PartialState for its rank: alone, on the CPU, without a group."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)
        kind = LOGGER_TYPE_TO_CLASS[self.name]
        folder = [str(self.run / self.name)] if kind.requires_logging_directory else []
        tracker = kind(self.spec["project"], *folder, **options)
        tracker.start()
        return tracker

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """One row, at its own step."""
        step = values.get("step")
        rows = {f"{kind}/{key}": value for key, value in values.items() if key != "step" and is_number(value)}
        self.tracker.log(rows, step=step)

    def alert(self, title: str, text: str) -> None:
        """Accelerate's trackers have no such thing."""

    def close(self, state: str, reason: str) -> None:
        """Finish."""
        self.tracker.finish()


def is_number(value: Any) -> bool:
    """Whether a chart can show it."""
    return isinstance(value, int | float)


def showable(values: dict[str, Any]) -> dict[str, Any]:
    """Settings under dotted keys, as most trackers want them; lists and None as text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat(values).items()
    }


def build(name: str, run: Path, spec: dict[str, Any], journal: Journal, wire: Wire) -> Tracker:
    """The tracker ``name``; W&B's has an own class."""
    if name == "wandb":
        from harness.tracking.wandb_run import WandbTracker

        return WandbTracker(name, run, spec, journal, wire)
    return AccelerateTracker(name, run, spec, journal)


@contextmanager
def at_most(seconds: float, inbox: Inbox, what: str) -> Iterator[None]:
    """Give the tracker up if the block takes longer."""
    timer = clock(seconds, lambda: inbox.give_up(f"{what} within {seconds:.0f} s"))
    yield
    timer.cancel()


def serve(name: str, run: Path, inbox: Inbox, wire: Wire) -> None:
    """Hand the tracker one message after the other, to the last."""
    journal = Journal(run, name)
    for message in inbox:
        match message["do"]:
            case "start":
                with at_most(START_S, inbox, "did not start"):
                    tracker = build(name, run, message, journal, wire)
                    where = tracker.start()
                wire.tell(started="", say=where)
            case "log":
                if journal.is_new(message["kind"], message["values"]):
                    with at_most(CALL_S, inbox, "did not take a row"):
                        tracker.log(message["kind"], message["values"])
            case "alert":
                with at_most(CALL_S, inbox, "did not take an alert"):
                    tracker.alert(message["title"], message["text"])
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
        traceback.print_exc()
        inbox.give_up(f"raised {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    assert inbox.last_clock is not None
    inbox.last_clock.cancel()
    if inbox.dropped:
        wire.tell(warn=f"was too slow: {inbox.dropped} rows were not told")
    clock(EXIT_S, leave)
    return 0


def leave() -> None:
    """End at once, with all that was started here."""
    kill_tree(os.getpid(), spare_root=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
