# SPDX-License-Identifier: Apache-2.0
"""Runs a long job in parts on workers; a finished part is never made again.

A part writes its files, then a marker with the hash of everything that decides them (``key``), the sha256 of each file,
and the part's result. A restarted job makes only the parts without a valid marker. Preprocessing and prediction both
use this engine.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import pyarrow as pa

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import LINE_EVERY_S, Live, Screen, counted, duration
from preprocessing.base.untrusted import MOST_JSON, read_bytes
from preprocessing.job.executors import POLL_S, ROWS, Workers

OPENED = threading.local()
"""What each thread of a worker has opened, kept from one part to the next."""
LOADING = threading.Lock()
"""One thread at a time opens something: some libraries are not thread-safe while they load."""
ABSENT_S = 5.0
"""How long a share waits for one whose command does not run."""


Result = TypeVar("Result")
"""The result of a part, which msgspec stores as JSON; not None."""


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

    result: ClassVar[Any]
    """The type of what ``make`` returns."""

    def make(self) -> tuple[Result, dict[str, str]]:
        """Write the files; returns the result, and the sha256 of each file by its name below ``root``."""
        raise NotImplementedError


class Marker(msgspec.Struct, Generic[Result], frozen=True):
    """What the marker of a part holds."""

    key: str
    files: dict[str, tuple[int, str]]
    """Bytes and sha256 by name."""
    result: Result


def read_result(part: Part[Result], *, verify: bool = True) -> Result | None:
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
    pa.default_memory_pool().release_unused()  # or it grows with the number of parts
    stored = {name: ((part.root / name).stat().st_size, sha256) for name, sha256 in files.items()}
    atomic.write_bytes(part.marker, msgspec.json.encode(Marker(part.key, stored, result)), lasting=False)
    return result


AnyPart = TypeVar("AnyPart", bound=Part[Any])


def run(
    parts: Iterable[AnyPart], workers: Workers, progress: Progress, *, wait: bool = True
) -> Iterator[tuple[AnyPart, Any]]:
    """Yield every part with its result: those that workers make as they finish, those that other shares of the job make
    (unless ``wait`` is false), then those that were already done.

    ``parts`` is read lazily, while workers make the first ones. The caller closes ``progress``, also after an error.
    Raises what a part and ``Workers.map`` raise.
    """
    already_done = list[tuple[AnyPart, Any]]()
    of_other_shares = list[tuple[int, AnyPart]]()

    def unfinished() -> Iterator[AnyPart]:
        for number, part in enumerate(parts):
            if (result := read_result(part)) is not None:
                already_done.append((part, result))
                progress.total -= part.size
                progress.skipped += 1
            elif number % workers.share.count == workers.share.index:
                yield part
            else:
                of_other_shares.append((number, part))

    for part, result in workers.map(make, unfinished(), step=progress.step):
        progress.finished += part.size
        yield part, result
    if wait:
        for part, result in wait_for_shares(of_other_shares, workers, progress.step):
            progress.finished += part.size
            yield part, result
    progress.conclude()
    yield from already_done


def wait_for_shares(parts: list[tuple[int, AnyPart]], workers: Workers, step: str) -> Iterator[tuple[AnyPart, Any]]:
    """Yield the parts that other shares make, given with their numbers, with their results, as their markers appear.

    Without a new one for ``ABSENT_S``, this share makes those of shares that do not run, and after ``timeout_s`` all:
    where two make the same part, they write the same bytes.
    """
    count, quiet_s = workers.share.count, 0.0
    while parts:
        indices = {number % count for number, _ in parts} if quiet_s >= ABSENT_S else ()
        absent = workers.share.absent(indices)
        waiting, abandoned = list[tuple[int, AnyPart]](), list[AnyPart]()
        for number, part in parts:
            if (result := read_result(part, verify=False)) is not None:
                quiet_s = 0.0
                yield part, result
            elif quiet_s >= workers.timeout_s or number % count in absent:
                abandoned.append(part)
            else:
                waiting.append((number, part))
        random.Random(workers.share.index).shuffle(abandoned)  # other shares make them too: each begins elsewhere
        yield from workers.map(find_or_make, abandoned, step=step)
        parts = waiting
        if parts:
            time.sleep(POLL_S)
            quiet_s += POLL_S


def find_or_make(part: Part[Result]) -> Result:
    """The result of a part that another share may have made meanwhile."""
    result = read_result(part, verify=False)
    return make(part) if result is None else result


Opened = TypeVar("Opened")


def open_once(key: object, open_it: Callable[[], Opened]) -> Opened:
    """What ``open_it`` returns (a tokenizer, a network), made once in each thread of a worker for parts of this key."""
    opened: tuple[object, Opened] | None = getattr(OPENED, "opened", None)
    if opened is None or opened[0] != key:
        with LOADING:
            opened = OPENED.opened = key, open_it()
    return opened[1]


class Progress(Live):
    """Shows on stderr how far a pass is, also inside the parts of this process that call ``ROWS.add``."""

    def __init__(self, step: str, total: int, screen: Screen) -> None:
        """``total``: rows of the whole pass."""
        self.step, self.total = step, total
        self.start_s, self.earlier_rows = time.monotonic(), ROWS.num_rows
        self.finished = self.skipped = 0
        """Rows of finished parts, and parts that were already done."""
        super().__init__(self.state, screen)

    def state(self) -> tuple[float, list[str]]:
        """The share that is done, rows per second, time left."""
        elapsed_s, num_rows = time.monotonic() - self.start_s, max(self.finished, ROWS.num_rows - self.earlier_rows)
        texts = [self.step, duration(elapsed_s)]
        if num_rows:
            time_left = duration(max(self.total - num_rows, 0) * elapsed_s / num_rows)
            texts[1:] = [f"{num_rows / max(elapsed_s, 1e-9):,.0f} docs/s", f"{time_left} left"]
        return min(1.0, num_rows / max(self.total, 1)), texts

    def conclude(self) -> None:
        """Print how long the pass took, unless that was no time."""
        self.close()
        elapsed_s = time.monotonic() - self.start_s
        if elapsed_s < LINE_EVERY_S and not self.skipped:
            return
        skipped = f", {counted(self.skipped, 'part')} already done" if self.skipped else ""
        rate = f"{self.finished / max(elapsed_s, 1e-9):,.0f} docs/s"
        self.screen.write([f"{self.step}: done in {elapsed_s:.1f} s, {rate}{skipped}"])


def show_progress(step: str, total: int, quiet: bool) -> closing[Progress]:
    """Show in a block how many of ``total`` rows it has reported."""
    return closing(Progress(step, total, Screen(errors=True, quiet=quiet)))
