# SPDX-License-Identifier: Apache-2.0
"""What a tracker has of a run, over all its attempts, and the rows that it lacks.

``RUN/tracking/NAME.jsonl`` has one JSON object a line. Lines are only ever added, by one trainer, by the process that
owns its tracker, and by a sync from a login node; of the last two one works at a time (``alone``).
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from harness.rundir.json_files import MOST_LINES, Line, read_lines
from harness.rundir.layout import METRICS, THROUGHPUT, tracker_journal
from harness.rundir.metrics_log import parse_row
from preprocessing.base.errors import ConfigError
from preprocessing.base.processes import acquire
from preprocessing.base.schema import fits
from preprocessing.base.untrusted import open_regular, read_bytes


class Entry(TypedDict, total=False):
    """What a line may tell."""

    start: dict[str, Any]
    """The run as an attempt begins it: project, name, configuration, …"""
    run_id: str
    """The id that the tracker knows the run by."""
    kept: dict[str, Annotated[int, Meta(ge=-1)]]
    """The tracker of an attempt has finished in order, and has each kind of rows up to this step."""
    finished: str
    """Name of the folder that holds the tracker's own files of that attempt."""


class Journal:
    """The file of one tracker of one run."""

    def __init__(self, run: Path, name: str) -> None:
        """Read what was written before; a line that a kill has cut off, or that is none of ours, is left out."""
        self.path = tracker_journal(run, name)
        self.entries = [line for line in read_lines(self.path, several_writers=True) if fits(Entry, line)]

    def note(self, **entry: Any) -> None:
        """Add a line, and see that it is on the disk."""
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab") as file:
            torn = file.tell() and not read_bytes(self.path, MOST_LINES).endswith(b"\n")
            file.write((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)

    def _last(self, key: str) -> Any:
        return next((entry[key] for entry in reversed(self.entries) if key in entry), None)

    @property
    def start(self) -> dict[str, Any] | None:
        """The run as the last attempt began it."""
        return self._last("start")

    @property
    def run_id(self) -> str | None:
        """The id that the tracker knows the run by."""
        return self._last("run_id")

    @property
    def kept(self) -> dict[str, int]:
        """Kind of rows -> the last step that has arrived."""
        return latest(*(entry["kept"] for entry in self.entries if "kept" in entry))

    @property
    def finished(self) -> list[str]:
        """Folders of the attempts whose tracker finished in order."""
        return [entry["finished"] for entry in self.entries if "finished" in entry]


def latest(*steps: Mapping[str, int]) -> dict[str, int]:
    """The largest step of each kind."""
    return {kind: max(one.get(kind, -1) for one in steps) for one in steps for kind in one}


@contextmanager
def alone(run: Path, name: str, wait_s: float) -> Iterator[None]:
    """Tell a tracker of a run as the only process. Raises ``ConfigError`` if another one still does after ``wait_s``.

    On a file system without locks nothing is held.
    """
    path = tracker_journal(run, name).with_suffix(".lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as lock:
        with contextlib.suppress(OSError):
            acquire(lock, wait_s, ConfigError(f"{run}: another process tells {name} of this run"))
        yield


class Rows:
    """The rows of ``metrics.jsonl`` that a tracker lacks, each with its figures of ``throughput.jsonl``."""

    def __init__(self, run: Path, after: Mapping[str, int]) -> None:
        """``after``: the last step of each kind that the tracker has.

        A resumed run logs the steps since its checkpoint again, bit for bit: those are not told twice.
        """
        self.metrics, self.throughput = Tail(run / METRICS), Tail(run / THROUGHPUT)
        self.after, self.last = after, dict(after)
        self.speeds: dict[int, Line] = {}

    def new(self) -> Iterator[tuple[str, Line]]:
        """What was written since the last call, as kind and figures."""
        metrics = self.metrics.lines()  # first: a row's throughput is written before the row
        self.speeds |= {line["step"]: line for line in self.throughput.lines()}
        for line in metrics:
            kind, step = line["kind"], line["step"]
            whole = {**(self.speeds.pop(step, {}) if kind == "train" else {}), **line}
            if step > self.after.get(kind, -1):
                self.last[kind] = step
                yield kind, {key: value for key, value in whole.items() if key != "kind"}


class Tail:
    """The whole lines that a file has got since they were last asked for."""

    def __init__(self, path: Path) -> None:
        """The file need not be there yet."""
        self.path, self.offset = path, 0

    def lines(self) -> list[Line]:
        """Rows in order; a line that is none of ours is left out."""
        try:
            with open_regular(self.path) as file:
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        self.offset += sum(map(len, lines))
        return [row for line in lines if (row := parse_row(line)) is not None]
