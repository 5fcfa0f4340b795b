# SPDX-License-Identifier: Apache-2.0
"""Where tasks run: in local processes or on a Dask cluster. Both are used through ``concurrent.futures``."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_sentinel
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.screen import Screen
from preprocessing.config import ExecutorConfig

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
OUTSTANDING = 1024
"""How many tasks are handed out before the first is back."""
CONNECT_TIMEOUT_S = 60.0


class Inline(Executor):
    """An executor that runs every task in this process, at once. Nothing is started, nothing is pickled."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@dataclass(frozen=True)
class Workers:
    """An executor, how many work for it, and how long to wait for them."""

    executor: Executor
    alive: Callable[[], int]
    timeout_s: float
    losses: tuple[type[BaseException], ...] = (BrokenProcessPool,)
    """What a task raises when its worker is gone for good."""

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, what: str, tick: Callable[[int], None]
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which tasks finish. A single task runs in this process.

        ``tasks`` is read while the first ones already run. ``tick(workers alive)`` is called at least every second.
        Raises what a task raises, and ``UserError`` when no task finishes within the limit or a worker process dies.
        """
        coming = iter(tasks)
        first = list(itertools.islice(coming, 2))
        if len(first) == 1:
            yield first[0], function(first[0])
            return
        coming = itertools.chain(first, coming)
        waiting: dict[Future[Result], Task] = {}
        quiet_s = 0.0
        try:
            while True:
                alive = self.alive()
                for task in coming:
                    waiting[self.executor.submit(function, task)] = task
                    if len(waiting) >= OUTSTANDING or isinstance(self.executor, Inline):
                        break
                if not waiting:
                    return
                done, _ = wait(waiting, POLL_S, FIRST_COMPLETED)
                quiet_s = 0.0 if done else quiet_s + POLL_S
                for future in done:
                    yield waiting.pop(future), future.result()
                tick(alive)
                if quiet_s >= self.timeout_s:
                    limit = f"none was finished within {self.timeout_s:g} s (executor.timeout_s)"
                    raise UserError(f"{what}: waited for {len(waiting)} tasks on {alive} workers, and {limit}")
        except self.losses:
            reason = "were they killed for their memory? Use fewer of them or a smaller source.part_mb"
            raise UserError(f"{what}: workers died; {reason}, and run the same command to continue") from None
        finally:
            # A pool of local processes is ended by ``workers``: cancelling its futures here would break its own thread.
            for future in waiting if not isinstance(self.executor, ProcessPoolExecutor) else ():
                future.cancel()


@contextmanager
def workers(config: ExecutorConfig, *, quiet: bool = False) -> Iterator[Workers]:
    """Start or find the workers that ``config`` names. Leaving it on an error stops local ones at once."""
    if config.kind == "dask":
        with dask_workers(config, quiet=quiet) as found:
            yield found
        return
    number = config.workers or available_cores()
    if number == 1:
        yield Workers(Inline(), lambda: 1, config.timeout_s)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, mp_context=context, initializer=start_worker)
    try:
        yield Workers(pool, lambda: living(pool), config.timeout_s)
    except BaseException:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        raise
    pool.shutdown()


def living(pool: ProcessPoolExecutor) -> int:
    """How many processes of a pool are alive."""
    return sum(process.is_alive() for process in list((pool._processes or {}).values()))


def available_cores() -> int:
    """The cores that this process may run on, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """Prepare a new worker: one Arrow thread, Ctrl-C left to the parent, and an end when the parent ends."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the parent to end, then end this process. The workers of a killed parent would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinel([parent.sentinel])
        os._exit(1)


@contextmanager
def dask_workers(config: ExecutorConfig, *, quiet: bool) -> Iterator[Workers]:
    """Connect to a running scheduler by its address or its scheduler file. The scheduler replaces lost workers."""
    try:
        from distributed import Client, KilledWorker
        from distributed.comm import CommClosedError
    except ImportError:
        raise ConfigError("executor.kind: dask is not installed; pip install 'padless[dask]'") from None
    place = str(config.scheduler)
    how = {"scheduler_file": place} if Path(place).exists() else {"address": place}
    try:
        client = Client(**how, timeout=CONNECT_TIMEOUT_S)
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"executor.scheduler: {place}: no scheduler with workers answers there ({why})") from None
    with client:
        Screen(errors=True, quiet=quiet).say(f"dask: {place}, dashboard at {client.dashboard_link}")
        losses = (KilledWorker, CommClosedError, CancelledError)
        executor = client.get_executor(pure=False)
        yield Workers(executor, lambda: len(client.nthreads()), config.timeout_s, losses=losses)
