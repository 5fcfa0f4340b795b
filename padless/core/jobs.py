# SPDX-License-Identifier: Apache-2.0
"""Runs a long job as tasks on workers; a finished task never runs again.

A task writes its files, then a marker with the hash of everything that decides them (``key``), the sha256 of each file,
and the task's result. A restarted job runs only the tasks without a valid marker.
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
from padless.core.executors import POLL_S, ROWS, Workers, read_activity
from padless.core.terminal import LINE_EVERY_S, Live, Screen, count_noun, duration
from padless.core.untrusted import MOST_JSON, read_bytes

OPENED = threading.local()
"""What each thread of a worker has opened, kept from one task to the next."""
LOADING = threading.Lock()
"""One thread at a time opens something: some libraries are not thread-safe while they load."""

Result = TypeVar("Result")
"""The result of a task, which msgspec stores as JSON; not None."""


@dataclass(frozen=True)
class Task(Generic[Result]):
    """One task of a job, as sent to a worker. Each step of a job is a subclass with ``result`` and ``run``."""

    key: str
    """Hash of everything that decides the files."""
    root: Path
    """Absolute: the folder that the names of its files are relative to."""
    marker: Path
    """Absolute: the marker file of a finished task."""
    size: int
    """Rows, approximately, for the progress."""

    result: ClassVar[Any]
    """The type of what ``run`` returns."""

    def run(self) -> tuple[Result, dict[str, str]]:
        """Write the files; returns the result, and the sha256 of each file by its name below ``root``."""
        raise NotImplementedError


class Marker(msgspec.Struct, Generic[Result], frozen=True):
    """What the marker of a task holds."""

    key: str
    files: dict[str, tuple[int, str]]
    """Bytes and sha256 by name."""
    result: Result


def read_result(task: Task[Result], *, verify: bool = True) -> Result | None:
    """The result of a finished task with this key; None if it must run.

    Its files must exist in the recorded size, and with ``verify`` have the recorded hash.
    """
    kind: Any = Marker[task.result]  # type: ignore[name-defined]
    try:
        marker: Marker[Result] = msgspec.json.decode(read_bytes(task.marker, MOST_JSON), type=kind)
        for name, (size, sha256) in marker.files.items():
            path = task.root / name
            if path.stat().st_size != size or (verify and atomic.sha256_file(path) != sha256):
                return None
        return marker.result if marker.key == task.key else None
    except (OSError, DataError, msgspec.DecodeError):
        return None


def run_task(task: Task[Result]) -> Result:
    """Write the files of a task, then its marker. Raises ``OSError`` and what the task itself raises."""
    return write_marker(task, *task.run())


def write_marker(task: Task[Result], result: Result, hashes: dict[str, str]) -> Result:
    """Write the marker of a task whose files have these ``hashes``; returns the result."""
    pa.default_memory_pool().release_unused()  # or it grows with the number of tasks
    files = {name: ((task.root / name).stat().st_size, sha256) for name, sha256 in hashes.items()}
    atomic.write_bytes(task.marker, msgspec.json.encode(Marker(task.key, files, result)), lasting=False)
    return result


AnyTask = TypeVar("AnyTask", bound=Task[Any])


def run_tasks(
    folder: Path, tasks: Iterable[AnyTask], workers: Workers, progress: Progress, *, wait: bool = True
) -> Iterator[tuple[AnyTask, Any]]:
    """Yield every task with its result: those that workers run as they finish, those that other shares of the job run
    (unless ``wait`` is false), then those that were already done. ``folder`` has the markers.

    ``tasks`` is read lazily, while workers run the first ones. The caller closes ``progress``, also after an error.
    Raises what a task and ``Workers.map`` raise.
    """
    done_tasks, tasks_of_others = list[tuple[AnyTask, Any]](), list[AnyTask]()

    def select_tasks() -> Iterator[AnyTask]:
        for number, task in enumerate(tasks):
            if (result := read_result(task)) is not None:
                done_tasks.append((task, result))
                progress.skip(task.size)
            elif number % workers.share.count == workers.share.index:
                yield task
            else:
                tasks_of_others.append(task)

    here = workers.map(run_task, select_tasks(), step=progress.step, folder=folder)
    elsewhere = wait_for_shares(folder, tasks_of_others if wait else [], workers, progress.step)
    for task, result in itertools.chain(here, elsewhere):
        progress.finished += task.size
        yield task, result
    progress.conclude()
    yield from done_tasks


def wait_for_shares(folder: Path, tasks: list[AnyTask], workers: Workers, step: str) -> Iterator[tuple[AnyTask, Any]]:
    """Yield the tasks that other shares run with their results, as their markers appear.

    After ``timeout_s`` without a new file this share runs all that are missing: where two run the same task, they write
    the same bytes.
    """
    activity, active_at = None, time.monotonic()
    while tasks and time.monotonic() - active_at < workers.timeout_s:
        results = [(task, read_result(task, verify=False)) for task in tasks]
        yield from ((task, result) for task, result in results if result is not None)
        tasks = [task for task, result in results if result is None]
        latest = read_activity(folder)
        if latest != activity:
            activity, active_at = latest, time.monotonic()
        if tasks:
            time.sleep(POLL_S)
    yield from workers.map(run_task, tasks, step=step)


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
