# SPDX-License-Identifier: Apache-2.0
"""Where tasks run: in local processes or on a Dask cluster. Both are used through ``concurrent.futures``."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for_sentinel
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from preprocessing.base import machine
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.screen import Screen
from preprocessing.base.stopping import SIGNALS
from preprocessing.config import ExecutorConfig
from preprocessing.job.pulse import LocalPulse, Pulse, Unknown

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
OUTSTANDING = 1024
"""How many tasks are handed out before the first is back."""
CONNECT_TIMEOUT_S = 60.0
FATE_S = 2.0
"""How long the exit code of a worker that died may take to be known."""
SCHEDULER_S = 60.0
"""How long a Dask scheduler may take to say how many workers it has."""
SILENT_S = 10.0
"""Workers of Dask send a sign of life every second or so."""
STOP_SIGNALS = {getattr(signal, name) for name in SIGNALS}


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
    pulse: Callable[[], Pulse] = Unknown
    """Makes what looks after the workers during one pass."""
    fate: Callable[[], str] = lambda: ""
    """What became of workers that died, as a phrase that ends a sentence; empty if nothing is known."""

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
        pulse, quiet_s = self.pulse(), 0.0
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
                    yield waiting.pop(future), future.result()  # cannot hang: it is done
                tick(alive)
                if waiting and (why := pulse.look(POLL_S, bool(done))) is not None:
                    raise UserError(f"{what}: {why}")
                if quiet_s >= self.timeout_s:
                    limit = f"none was finished within {self.timeout_s:g} s (executor.timeout_s){pulse.told()}"
                    raise UserError(f"{what}: waited for {len(waiting)} tasks on {alive} workers, and {limit}")
        except self.losses:
            reason = f"workers died{self.fate()}; were they killed for their memory?"
            mend = "Use fewer of them or a smaller source.part_mb, and run the same command to continue"
            raise UserError(f"{what}: {reason} {mend}") from None
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
    start_tracker()
    pool = ProcessPoolExecutor(number, mp_context=Spawning(), initializer=start_worker)
    pulse, fate = partial(LocalPulse, partial(processes_of, pool)), partial(killed, pool)
    try:
        yield Workers(pool, lambda: living(pool), config.timeout_s, pulse=pulse, fate=fate)
    except BaseException:
        left = processes_of(pool)
        pool.shutdown(wait=False, cancel_futures=True)
        for process in left:
            process.kill()
        machine.end_spawned()  # one that was just being started is not among them
        raise
    pool.shutdown()


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started in the block hear no stop signal until they take this mask off."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker() -> None:
    """Start Python's own process that keeps account of semaphores, so that it neither dies before us nor complains.

    It removes what a process that was ended at once has left, and would warn of it.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        with deaf():
            resource_tracker.ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


class Worker(SpawnProcess):
    """A process that is born deaf to stop signals: those are for the parent, which ends its workers."""

    def start(self) -> None:
        """Start it with a mask that ``start_worker`` takes off again."""
        with deaf():
            super().start()


class Spawning(SpawnContext):
    """New interpreters, which inherit nothing of this process but a mask."""

    Process = Worker


def processes_of(pool: ProcessPoolExecutor) -> list[BaseProcess]:
    """The processes of a pool."""
    return list((pool._processes or {}).values())


def living(pool: ProcessPoolExecutor) -> int:
    """How many processes of a pool are alive."""
    return sum(process.is_alive() for process in processes_of(pool))


def killed(pool: ProcessPoolExecutor) -> str:
    """Which process of a broken pool was killed, and how; the pool itself sends SIGTERM to the others.

    The pool's own thread waits for the same processes: one that it has just collected has no exit code yet.
    """
    ends_s = time.monotonic() + FATE_S
    while not (codes := own_ends(processes_of(pool))) and time.monotonic() < ends_s:
        time.sleep(0.01)
    said = [f"process {pid} by {signal.Signals(-code).name}" for pid, code in codes.items() if code < 0]
    return f" ({', '.join(said)})" if said else ""


def own_ends(found: Iterable[BaseProcess]) -> dict[int | None, int]:
    """Process → exit code, of those that have ended and not by SIGTERM."""
    codes = {process.pid: process.exitcode for process in found}
    return {pid: code for pid, code in codes.items() if code not in (None, -signal.SIGTERM)}


def available_cores() -> int:
    """The cores that this process may run on, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker() -> None:
    """Prepare a new worker: one Arrow thread, stop signals left to the parent, and an end when the parent ends."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the parent to end, then end this process. The workers of a killed parent would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_sentinel([parent.sentinel])  # for as long as the parent lives, in a thread of its own
        os._exit(1)


class DaskCluster:
    """What a scheduler knows of its workers. It gives the tasks of a lost one to others (``worker-ttl``)."""

    def __init__(self, client: Any, place: str) -> None:
        """``place`` is what the user calls the scheduler."""
        self.client, self.place = client, place

    def alive(self) -> int:
        """How many workers there are. Raises ``UserError`` if the scheduler does not say."""
        try:
            return len(self.client.nthreads(callback_timeout=SCHEDULER_S))
        except TimeoutError:
            limit = f"did not answer within {SCHEDULER_S:g} s; look after it, and run the same command to continue"
            raise UserError(f"executor.scheduler: {self.place}: the scheduler {limit}") from None

    def look(self, passed_s: float, finished: bool) -> str | None:
        """Wait: the scheduler decides who is lost."""

    def told(self) -> str:
        """Workers that the scheduler has not heard of for a while."""
        try:
            known = self.client.sync(self.client.scheduler.identity, callback_timeout=SCHEDULER_S)["workers"]
        except TimeoutError:
            return "; nor does the scheduler answer"
        ago = {address: time.time() - worker["last_seen"] for address, worker in known.items()}
        said = [f"{address} was last heard of {s:.0f} s ago" for address, s in ago.items() if s > SILENT_S]
        return f" ({'; '.join(said)})" if said else ""


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
        cluster = DaskCluster(client, place)
        yield Workers(executor, cluster.alive, config.timeout_s, losses=losses, pulse=lambda: cluster)
