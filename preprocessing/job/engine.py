# SPDX-License-Identifier: Apache-2.0
"""Runs a long job in parts on workers; a finished part is never made again.

A part writes its files, then a marker with the hash of everything that decides them (``key``), the sha256 of each file,
and the part's result. A restarted job makes only the parts without a valid marker. Preprocessing and prediction both
use this engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import Screen, counted, duration
from preprocessing.base.untrusted import MOST_JSON, read_bytes
from preprocessing.job.executors import Workers, reported

LINE_EVERY_S = 5.0
KEPT = threading.local()
"""What each thread of a worker has opened, kept from one part to the next."""
LOADING = threading.Lock()
"""One thread at a time opens something: some libraries are not thread-safe while they load."""


Result = TypeVar("Result")
"""The result of a part: a dataclass with at least ``rows``, its number of rows."""


@dataclass(frozen=True)
class Part(Generic[Result]):
    """One part of a job, as sent to a worker. Each step of a job is a subclass with ``result`` and ``make``."""

    key: str
    """Hash of everything that decides the files."""
    root: Path
    """Absolute: the folder that the names of its files are relative to."""
    marker: Path
    """Absolute: the file that says that the part is complete."""
    size: int
    """Rows, approximately, for the progress."""

    result: ClassVar[type]
    """The dataclass that ``make`` returns; it is stored as JSON."""

    def make(self) -> tuple[Result, dict[str, str]]:
        """Write the files; returns the result, and the sha256 of each file by its name below ``root``."""
        raise NotImplementedError


class Marker(msgspec.Struct, Generic[Result], frozen=True):
    """What the marker of a part holds."""

    key: str
    files: dict[str, tuple[int, str]]
    """Bytes and sha256 by name."""
    result: Result


def finished(part: Part[Result], *, verify: bool = True) -> Result | None:
    """The result of a finished part with this key; None if the part must be made.

    Its files must exist in the recorded size, and with ``verify`` have the recorded hash.
    """
    kind: Any = Marker[part.result]  # type: ignore[name-defined]
    try:
        marker: Marker[Result] = msgspec.json.decode(read_bytes(part.marker, MOST_JSON), type=kind)
        for name, (size, sha256) in marker.files.items():
            path = part.root / name
            if not path.is_file() or path.stat().st_size != size or (verify and atomic.sha256_file(path) != sha256):
                return None
        return marker.result if marker.key == part.key else None
    except (OSError, DataError, msgspec.DecodeError):
        return None


def make(part: Part[Result]) -> Result:
    """Make a part: its files, then its marker. Raises ``OSError`` and what the part itself raises."""
    result, files = part.make()
    known = {name: ((part.root / name).stat().st_size, sha256) for name, sha256 in files.items()}
    atomic.write_bytes(part.marker, msgspec.json.encode(Marker(part.key, known, result)))
    return result


Some = TypeVar("Some", bound=Part[Any])


def run(parts: Iterable[Some], workers: Workers, progress: Progress) -> Iterator[tuple[Some, Any]]:
    """Yield every part with its result: those that workers make as they finish, then those that were already done.

    ``parts`` is read lazily, while workers make the first ones. Raises what a part and ``Workers.map`` raise.
    """
    before: list[tuple[Some, Any]] = []

    def left() -> Iterator[Some]:
        for part in parts:
            if (result := finished(part)) is None:
                yield part
            else:
                before.append((part, result))
                progress.total -= part.size
                progress.skipped += 1

    for part, result in workers.map(make, left(), what=progress.what, tick=progress.tick):
        progress.done += part.size
        yield part, result
    progress.close()
    yield from before


Opened = TypeVar("Opened")


def kept(key: object, open_it: Callable[[], Opened]) -> Opened:
    """What ``open_it`` returns (a tokenizer, a network), made once in each thread of a worker for parts of this key."""
    found: tuple[object, Opened] | None = getattr(KEPT, "opened", None)
    if found is None or found[0] != key:
        with LOADING:
            found = KEPT.opened = key, open_it()
    return found[1]


class Progress:
    """Reports one pass on stderr: a bar on a terminal, else one line every few seconds."""

    def __init__(self, what: str, total: int, *, screen: Screen | None = None) -> None:
        """``total``: rows of the whole pass."""
        self.what, self.total = what, total
        self.screen = screen or Screen(errors=True)
        self.started = self.shown = time.monotonic()
        self.done = self.reported = self.skipped = 0
        """Rows of finished parts, rows that workers reported, and parts that were already done."""

    def tick(self, workers: int, rows: int = 0) -> None:
        """Count rows that workers report; show the share that is done, documents per second, the time left and how many
        workers are alive, if due.
        """
        self.reported += rows
        now, done = time.monotonic(), max(self.done, self.reported)
        elapsed = max(now - self.started, 1e-9)
        left = duration(max(self.total - done, 0) * elapsed / done) if done else "?"
        state = [f"{done / elapsed:,.0f} docs/s", f"ETA {left}", counted(workers, "worker")]
        share = min(1.0, done / max(self.total, 1))
        if self.screen.is_live:
            self.screen.live(self.what, share, ", ".join(state))
        elif now - self.shown >= LINE_EVERY_S:
            self.shown = now
            self.screen.write([f"{self.what}: {share:4.0%}  {'  '.join(state)}"])

    def close(self) -> None:
        """Remove the bar, and print how long the pass took, unless that was no time."""
        self.screen.end()
        elapsed = time.monotonic() - self.started
        if elapsed < LINE_EVERY_S and not self.skipped:
            return
        before = f", {counted(self.skipped, 'part')} already done" if self.skipped else ""
        rate = f"{self.done / max(elapsed, 1e-9):,.0f} docs/s"
        self.screen.write([f"{self.what}: done in {elapsed:.1f} s, {rate}{before}"])


@contextmanager
def shown(what: str, total: int, quiet: bool) -> Iterator[None]:
    """Show how many of ``total`` rows this process has reported in the block."""
    progress = Progress(what, total, screen=Screen(errors=True, quiet=quiet))
    with reported(partial(progress.tick, 1)):
        yield
    progress.screen.end()
