# SPDX-License-Identifier: Apache-2.0
"""The executors of a job's parts: this process, processes of this machine, or the workers of a Dask cluster.

Every wait has a limit, and workers that died, are stopped or do nothing are noticed long before it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for_sentinel
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from preprocessing.base import processes
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.processes import SIGNALS
from preprocessing.base.terminal import Screen
from preprocessing.config import ExecutorConfig

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
OUTSTANDING = 1024
"""How many tasks are submitted before the first result is read."""
HELD_S, IDLE_S = 20.0, 300.0
"""For how long a worker must have been stopped, or none of them have computed anything, to be given up."""
EXIT_CODE_S = 2.0
"""How long the exit code of a worker that died may take to be known."""
CONNECT_S, SCHEDULER_S = 60.0, 60.0
"""How long a Dask scheduler may take to answer at the start, and later."""
SILENT_S = 10.0
"""Workers of Dask send a sign of life every second or so."""
STOP_SIGNALS = {getattr(signal, name) for name in SIGNALS}
CONTINUE = "run the same command to continue"


class Workers:
    """Runs tasks. This class does all of them here, or with any executor; subclasses know more of their workers."""

    losses: tuple[type[BaseException], ...] = ()
    """What a task raises when its worker is gone for good."""

    def __init__(self, timeout_s: float, executor: Executor | None = None) -> None:
        """``timeout_s`` is the longest wait for the next task to finish; without an executor tasks run here."""
        self.timeout_s, self.executor = timeout_s, executor

    def alive(self) -> int:
        """How many workers there are."""
        return 1

    def watch(self) -> Callable[[float, bool], str | None]:
        """What is asked after each wait of a pass: ``LocalPulse.look``, or what always waits on."""
        return lambda passed_s, finished: None

    def states(self) -> str:
        """What is known of workers that do nothing, as a phrase that ends a sentence."""
        return ""

    def deaths(self) -> str:
        """What is known of workers that died, as a phrase that ends a sentence."""
        return ""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        what: str,
        tick: Callable[[int], None] = lambda alive: None,
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which tasks finish. A single task runs in this process.

        ``tasks`` is read while the first ones already run. ``tick(workers alive)`` is called at least every second.
        Raises what a task raises, and ``UserError`` when no task finishes within the limit or a worker process dies.
        """
        coming = iter(tasks)
        first = list(itertools.islice(coming, 2))
        coming = itertools.chain(first, coming)
        if len(first) < 2 or self.executor is None:
            for task in coming:
                yield task, function(task)
                tick(1)
            return
        waiting: dict[Future[Result], Task] = {}
        look, quiet_s = self.watch(), 0.0
        try:
            while True:
                alive = self.alive()
                for task in coming:
                    waiting[self.executor.submit(function, task)] = task
                    if len(waiting) >= OUTSTANDING:
                        break
                if not waiting:
                    return
                done, _ = wait(waiting, POLL_S, FIRST_COMPLETED)
                quiet_s = 0.0 if done else quiet_s + POLL_S
                for future in done:
                    yield waiting.pop(future), future.result()  # cannot hang: it is done
                tick(alive)
                if waiting and (why := look(POLL_S, bool(done))) is not None:
                    raise UserError(f"{what}: {why}")
                if quiet_s >= self.timeout_s:
                    limit = f"none was finished within {self.timeout_s:g} s (executor.timeout_s){self.states()}"
                    raise UserError(f"{what}: waited for {len(waiting)} tasks on {alive} workers, and {limit}")
        except self.losses:
            mend = f"Use fewer of them or a smaller source.part_mb, and {CONTINUE}"
            raise UserError(f"{what}: workers died{self.deaths()}; were they killed for their memory? {mend}") from None
        finally:
            # A pool of local processes is ended by ``workers``: cancelling its futures here would break its own thread.
            for future in waiting if not isinstance(self.executor, ProcessPoolExecutor) else ():
                future.cancel()


@contextmanager
def workers(config: ExecutorConfig, *, quiet: bool = False) -> Iterator[Workers]:
    """Start or find the workers that ``config`` names. Leaving the block by an error ends local ones at once."""
    number = config.workers or available_cores()
    if config.kind == "dask":
        with dask_workers(config, quiet=quiet) as found:
            yield found
    elif number == 1:
        yield Workers(config.timeout_s)
    else:
        start_tracker()
        with ProcessPoolExecutor(number, mp_context=BlockedContext(), initializer=start_worker) as pool:
            local = LocalWorkers(config.timeout_s, pool)
            try:
                yield local
            except BaseException:
                left = local.processes()
                pool.shutdown(wait=False, cancel_futures=True)
                for process in left:
                    process.kill()
                processes.end_spawned()  # one that was just being started is not among them
                raise


def available_cores() -> int:
    """The cores that this process may run on, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Process(Protocol):
    """A process of this machine, however it was started."""

    @property
    def pid(self) -> int | None:
        """Its number; None before it was started."""


class LocalPulse:
    """Watches processes of this machine through ``/proc``. Time in which this process is stopped does not count.

    A worker that computes is never given up.
    """

    def __init__(self, workers: Callable[[], Sequence[Process]]) -> None:
        """``workers`` gives the processes that there are."""
        self.workers = workers
        self.held_s: dict[int, float] = {}
        self.ticks: dict[int, int | None] = {}
        self.idle_s = 0.0

    def pids(self) -> list[int]:
        """The processes that were started."""
        return [worker.pid for worker in self.workers() if worker.pid is not None]

    def look(self, passed_s: float, finished: bool) -> str | None:
        """The sentence for a worker that is stopped, or for workers none of which computes; None: wait on.

        To be asked after each wait of ``passed_s``; ``finished``: a task finished during it.
        """
        pids = self.pids()
        ticks = {pid: processes.cpu_ticks(pid) for pid in pids}
        idle = bool(pids) and None not in ticks.values() and ticks == self.ticks and not finished
        self.ticks, self.idle_s = ticks, self.idle_s + passed_s if idle else 0.0
        held = [pid for pid in pids if processes.state(pid) in processes.HELD]
        self.held_s = {pid: self.held_s.get(pid, 0.0) + passed_s for pid in held}
        for pid, seconds in self.held_s.items():
            if seconds >= HELD_S:
                mend = f"let it go on with kill -CONT {pid}, or end it, and {CONTINUE}"
                return f"a worker, {processes.in_words(pid)}, has done nothing for {seconds:.0f} s; {mend}"
        if self.idle_s >= IDLE_S:
            why = f"no worker has computed anything for {self.idle_s:.0f} s{self.states()}"
            return f"{why}; see what they wait for, and {CONTINUE}"
        return None

    def states(self) -> str:
        """Each worker whose state explains why it does nothing, as a phrase that ends a sentence."""
        found = [processes.in_words(pid) for pid in self.pids() if processes.state(pid) in processes.STATES]
        return f" ({'; '.join(found)})" if found else ""


class LocalWorkers(Workers):
    """The processes of a pool."""

    losses = (BrokenProcessPool,)

    def __init__(self, timeout_s: float, pool: ProcessPoolExecutor) -> None:
        """The caller ends the pool."""
        super().__init__(timeout_s, pool)
        self.pool = pool

    def processes(self) -> list[BaseProcess]:
        """The processes that were started."""
        return list((self.pool._processes or {}).values())

    def alive(self) -> int:
        """How many of them are alive."""
        return sum(process.is_alive() for process in self.processes())

    def watch(self) -> Callable[[float, bool], str | None]:
        """Notices a process that is stopped, and that all of them are idle."""
        return LocalPulse(self.processes).look

    def states(self) -> str:
        """Processes whose state explains why they do nothing."""
        return LocalPulse(self.processes).states()

    def deaths(self) -> str:
        """Which process was killed, by which signal; the pool itself ends the others by SIGTERM.

        The pool's own thread waits for the same processes: one that it has just collected has no exit code yet.
        """
        ends_s = time.monotonic() + EXIT_CODE_S
        while True:
            codes = {process.pid: process.exitcode or 0 for process in self.processes()}
            killed = [(pid, -code) for pid, code in codes.items() if code < 0 and code != -signal.SIGTERM]
            if killed or any(code > 0 for code in codes.values()) or time.monotonic() > ends_s:
                break
            time.sleep(0.01)
        said = [f"process {pid} by {signal.Signals(number).name}" for pid, number in killed]
        return f" ({', '.join(said)})" if said else ""


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started in the block inherit a mask that blocks stop signals: the parent ends its workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class BlockedProcess(SpawnProcess):
    """A worker process, started with stop signals blocked; ``start_worker`` then ignores and unblocks them."""

    def start(self) -> None:
        """Start it."""
        with stop_signals_blocked():
            super().start()


class BlockedContext(SpawnContext):
    """New interpreters, which inherit nothing of this process but the signal mask."""

    Process = BlockedProcess


def start_tracker() -> None:
    """Start Python's resource tracker with its warnings off and stop signals blocked.

    It removes the semaphores of workers that were killed, and would print a warning about them.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, "ignore:resource_tracker"]))
    try:
        with stop_signals_blocked():
            resource_tracker.ensure_running()
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def start_worker() -> None:
    """Prepare a new worker: one Arrow thread, stop signals ignored, and an end when the parent ends."""
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


class DaskWorkers(Workers):
    """The workers of a Dask scheduler, which gives the tasks of a lost one to others (``worker-ttl``)."""

    def __init__(self, timeout_s: float, client: Any, address: str, losses: tuple[type[BaseException], ...]) -> None:
        """``address`` is what the user calls the scheduler."""
        super().__init__(timeout_s, client.get_executor(pure=False))
        self.client, self.address, self.losses = client, address, losses

    def alive(self) -> int:
        """How many workers there are. Raises ``UserError`` if the scheduler does not say."""
        try:
            return len(self.client.nthreads(callback_timeout=SCHEDULER_S))
        except TimeoutError:
            limit = f"did not answer within {SCHEDULER_S:g} s; look after it, and {CONTINUE}"
            raise UserError(f"executor.scheduler: {self.address}: the scheduler {limit}") from None

    def states(self) -> str:
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
    address = str(config.scheduler)
    how = {"scheduler_file": address} if Path(address).exists() else {"address": address}
    try:
        client = Client(**how, timeout=CONNECT_S)
        client.wait_for_workers(1, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"executor.scheduler: {address}: no scheduler with workers answers there ({why})") from None
    with client:
        Screen(errors=True, quiet=quiet).say(f"dask: {address}, dashboard at {client.dashboard_link}")
        yield DaskWorkers(config.timeout_s, client, address, (KilledWorker, CommClosedError, CancelledError))
