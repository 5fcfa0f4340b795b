# SPDX-License-Identifier: Apache-2.0
"""The executors of a job's parts: this process, processes of this machine, the workers of a shared directory or of a
Dask cluster.

Every wait has a limit, and workers that died are noticed long before it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import platform
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait as wait_for_sentinel
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pyarrow as pa

from preprocessing.base.atomic import storing
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.processes import SIGNALS, available_cores, end_spawned, keeping
from preprocessing.base.terminal import Screen, public
from preprocessing.base.untrusted import make_private
from preprocessing.config import ExecutorConfig, WorkConfig
from preprocessing.job.folder import ENDED, SILENT_S, Folder, age_s, fresh, give_back, perform

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
OUTSTANDING = 1024
"""How many tasks are submitted before the first result is read."""
CONNECT_S, SCHEDULER_S = 60.0, 60.0
"""How long a Dask scheduler may take to answer at the start, and later."""
STOP_SIGNALS = {getattr(signal, name) for name in SIGNALS}
PLACES = 1024
"""For the counts of workers; more than run at a time."""
CONTINUE = "run the same command to continue"


class Rows:
    """The rows that this process and its workers on this machine have done, for the progress.

    Workers write to memory that they share with the process that started them, each to a place of its own, without a
    lock: one that is killed blocks nobody.
    """

    places: Any = [0] * PLACES
    """Not shared in a process that starts no workers."""

    def add(self, rows: int) -> None:
        """Called by a task with the number of rows that it has done, while it runs; costs a microsecond."""
        self.places[os.getpid() % PLACES] += rows

    @property
    def done(self) -> int:
        """The rows of all of them."""
        return sum(self.places)


ROWS = Rows()


@dataclass(frozen=True)
class Workers:
    """Runs tasks with an executor, or in this process."""

    timeout_s: float
    """Longest wait for the next task to finish."""
    executor: Executor | None = None
    alive: Callable[[], int] = lambda: 1
    """How many workers there are. Raises ``UserError`` if that cannot be found out."""
    losses: tuple[type[BaseException], ...] = ()
    """What a task raises when its worker is gone for good."""
    start: str = ""
    """How workers are started, if the job does not start them."""

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Iterable[Task],
        *,
        what: str,
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which tasks finish. A single task runs in this process.

        ``tasks`` is read while the first ones already run. Raises what a task raises, and ``UserError`` when no task
        finishes within the limit or a worker process dies.
        """
        coming = iter(tasks)
        first = list(itertools.islice(coming, 2))
        coming = itertools.chain(first, coming)
        if len(first) < 2 or self.executor is None:
            for task in coming:
                yield task, function(task)
            return
        waiting: dict[Future[Result], Task] = {}
        quiet_s = 0.0
        try:
            while True:
                alive = self.alive()
                for task in coming:
                    with stop_signals_blocked():  # a process that this starts inherits it
                        waiting[self.executor.submit(function, task)] = task
                    if len(waiting) >= OUTSTANDING:
                        break
                if not waiting:
                    return
                done, _ = wait(waiting, POLL_S, FIRST_COMPLETED)
                quiet_s = 0.0 if done else quiet_s + POLL_S
                for future in done:
                    yield waiting.pop(future), future.result()  # cannot hang: it is done
                if quiet_s >= self.timeout_s:
                    limit = f"none was finished within {self.timeout_s:g} s (executor.timeout_s)"
                    mend = f"{'see what they wait for' if alive else self.start}, and {CONTINUE}"
                    raise UserError(f"{what}: waited for {len(waiting)} tasks on {alive} workers, and {limit}; {mend}")
        except self.losses:
            mend = f"Use fewer of them or a smaller source.part_mb, and {CONTINUE}"
            raise UserError(f"{what}: workers died; were they killed for their memory? {mend}") from None


@contextmanager
def workers(config: ExecutorConfig, *, quiet: bool = False) -> Iterator[Workers]:
    """Start or find the workers that ``config`` names. Leaving the block by an error ends local ones at once."""
    number = config.workers or available_cores()
    if config.kind == "dask":
        with dask_workers(config, quiet=quiet) as found:
            yield found
    elif config.kind == "folder":
        start = f"start workers: padless work {config.scheduler}"
        with storing(str(config.scheduler), otherwise="name another executor.scheduler"):
            folder = Folder(Path(str(config.scheduler)))
        with folder:
            Screen(errors=True, quiet=quiet).say(start)
            yield Workers(config.timeout_s, folder, lambda: len(folder.workers), start=start)
    elif number == 1:
        yield Workers(config.timeout_s)
    else:
        with local_pool(number) as pool:
            yield Workers(config.timeout_s, pool, lambda: len(pool._processes or ()), (BrokenProcessPool,))


@contextmanager
def local_pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of this machine. Leaving the block by an error ends them at once."""
    start_tracker()
    context = multiprocessing.get_context("spawn")
    ROWS.places = context.RawArray("q", PLACES)
    with ProcessPoolExecutor(number, context, start_worker, (ROWS.places,)) as pool:
        try:
            yield pool
        except BaseException:
            left = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in left:
                process.kill()
            end_spawned()  # one that was just being started is not among them
            raise


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started in the block inherit a mask that blocks stop signals: the parent ends its workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_tracker() -> None:
    """Start Python's resource tracker with its warnings off and stop signals blocked.

    It removes the semaphores of workers that were killed, and would print a warning about them.
    """
    quiet = f"{os.environ.get('PYTHONWARNINGS', '')},ignore:resource_tracker".lstrip(",")
    with patch.dict(os.environ, PYTHONWARNINGS=quiet), stop_signals_blocked():
        resource_tracker.ensure_running()


def start_worker(places: Any) -> None:
    """Prepare a new worker: one Arrow thread, stop signals ignored, an end when the parent ends; see ``Rows``."""
    ROWS.places = places
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


def work(config: WorkConfig) -> None:
    """``padless work``: do tasks of each start of a job until it has ended.

    Raises ``UserError`` if there is no job for too long, or a process dies.
    """
    folder, quiet_s = Path(config.folder), 0.0
    make_private(folder, "folder")
    Screen().say(f"{public(config.folder)}: works for the job there; without one, waits at most {config.timeout_s:g} s")
    with keeping("other workers do its tasks"):
        while ENDED not in (names := fresh(folder)):
            started = folder / max(filter(str.isdigit, names), default="")
            with suppress(FileNotFoundError):  # no job yet, or it is over
                if age_s(started / "workers") < SILENT_S:
                    quiet_s = 0.0
                    serve(started, config.processes or available_cores())
            if quiet_s >= config.timeout_s:
                start = f"padless prepare FILE -o DATA --executor.kind folder --executor.scheduler {folder}"
                raise UserError(f"{folder}: no job for {config.timeout_s:g} s (timeout_s); start one: {start}")
            quiet_s += POLL_S
            pause()


def serve(started: Path, number: int) -> None:
    """Do tasks of one start of a job by so many processes. Raises ``FileNotFoundError`` when it is over or silent."""
    own, running = started / "workers" / f"{platform.node()}-{os.getpid()}", dict[Future[None], Path]()
    try:
        with local_pool(number) as pool:
            own.mkdir(exist_ok=True)
            while age_s(started / "workers") < SILENT_S:
                os.utime(own)
                names = fresh(started / "todo")
                for name in random.sample(names, min(max(0, number - len(running)), len(names))):
                    with suppress(FileNotFoundError):  # another worker was first
                        os.rename(started / "todo" / name, own / name)
                for task in {*own.iterdir()} - {*running.values()}:  # NFS may say that a rename failed that did not
                    with stop_signals_blocked():  # a process that this starts inherits it
                        running[pool.submit(perform, task)] = task
                if not running:
                    pause()
                for future in wait(running, POLL_S, FIRST_COMPLETED).done:
                    future.result()  # cannot hang: it is done
                    running.pop(future).unlink()
            raise FileNotFoundError
    except BrokenProcessPool:
        raise UserError(f"{own.name}: a process died; was it killed for its memory? Start fewer --processes") from None
    finally:
        give_back(own)


def pause() -> None:
    """Wait about ``POLL_S`` seconds, so that many workers do not ask at the same moment."""
    time.sleep(POLL_S * random.uniform(0.5, 1.5))


@contextmanager
def dask_workers(config: ExecutorConfig, *, quiet: bool) -> Iterator[Workers]:
    """Connect to a running scheduler by its address or its scheduler file.

    It gives the tasks of a lost worker to others (``worker-ttl``).
    """
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

    def alive() -> int:
        try:
            return len(client.nthreads(callback_timeout=SCHEDULER_S))
        except TimeoutError:
            limit = f"did not answer within {SCHEDULER_S:g} s; look after it, and {CONTINUE}"
            raise UserError(f"executor.scheduler: {address}: the scheduler {limit}") from None

    with client:
        Screen(errors=True, quiet=quiet).say(f"dask: {address}, dashboard at {client.dashboard_link}")
        losses = (KilledWorker, CommClosedError, CancelledError)
        yield Workers(config.timeout_s, client.get_executor(pure=False), alive, losses)
