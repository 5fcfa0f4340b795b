# SPDX-License-Identifier: Apache-2.0
"""Runs a long job as tasks; a finished task never runs again.

A task writes its files, then a marker with the hash of everything that decides them (``key``), the sha256 of each file,
and the task's result. A restarted job runs only the tasks without a valid marker. Tasks run in this process, in
processes of this machine, or on the workers of a Dask cluster; without a server, several machines run shares of them.
Every wait has a limit, and workers that died are noticed long before it.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import pyarrow as pa

from padless.core import atomic
from padless.core.errors import ConfigError, DataError, UserError, require
from padless.core.processes import available_cores, lock_file, signal_on_parents_death
from padless.core.schema import Name, Processes, ShareText, Wait
from padless.core.signals import SIGNALS
from padless.core.terminal import Live, Screen, count_noun, duration, progress_line
from padless.core.untrusted import MOST_JSON, one_line, read_bytes

Input = TypeVar("Input")
Result = TypeVar("Result")
"""Of a task, which msgspec stores as JSON; not None."""
POLL_S = 1.0
MAX_TASKS_AHEAD = 64
"""How many tasks are submitted before a result is read, since results wait in memory."""
SCHEDULER_S = 60.0
"""How long a Dask scheduler may take to answer."""
CONTINUE = "run the same command to continue"
SERVE = "import sys; sys.path = sys.argv[1:]; from padless.core.jobs import serve; serve()"
OPENED = threading.local()
"""What each thread of a worker has opened, kept from one task to the next."""
LOADING = threading.Lock()
"""One thread at a time opens something: some libraries are not thread-safe while they load."""

MAKING_FOLDER = threading.Lock()
"""Held by one thread, since the temporary folder of a process is the same in all."""
LOCK = "lock"
"""The file in a job's folder that is locked."""


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """Where the work runs; never changes the result."""

    workers: Processes | None = None
    """Number of local processes; none: one per core that this process may use."""
    scheduler: Name | None = None
    """Address of a running Dask scheduler (tcp://host:8786), or the path of its scheduler file: its workers make the
    parts."""
    share: ShareText | None = None
    """i/n: one of n commands that make a dataset together on machines that all see the output directory, as tasks of a
    SLURM array do: it makes every n-th part, and waits for those of the others (0/n to n-1/n, or 1/n to n/n)."""
    timeout_s: Wait = 900.0
    """Longest wait for the next part; then the job fails and names the parts it waited for, or a share makes those of
    others itself."""

    def __post_init__(self) -> None:
        """Check the share."""
        Share.parse(self.share, "executor.share")
        both = self.share is not None and self.scheduler is not None
        require(not both, "executor.share", self.share, "null with executor.scheduler")


class Rows:
    """The rows that tasks of this process have done, for the progress."""

    num_rows = 0

    def add(self, rows: int) -> None:
        """Called by a task with the number of rows that it has done, while it runs."""
        self.num_rows += rows


ROWS = Rows()


@dataclass(frozen=True)
class Share:
    """The tasks of each step whose number has the remainder ``index`` when divided by ``count``."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str | None, key: str = "share") -> Share:
        """``3/8`` as share 3 of 8; 8/8 is 0/8, so shares may be counted from 0 or from 1. None: the whole job. Raises
        ``ConfigError`` with the ``key`` for 9/8.
        """
        index, count = map(int, (text or "0/1").split("/"))
        require(index <= count, key, text, f"from 0/{count} to {count}/{count}")
        return cls(index % count, count)

    @property
    def is_leader(self) -> bool:
        """Whether it completes the result of all shares."""
        return self.index == 0


@dataclass(frozen=True)
class Workers:
    """Runs tasks with an executor, or in this process."""

    timeout_s: float = float("inf")
    """Longest time in which no task finishes and none makes a file."""
    executor: Executor | None = None
    share: Share = Share()
    """Which tasks of a job this command runs."""
    quiet: bool = False
    """Show no progress."""
    loss_errors: tuple[type[BaseException], ...] = (BrokenExecutor,)
    """What a task raises when its worker is gone for good."""

    def map(
        self, function: Callable[[Input], Result], tasks: Iterable[Input], *, step: str, folder: Path | None = None
    ) -> Iterator[tuple[Input, Result]]:
        """Yield each task with its result, in the order in which tasks finish. A single task runs in this process.

        ``tasks`` is read while the first ones already run. A new file in ``folder`` shows that a long task goes on.
        Raises what a task raises, and ``UserError`` when nothing happens within the limit or a worker process ends.
        """
        remaining = iter(tasks)
        first_tasks = list(itertools.islice(remaining, 2))
        remaining = itertools.chain(first_tasks, remaining)
        if len(first_tasks) < 2 or self.executor is None:
            for task in remaining:
                yield task, function(task)
            return
        task_by_future: dict[Future[Result], Input] = {}
        activity, active_at = None, time.monotonic()
        try:
            while True:
                has_room = len(task_by_future) < MAX_TASKS_AHEAD
                next_task = next(remaining, None) if has_room else None
                if next_task is not None:
                    task_by_future[self.executor.submit(function, next_task)] = next_task
                elif not task_by_future:
                    return
                finished, _ = wait(task_by_future, 0 if next_task is not None else POLL_S, FIRST_COMPLETED)
                latest = read_activity(folder)
                if finished or next_task is not None or latest != activity:
                    activity, active_at = latest, time.monotonic()
                for future in finished:
                    yield task_by_future.pop(future), future.result()  # cannot hang: it is done
                if time.monotonic() - active_at >= self.timeout_s:
                    raise UserError(
                        f"{step}: none of {len(task_by_future)} tasks was finished within {self.timeout_s:g} s; look "
                        f"after the workers, and {CONTINUE}"
                    )
        except self.loss_errors:
            raise UserError(
                f"{step}: workers died; were they killed for their memory? Use fewer of them or a smaller "
                f"source.part_mb, and {CONTINUE}"
            ) from None


def read_activity(folder: Path | None) -> int | None:
    """When a file was last made in a folder, in nanoseconds; None for a folder that does not exist."""
    try:
        return folder.stat().st_mtime_ns if folder else None
    except OSError:
        return None


@contextmanager
def open_workers(config: ExecutorConfig, *, quiet: bool = False) -> Iterator[Workers]:
    """Start or find the workers that ``config`` names. Leaving the block ends local ones at once."""
    num_workers, share = config.workers or available_cores(), Share.parse(config.share)
    if config.scheduler:
        with connect_dask(config, quiet=quiet) as cluster:
            yield cluster
    elif num_workers == 1:
        yield Workers(config.timeout_s, share=share, quiet=quiet)
    else:
        with ProcessPool(num_workers) as pool:
            yield Workers(config.timeout_s, pool, share, quiet)


class ProcessPool(ThreadPoolExecutor):
    """An executor of processes of this machine; a context manager that kills them, whatever they do.

    A process starts with a task as long as there are fewer than ``num_workers``. It imports what tasks need, and not
    the caller's script, which may lack the guard for ``__main__``.
    """

    def __init__(self, num_workers: int) -> None:
        super().__init__(num_workers, initializer=self.start_process)  # a thread for each process waits for its results
        self.processes = list[subprocess.Popen[bytes]]()
        self.own = threading.local()

    def start_process(self) -> None:
        """Start the process of a thread."""
        words, pipe = [sys.executable, "-c", SERVE, *sys.path], subprocess.PIPE
        # in a session of its own: signals from the keyboard are for the command alone
        self.own.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True)
        self.processes.append(self.own.process)

    def submit(self, function: Callable[..., Any], /, *tasks: Any, **_: Any) -> Future[Any]:
        """Run a function of one task in a process."""
        return super().submit(self.run_in_process, function, *tasks)

    def run_in_process(self, function: Callable[[Any], Any], task: Any) -> Any:
        """The result of a function in the process of this thread. Raises what it raises, and ``BrokenExecutor``."""
        process = self.own.process
        try:
            pickle.dump((function, task), process.stdin)
            process.stdin.flush()
            is_done, value = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise BrokenExecutor from None
        if not is_done:
            raise value
        return value

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Kill the processes."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        for process in self.processes:
            process.kill()
            with suppress(BrokenPipeError), process:  # closes the pipes
                process.wait()  # cannot hang: it was killed
        super().shutdown(wait)


def serve() -> None:
    """Run the tasks that come through standard input, one at a time, until the command ends."""
    signal_on_parents_death("SIGKILL")
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no result
    with suppress(EOFError, BrokenPipeError):  # the command has ended
        while True:
            function, task = pickle.load(sys.stdin.buffer)
            try:
                data = pickle.dumps((True, function(task)))
            except Exception as error:
                data = pickle.dumps((False, error))
            results.write(data)
            results.flush()


@contextmanager
def connect_dask(config: ExecutorConfig, *, quiet: bool) -> Iterator[Workers]:
    """Connect to a running scheduler. It gives the tasks of a lost worker to others (``worker-ttl``)."""
    try:
        from distributed import Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError:
        raise ConfigError("executor.scheduler: dask is not installed; pip install 'padless[dask]'") from None
    address = str(config.scheduler)
    location = {"scheduler_file": address} if Path(address).exists() else {"address": address}
    try:
        client = Client(**location, timeout=SCHEDULER_S)
        client.wait_for_workers(1, timeout=SCHEDULER_S)
    except (OSError, ValueError) as error:
        problem = f"no scheduler with workers answers there ({one_line(error)})"
        raise ConfigError(f"executor.scheduler: {address}: {problem}") from None
    with client:
        losses = (KilledWorker, CommClosedError, CancelledError)
        yield Workers(config.timeout_s, client.get_executor(pure=False), quiet=quiet, loss_errors=losses)


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
    step: str, folder: Path, tasks: Iterable[AnyTask], workers: Workers, *, wait: bool = True
) -> Iterator[tuple[AnyTask, Any]]:
    """Yield every task with its result: those that workers run as they finish, those that other shares of the job run
    (unless ``wait`` is false), then those that were already done. ``folder`` has the markers.

    ``tasks`` is read lazily, while workers run the first ones. Raises what a task and ``Workers.map`` raise.
    """
    done_tasks, tasks_of_others = list[tuple[AnyTask, Any]](), list[AnyTask]()

    def select_tasks() -> Iterator[AnyTask]:
        for number, task in enumerate(tasks):
            result = read_result(task)
            if result is not None:
                done_tasks.append((task, result))
                progress.skipped += 1
                progress.total -= task.size
            elif number % workers.share.count == workers.share.index:
                yield task
            else:
                tasks_of_others.append(task)

    num_rows = sum(task.size for task in tasks) if isinstance(tasks, Sequence) else 0
    with show_progress(step, num_rows, workers.quiet) as progress:
        results = workers.map(run_task, select_tasks(), step=step, folder=folder)
        results_of_others = wait_for_shares(folder, tasks_of_others if wait else [], workers, step)
        for task, result in itertools.chain(results, results_of_others):
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


@contextmanager
def claim_folder(folder: Path, target: Path, share: Share, wait_s: float, refusal: UserError) -> Iterator[None]:
    """Make the signed folder of a job that makes ``target``, unless it exists, and lock it for this command, or for the
    shares of one. A share waits ``wait_s`` for another command.

    Raises ``refusal`` while another command has it, ``OSError`` if it cannot be made.
    """
    try:
        with MAKING_FOLDER, atomic.new_folder(folder) as temporary:
            atomic.sign(temporary, target)
    except OSError:
        if not folder.is_dir():
            raise
    is_shared = share.count > 1
    with lock_file(folder / LOCK, wait_s if is_shared else 0, refusal, shared=is_shared):
        yield


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
        super().__init__(self.describe, screen)

    def describe(self) -> list[str]:
        """The live line: the share that is done, rows per second, time left."""
        elapsed_s = max(time.monotonic() - self.start_s, 1e-9)
        num_rows = max(self.finished, ROWS.num_rows - self.earlier_rows)
        rate = f"{num_rows / elapsed_s:,.0f} rows/s"
        if self.total <= 0 or not num_rows:
            return [progress_line(0.0, self.step, duration(elapsed_s), rate)]
        time_left = duration(max(self.total - num_rows, 0) * elapsed_s / num_rows)
        return [progress_line(min(1.0, num_rows / self.total), self.step, rate, f"{time_left} left")]

    def conclude(self) -> None:
        """Print how many parts were already done, if any."""
        self.close()
        if self.skipped:
            self.screen.write([f"{self.step}: {count_noun(self.skipped, 'part')} already done"])


def show_progress(step: str, total: int, quiet: bool) -> closing[Progress]:
    """Show in a block how many of ``total`` rows it has reported."""
    return closing(Progress(step, total, Screen(errors=True, quiet=quiet)))
