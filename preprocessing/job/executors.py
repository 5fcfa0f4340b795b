# SPDX-License-Identifier: Apache-2.0
"""The executors of a job's parts: this process, processes of this machine, the workers of a shared directory or of a
Dask cluster.

Every wait has a limit, and workers that died are noticed long before it.

A shared directory needs no server: the job writes tasks, and workers on any machine (``padless work``) do them.

    DIR/                        only this user can write there, since it holds pickles
        ended                   the job is over: workers leave
        1764327663000000000/    one start of the job
            todo/17             a task: a function and its arguments
            workers/            touched twice a second while the job runs
            workers/HOST-PID/   touched every second while this worker runs; a task that it takes is moved there
            done/17             what the task returned or raised

A task is moved by a rename, which succeeds for one worker, also on NFS. A worker that touches nothing for two minutes
counts as gone, and its tasks are done by others; should it come back, it writes the same bytes once more. A job that
starts again has a new folder, so nothing of an earlier start is taken for its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pickle
import platform
import random
import signal
import threading
import time
import traceback
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
from unittest.mock import patch

import pyarrow as pa

from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError, UserError
from preprocessing.base.processes import SIGNALS, available_cores, end_spawned, keeping
from preprocessing.base.terminal import Screen, public
from preprocessing.base.untrusted import make_private, one_line
from preprocessing.config import ExecutorConfig, WorkConfig

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
AHEAD, FEWEST = 8, 4
"""Tasks of each worker that are submitted before a result is read, since results wait in memory; and for how many
workers at least.
"""
SCHEDULER_S = 60.0
"""How long a Dask scheduler may take to answer."""
CONTINUE = "run the same command to continue"
ENDED = "ended"
SILENT_S = 120.0
"""After how long without a sign a process counts as gone; NFS shows times up to a minute late."""
TICK_S = 0.5
"""How often the job shows that it runs, and looks for results."""


class Rows:
    """The rows that tasks of this process have done, for the progress."""

    done = 0

    def add(self, rows: int) -> None:
        """Called by a task with the number of rows that it has done, while it runs."""
        self.done += rows


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
                    if len(waiting) >= AHEAD * max(alive, FEWEST):
                        break
                if not waiting:
                    return
                done, _ = wait(waiting, POLL_S, FIRST_COMPLETED)
                quiet_s = 0.0 if done else quiet_s + POLL_S
                for future in done:
                    yield waiting.pop(future), future.result()  # cannot hang: it is done
                if quiet_s >= self.timeout_s:
                    raise UserError(
                        f"{what}: none of {len(waiting)} tasks was finished by {alive} workers within "
                        f"{self.timeout_s:g} s (executor.timeout_s); look after the workers, and {CONTINUE}"
                    )
        except self.losses:
            raise UserError(
                f"{what}: workers died; were they killed for their memory? Use fewer of them or a smaller "
                f"source.part_mb, and {CONTINUE}"
            ) from None

    def ordered(self, function: Callable[[Task], Result], tasks: Iterable[Task], *, what: str) -> list[Result]:
        """The results of ``map``, in the order of the tasks."""
        every = list(tasks)
        found = {id(task): result for task, result in self.map(function, every, what=what)}
        return [found[id(task)] for task in every]


@contextmanager
def workers(config: ExecutorConfig, *, quiet: bool = False) -> Iterator[Workers]:
    """Start or find the workers that ``config`` names. Leaving the block by an error ends local ones at once."""
    number = config.workers or available_cores()
    if config.kind == "dask":
        with dask_workers(config, quiet=quiet) as found:
            yield found
    elif config.kind == "folder":
        with atomic.storing(str(config.scheduler), otherwise="name another executor.scheduler"):
            folder = Folder(Path(str(config.scheduler)))
        with folder:
            Screen(errors=True, quiet=quiet).say(f"start workers: padless work {config.scheduler}")
            yield Workers(config.timeout_s, folder, lambda: len(folder.workers))
    elif number == 1:
        yield Workers(config.timeout_s)
    else:
        with local_pool(number) as pool:
            yield Workers(config.timeout_s, pool, lambda: len(pool._processes or ()), (BrokenProcessPool,))


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
def local_pool(number: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of this machine. Leaving the block by an error ends them at once."""
    start_tracker()
    with ProcessPoolExecutor(number, WorkerContext(), start_worker) as pool:
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
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
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


class Folder(Executor):
    """Has tasks done by the workers of a directory."""

    def __init__(self, folder: Path) -> None:
        """Begin a start of a job; an earlier one loses its workers.

        Raises ``ConfigError`` if other users can write to the folder, and ``OSError``.
        """
        make_private(folder, "executor.scheduler")
        for earlier in filter(str.isdigit, os.listdir(folder)):
            if atomic.is_signed(folder / earlier, folder):
                atomic.vanish(folder / earlier)
        (folder / ENDED).unlink(missing_ok=True)
        self.folder, self.started = folder, folder / str(time.time_ns())
        for name in ("todo", "done", "workers"):
            (self.started / name).mkdir(parents=True)
        atomic.sign(self.started, folder)
        self.numbers, self.waiting = itertools.count(), dict[str, Future[Any]]()
        self.workers, self.left = list[str](), threading.Event()
        threading.Thread(target=self.watch, daemon=True).start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Write a task. Raises ``OSError``."""
        number = str(next(self.numbers))
        future = self.waiting[number] = Future[Any]()
        place(self.started / "todo" / number, (fn, args))
        return future

    def watch(self) -> None:
        """Take results, and give tasks of lost workers to others, until the job is over or the folder is gone."""
        workers, results = self.started / "workers", self.started / "done"
        try:
            while not self.left.wait(TICK_S):
                self.workers = fresh(workers)
                for name in self.workers:
                    give_back(workers / name, SILENT_S)
                for name in fresh(results):
                    settle, outcome = pickle.loads((results / name).read_bytes())
                    (results / name).unlink()
                    settle(self.waiting.pop(name, Future()), outcome)  # done twice: nobody waits any more
        except Exception as error:
            why = atomic.refusal(error, self.folder) if isinstance(error, OSError) else error
            for future in list(self.waiting.values()):
                future.set_exception(why)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Let the workers go; if the job was told to stop, they wait for its next start."""
        self.left.set()
        with suppress(FileNotFoundError):  # another start has taken its place
            atomic.vanish(self.started)
            if not isinstance(error, KeyboardInterrupt):
                (self.folder / ENDED).touch()


def place(path: Path, value: object) -> None:
    """Pickle a value to a file of a start's folder, whole or not at all; it need not survive a power cut."""
    temporary = atomic.unfinished(path.parents[1] / path.name)
    temporary.write_bytes(pickle.dumps(value))
    os.replace(temporary, path)


def perform(task: Path) -> None:
    """Do a task that a worker has taken, and store what it returned or raised.

    Raises ``FileNotFoundError`` if it was taken away, and ``OSError``.
    """
    data, settled = task.read_bytes(), tuple[Any, ...]()
    try:
        function, arguments = pickle.loads(data)
        settled = Future.set_result, function(*arguments)
    except Exception as error:
        settled = Future.set_exception, error
        if not isinstance(error, UserError):
            traceback.print_exc()
    place(task.parents[2] / "done" / task.name, settled)


def fresh(folder: Path) -> list[str]:
    """The names in a folder. It is touched first: else NFS may show those of up to a minute ago."""
    os.utime(folder)
    return os.listdir(folder)


def age_s(path: Path) -> float:
    """For how many seconds a path has not been touched, by the clock of its file system."""
    os.utime(path.parent)
    return path.parent.stat().st_mtime - path.stat().st_mtime


def give_back(worker: Path, silent_s: float = 0.0) -> None:
    """Move the tasks of a worker to those that are to be done, and remove its folder, if it is silent for so long."""
    with suppress(OSError):  # it is gone; or it is there after all, and takes or finishes tasks
        if age_s(worker) >= silent_s:
            for task in worker.iterdir():
                os.replace(task, worker.parents[1] / "todo" / task.name)
            worker.rmdir()


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
        client = Client(**how, timeout=SCHEDULER_S)
        client.wait_for_workers(1, timeout=SCHEDULER_S)
    except (OSError, ValueError) as error:
        why = f"no scheduler with workers answers there ({one_line(error)})"
        raise ConfigError(f"executor.scheduler: {address}: {why}") from None

    def alive() -> int:
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
        yield Workers(config.timeout_s, client.get_executor(pure=False), alive, losses)
