# SPDX-License-Identifier: Apache-2.0
"""The executors of a job's parts: this process, processes of this machine, or the workers of a Dask cluster; and the
share of a job's parts that this command makes, where several machines work on one job without a server.

Every wait has a limit, and workers that died are noticed long before it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import popen_spawn_posix, resource_tracker, spawn
from multiprocessing.connection import wait as wait_for_sentinel
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar

import pyarrow as pa

from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.processes import SIGNALS, available_cores, end_spawned, locked
from preprocessing.base.terminal import Screen
from preprocessing.base.untrusted import one_line
from preprocessing.config import ExecutorConfig

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
TASKS_AHEAD, MIN_WORKERS = 8, 4
"""Tasks of each worker that are submitted before a result is read, since results wait in memory; and for how many
workers at least.
"""
SCHEDULER_S = 60.0
"""How long a Dask scheduler may take to answer."""
CONTINUE = "run the same command to continue"


class Rows:
    """The rows that tasks of this process have done, for the progress."""

    num_rows = 0

    def add(self, rows: int) -> None:
        """Called by a task with the number of rows that it has done, while it runs."""
        self.num_rows += rows


ROWS = Rows()


@dataclass(frozen=True)
class Share:
    """The parts of each step whose number has the remainder ``index`` when divided by ``count``."""

    index: int = 0
    count: int = 1
    locks: Path | None = None
    """The folder in which every share holds a lock while its command runs, if there is one."""

    @classmethod
    def parse(cls, text: str | None, locks: Path | None = None) -> Share:
        """``3/8`` as share 3 of 8; 8/8 is 0/8, so shares may be counted from 0 or from 1. None: the whole job."""
        if text is None:
            return cls()
        index, count = map(int, text.split("/"))
        return cls(index % count, count, locks)

    def lock_of(self, index: int) -> Path:
        """The lock of a share."""
        return Path(self.locks or "", f"lock-{index}")

    def absent(self, indices: Iterable[int]) -> set[int]:
        """Those of some shares whose commands do not run now; none where no lock tells."""
        absent = set[int]()
        for index in indices if self.locks else ():
            with suppress(UserError), locked(self.lock_of(index), 0, UserError("it runs"), shared=True):
                absent.add(index)
        return absent

    @property
    def is_leader(self) -> bool:
        """Whether it completes the result of all shares."""
        return self.index == 0

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class Workers:
    """Runs tasks with an executor, or in this process."""

    timeout_s: float
    """Longest wait for the next task to finish."""
    executor: Executor | None = None
    count_alive: Callable[[], int] = lambda: 1
    """How many workers there are. Raises ``UserError`` if that cannot be found out."""
    loss_errors: tuple[type[BaseException], ...] = ()
    """What a task raises when its worker is gone for good."""
    share: Share = Share()
    """Which parts of a job this command makes."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        step: str,
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which tasks finish. A single task runs in this process.

        ``tasks`` is read while the first ones already run. Raises what a task raises, and ``UserError`` when no task
        finishes within the limit or a worker process dies.
        """
        remaining = iter(tasks)
        first = list(itertools.islice(remaining, 2))
        remaining = itertools.chain(first, remaining)
        if len(first) < 2 or self.executor is None:
            for task in remaining:
                yield task, function(task)
            return
        task_by_future: dict[Future[Result], Task] = {}
        quiet_s = 0.0
        try:
            while True:
                num_alive = self.count_alive()
                for task in remaining:
                    with stop_signals_blocked():  # a process that this starts inherits it
                        task_by_future[self.executor.submit(function, task)] = task
                    if len(task_by_future) >= TASKS_AHEAD * max(num_alive, MIN_WORKERS):
                        break
                if not task_by_future:
                    return
                finished, _ = wait(task_by_future, POLL_S, FIRST_COMPLETED)
                quiet_s = 0.0 if finished else quiet_s + POLL_S
                for future in finished:
                    yield task_by_future.pop(future), future.result()  # cannot hang: it is done
                if quiet_s >= self.timeout_s:
                    raise UserError(
                        f"{step}: none of {len(task_by_future)} tasks was finished by {num_alive} workers within "
                        f"{self.timeout_s:g} s (executor.timeout_s); look after the workers, and {CONTINUE}"
                    )
        except self.loss_errors:
            raise UserError(
                f"{step}: workers died; were they killed for their memory? Use fewer of them or a smaller "
                f"source.part_mb, and {CONTINUE}"
            ) from None

    def map_in_order(self, function: Callable[[Task], Result], tasks: Iterable[Task], *, step: str) -> list[Result]:
        """The results of ``map``, in the order of the tasks."""
        task_list = list(tasks)
        result_by_id = {id(task): result for task, result in self.map(function, task_list, step=step)}
        return [result_by_id[id(task)] for task in task_list]


@contextmanager
def open_workers(config: ExecutorConfig, *, locks: Path | None = None, quiet: bool = False) -> Iterator[Workers]:
    """Start or find the workers that ``config`` names; ``locks``: of its shares. Leaving the block by an error ends
    local ones at once.
    """
    number, share = config.workers or available_cores(), Share.parse(config.share, locks)
    if config.kind == "dask":
        with connect_dask(config, quiet=quiet) as cluster:
            yield cluster
    elif number == 1:
        yield Workers(config.timeout_s, share=share)
    else:
        with start_pool(number) as pool:
            yield Workers(config.timeout_s, pool, lambda: number, (BrokenProcessPool,), share)


def data_without_main(name: str) -> dict[str, Any]:
    """What a spawned process is told at its start, without the caller's script, which it would run again: workers need
    nothing of it, and it may lack the guard for ``__main__``.
    """
    data = spawn.get_preparation_data(name)
    return {key: value for key, value in data.items() if not key.startswith("init_main")}


class WorkerPopen(popen_spawn_posix.Popen):
    """Starts a process by the code of its base class, which takes what it tells it from ``data_without_main``."""

    SPAWN = SimpleNamespace(**vars(spawn) | {"get_preparation_data": data_without_main})
    _launch = FunctionType(
        popen_spawn_posix.Popen._launch.__code__,  # type: ignore[attr-defined]
        vars(popen_spawn_posix) | {"spawn": SPAWN},
    )


class WorkerProcess(SpawnProcess):
    """A process that does not run the caller's script."""

    _Popen = WorkerPopen


class WorkerContext(SpawnContext):
    """Makes such processes. Nothing of the process that starts them is exchanged meanwhile: other threads go on."""

    Process = WorkerProcess


@contextmanager
def start_pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of this machine. Leaving the block by an error ends them at once."""
    start_tracker()
    with ProcessPoolExecutor(number, WorkerContext(), start_worker) as pool:
        try:
            yield pool
        except BaseException:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
            end_spawned()  # one that was just being started is not among them
            raise


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started in the block inherit a mask that blocks stop signals: the parent ends its workers."""
    signal_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)


def start_tracker() -> None:
    """Start Python's resource tracker with its warnings off and stop signals blocked.

    It removes the semaphores of workers that were killed, and would print a warning about them.
    """
    filters = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [filters, "ignore:resource_tracker"]))
    try:
        with stop_signals_blocked():
            resource_tracker.ensure_running()
    finally:
        if filters is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = filters


def start_worker() -> None:
    """Prepare a new worker: one Arrow thread, stop signals ignored, an end when the parent ends."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the parent to end, then end this process. The workers of a killed parent would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinel([parent.sentinel])  # for as long as the parent lives, in a thread of its own
        os._exit(1)


@contextmanager
def connect_dask(config: ExecutorConfig, *, quiet: bool) -> Iterator[Workers]:
    """Connect to a running scheduler by its address or its scheduler file.

    It gives the tasks of a lost worker to others (``worker-ttl``).
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError:
        raise ConfigError("executor.kind: dask is not installed; pip install 'padless[dask]'") from None
    address = str(config.scheduler)
    location = {"scheduler_file": address} if Path(address).exists() else {"address": address}
    try:
        client = Client(**location, timeout=SCHEDULER_S)
        client.wait_for_workers(1, timeout=SCHEDULER_S)
    except (OSError, ValueError) as error:
        problem = f"no scheduler with workers answers there ({one_line(error)})"
        raise ConfigError(f"executor.scheduler: {address}: {problem}") from None

    def count_alive() -> int:
        try:
            return sum(client.nthreads(callback_timeout=SCHEDULER_S).values())
        except TimeoutError:
            raise UserError(
                f"executor.scheduler: {address}: the scheduler did not answer within {SCHEDULER_S:g} s; look after "
                f"it, and {CONTINUE}"
            ) from None

    with client:
        Screen(errors=True, quiet=quiet).say(f"dask: {address}, dashboard at {client.dashboard_link}")
        losses = (KilledWorker, CommClosedError, CancelledError)
        yield Workers(config.timeout_s, client.get_executor(pure=False), count_alive, losses)
