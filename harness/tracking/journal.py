# SPDX-License-Identifier: Apache-2.0
"""Records what a tracker has received of a run, over all attempts, and finds the rows that are missing.

``RUN/tracking/NAME.jsonl`` has one JSON object a line. Lines are only appended: by the trainer, by the observer process
of the tracker, and by a sync from a login node; the last two exclude each other (``alone``). A line has one or more of
these keys::

    start       facts of the run at the start of an attempt: project, name, configuration, …
    run_id      the tracker's id of the run
    say, warn   a sentence of the observer for the terminal of the trainer
    summary     name and values of figures of the whole run
    end         how the attempt ended, and how long the tracker may take to finish
    kept        an attempt's tracker was closed, and has each kind of rows up to this step
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.rundir.json_files import Line, parse_line
from harness.rundir.layout import METRICS, THROUGHPUT, tracker_journal
from harness.rundir.metrics_log import numbers_of
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError
from preprocessing.base.processes import acquire
from preprocessing.base.untrusted import open_regular


class Tail:
    """Lines of JSON that other processes append to a file."""

    def __init__(self, path: Path, kind: Callable[[Line], Line] = dict) -> None:
        """From its beginning; it need not exist yet. ``kind`` raises ``ValueError`` for lines of another kind."""
        self.path, self.kind, self.offset = path, kind, 0

    def new(self) -> list[Line]:
        """The objects of the complete lines since the last call; other lines are skipped."""
        try:
            with open_regular(self.path) as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        lines, found = data[: data.rfind(b"\n") + 1], list[Line]()
        self.offset += len(lines)
        for line in lines.splitlines():
            with contextlib.suppress(ValueError):
                found.append(self.kind(parse_line(line)))
        return found


class Journal:
    """The file of one tracker of one run."""

    def __init__(self, run: Path, name: str) -> None:
        """Read the existing lines."""
        self.run, self.name = run, name
        self.path = tracker_journal(run, name)
        self.tail = Tail(self.path)
        self.lines: list[Line] = []
        self.new()

    def note(self, **line: Any) -> None:
        """Append a line and fsync."""
        self.path.parent.mkdir(exist_ok=True)
        atomic.append_line(self.path, json.dumps(line))
        atomic.fsync(self.path)

    def new(self) -> list[Line]:
        """The lines since the last call, or since those that ``all`` has read."""
        found = self.tail.new()
        self.lines += found
        return found

    def all(self, key: str) -> list[Any]:
        """The values of ``key`` in all lines, in order."""
        self.new()
        return [line[key] for line in self.lines if key in line]

    def last(self, key: str) -> Any:
        """The last value of ``key``; None without one."""
        return next(reversed(self.all(key)), None)

    @property
    def kept(self) -> dict[str, int]:
        """Kind of rows -> the last step that the tracker has."""
        return latest(*self.all("kept"))


def latest(*steps: Mapping[str, int]) -> dict[str, int]:
    """The largest step of each kind."""
    return {kind: max(one.get(kind, -1) for one in steps) for one in steps for kind in one}


@contextmanager
def alone(run: Path, name: str, wait_s: float) -> Iterator[None]:
    """Lock a tracker of a run. Raises ``ConfigError`` if another process still holds it after ``wait_s``.

    A file system without locks is not locked.
    """
    path = tracker_journal(run, name).with_suffix(".lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as lock:
        with contextlib.suppress(OSError):
            acquire(lock, wait_s, ConfigError(f"{run}: another process sends this run to {name}"))
        yield


class Rows:
    """The rows of ``metrics.jsonl`` that a tracker does not have yet, each with its figures of ``throughput.jsonl``."""

    def __init__(self, run: Path, after: Mapping[str, int]) -> None:
        """``after``: the last step of each kind that the tracker has.

        A resumed run logs the steps since its checkpoint again, with equal values: those are skipped.
        """
        self.after, self.last = after, dict(after)
        self.metrics, self.throughput = Tail(run / METRICS, numbers_of), Tail(run / THROUGHPUT, numbers_of)
        self.speeds: dict[tuple[str, int], Line] = {}

    def new(self) -> Iterator[tuple[str, Line]]:
        """The rows since the last call, as kind and figures."""
        metrics = self.metrics.new()  # first: a row's throughput is written before the row
        self.speeds |= {(line["kind"], line["step"]): line for line in self.throughput.new()}
        for line in metrics:
            kind, step = line["kind"], line["step"]
            whole = self.speeds.pop((kind, step), {}) | line
            if step > self.after.get(kind, -1):
                self.last[kind] = step
                yield kind, {key: value for key, value in whole.items() if key != "kind"}
