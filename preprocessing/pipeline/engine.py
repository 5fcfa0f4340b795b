# SPDX-License-Identifier: Apache-2.0
"""Runs a long job in parts on workers; a finished part is never made again.

A part writes its files, then a marker with the hash of everything that decides them (``key``), the sha256 of each file,
and the part's result. A restarted job makes only the parts without a valid marker. Preprocessing and prediction both
use this engine.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import pyarrow as pa

from padless.core import atomic
from padless.core.errors import DataError
from padless.core.terminal import LINE_EVERY_S, Live, Screen, count_noun, duration
from padless.core.untrusted import MOST_JSON, read_bytes
from preprocessing.pipeline.executors import POLL_S, ROWS, Workers, read_activity

OPENED = threading.local()
"""What each thread of a worker has opened, kept from one part to the next."""
LOADING = threading.Lock()
"""One thread at a time opens something: some libraries are not thread-safe while they load."""

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
    """Absolute: the marker file of a complete part."""
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
    return write_marker(part, *part.make())


def write_marker(part: Part[Result], result: Result, hashes: dict[str, str]) -> Result:
    """Write the marker of a part whose files have these ``hashes``; returns the result."""
    pa.default_memory_pool().release_unused()  # or it grows with the number of parts
    files = {name: ((part.root / name).stat().st_size, sha256) for name, sha256 in hashes.items()}
    atomic.write_bytes(part.marker, msgspec.json.encode(Marker(part.key, files, result)), lasting=False)
    return result


AnyPart = TypeVar("AnyPart", bound=Part[Any])


def run_parts(
    parts: Iterable[AnyPart], workers: Workers, progress: Progress, *, wait: bool = True
) -> Iterator[tuple[AnyPart, Any]]:
    """Yield every part with its result: those that workers make as they finish, those that other shares of the job make
    (unless ``wait`` is false), then those that were already done.

    ``parts`` is read lazily, while workers make the first ones. The caller closes ``progress``, also after an error.
    Raises what a part and ``Workers.map`` raise.
    """
    remaining = iter(parts)
    first_parts = list(itertools.islice(remaining, 1))
    folder = first_parts[0].marker.parent if first_parts else None
    done_parts = list[tuple[AnyPart, Any]]()
    parts_of_others = list[AnyPart]()

    def select_parts() -> Iterator[AnyPart]:
        for number, part in enumerate(itertools.chain(first_parts, remaining)):
            if (result := read_result(part)) is not None:
                done_parts.append((part, result))
                progress.skip(part.size)
            elif number % workers.share.count == workers.share.index:
                yield part
            else:
                parts_of_others.append(part)

    for part, result in workers.map(make, select_parts(), step=progress.step, folder=folder):
        progress.finished += part.size
        yield part, result
    if wait:
        for part, result in wait_for_shares(parts_of_others, workers, progress.step):
            progress.finished += part.size
            yield part, result
    progress.conclude()
    yield from done_parts


def wait_for_shares(parts: list[AnyPart], workers: Workers, step: str) -> Iterator[tuple[AnyPart, Any]]:
    """Yield the parts that other shares make with their results, as their markers appear.

    After ``timeout_s`` without a new file this share makes all that are missing: where two make the same part, they
    write the same bytes.
    """
    activity, active_at = None, time.monotonic()
    while parts:
        missing_parts = list[AnyPart]()
        for part in parts:
            result = read_result(part, verify=False)
            if result is None:
                missing_parts.append(part)
            else:
                yield part, result
        parts, latest = missing_parts, read_activity(parts[0].marker.parent)
        if latest != activity:
            activity, active_at = latest, time.monotonic()
        if time.monotonic() - active_at >= workers.timeout_s:
            yield from workers.map(make, parts, step=step)
            return
        if parts:
            time.sleep(POLL_S)


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
        """``total``: rows of the whole pass, 0 while they are not known."""
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
            texts.append(f"{num_rows / max(elapsed_s, 1e-9):,.0f} rows/s")
        if not num_rows or self.total <= 0:
            return 0.0, texts
        time_left = duration(max(self.total - num_rows, 0) * elapsed_s / num_rows)
        return min(1.0, num_rows / self.total), [self.step, texts[-1], f"{time_left} left"]

    def skip(self, num_rows: int) -> None:
        """Leave out a part of so many rows, which was done before."""
        self.total -= num_rows
        self.skipped += 1

    def conclude(self) -> None:
        """Print how long the pass took, unless that was no time."""
        self.close()
        elapsed_s = time.monotonic() - self.start_s
        if elapsed_s < LINE_EVERY_S and not self.skipped:
            return
        skipped = f", {count_noun(self.skipped, 'part')} already done" if self.skipped else ""
        rate = f", {self.finished / max(elapsed_s, 1e-9):,.0f} rows/s" if self.finished else ""
        self.screen.write([f"{self.step}: done in {elapsed_s:.1f} s{rate}{skipped}"])


def show_progress(step: str, total: int, quiet: bool) -> closing[Progress]:
    """Show in a block how many of ``total`` rows it has reported."""
    return closing(Progress(step, total, Screen(errors=True, quiet=quiet)))
