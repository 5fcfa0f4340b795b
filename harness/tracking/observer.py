# SPDX-License-Identifier: Apache-2.0
"""The process that owns one tracker: ``python -m harness.tracking.observer NAME RUN``, started by ``tracking.py``.

It follows the run's files and passes each missing row to the tracker, until the trainer notes the end in the tracker's
journal, or is no longer the parent of this process: then it was killed. A tracker that does not return from a call is
stopped, with one warning. Signals for the trainer are ignored here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
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
LOOK_S = 0.2
"""Interval between reads of the run's files."""
NICENESS = 10
"""Training has priority where cores are scarce."""
KILLED = {"state": "crashed", "reason": "The trainer was killed.", "limit_s": SHORT_FINISH_S}
Limit = Callable[[float, str], AbstractContextManager[None]]
"""Stops a block that takes longer than so many seconds; the text completes the warning."""


def serve(
    journal: Journal,
    tell: Callable[..., None],
    ending: Callable[[Journal], dict[str, Any] | None],
    limit: Limit = lambda seconds, what: nullcontext(),
    wait_s: float = START_S,
) -> None:
    """Pass missing rows to the tracker of ``journal`` until ``ending`` says how the run has ended, then close it.

    ``tell`` prints. Raises ``ConfigError`` if another process still serves the tracker after ``wait_s``, and the errors
    of the tracker.
    """
    run, name = journal.run, journal.name
    with contextlib.ExitStack() as stack:
        with limit(START_S, "did not start"):
            stack.enter_context(alone(run, name, wait_s))
            tracker = load(TRACKERS[name])(name, run, journal.last("start"), journal, tell)
            tell(say=tracker.start())
            rows = Rows(run, latest(journal.kept, tracker.known()))
        while True:
            end = ending(journal)  # first: a run that has ended writes no more rows
            with nullcontext() if end is None else limit(end["limit_s"], "did not finish"):
                for kind, values in rows.new():
                    with limit(CALL_S, "did not take a row"):
                        tracker.log(kind, values)
                if end is not None:
                    for summary in journal.all("summary"):
                        tracker.summarize(summary["name"], summary["values"])
                    tracker.close(end["state"])
                    if tracker.sends:
                        journal.note(kept=rows.last)
                    return
            time.sleep(LOOK_S)


def noted_end(journal: Journal) -> dict[str, Any] | None:
    """How the trainer's attempt has ended; None while it runs."""
    journal.new()
    newest = next(line for line in reversed(journal.lines) if "start" in line or "end" in line)
    if "end" in newest:
        return dict(newest["end"])
    return None if os.getppid() == newest["start"]["pid"] else KILLED


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
    journal = Journal(run, name)

    def tell(**reply: str) -> None:
        """Tell the trainer; passwords are removed from addresses."""
        with contextlib.suppress(OSError):  # the disk may be full
            journal.note(**{key: public(value) for key, value in reply.items()})

    def give_up(what: str) -> None:
        tell(warn=f"{what}, and was stopped")
        leave(1)

    @contextmanager
    def limit(seconds: float, what: str) -> Iterator[None]:
        timer = clock(seconds, lambda: give_up(f"{what} within {seconds:.0f} s"))
        yield
        timer.cancel()

    try:
        serve(journal, tell, noted_end, limit)
    except Exception as error:
        with contextlib.suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        give_up(f"raised {type(error).__name__}: {one_line(error)}")
    clock(EXIT_S, leave)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
