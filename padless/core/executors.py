# SPDX-License-Identifier: Apache-2.0
"""Who runs the tasks of a job: this process, processes of this machine, or the workers of a Dask cluster; and the share
of the tasks that this command runs, where several machines work on one job without a server.

Every wait has a limit, and workers that died are noticed long before it.
"""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pyarrow as pa

from padless.core.errors import ConfigError, UserError, require
from padless.core.processes import available_cores, signal_on_parents_death
from padless.core.schema import Name, Processes, ShareText, Wait
from padless.core.signals import SIGNALS
from padless.core.terminal import Screen
from padless.core.untrusted import one_line

Input = TypeVar("Input")
Result = TypeVar("Result")
POLL_S = 1.0
MAX_TASKS_AHEAD = 64
"""How many tasks are submitted before a result is read, since results wait in memory."""
SCHEDULER_S = 60.0
"""How long a Dask scheduler may take to answer."""
CONTINUE = "run the same command to continue"
SERVE = "import sys; sys.path = sys.argv[1:]; from padless.core.executors import serve; serve()"


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
        """Check that the share is one of its number."""
        if self.share is not None:
            index, count = map(int, self.share.split("/"))
            require(index <= count, "executor.share", self.share, f"from 0/{count} to {count}/{count}")
            require(self.scheduler is None, "executor.share", self.share, "null with executor.scheduler")


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
    def parse(cls, text: str | None) -> Share:
        """``3/8`` as share 3 of 8; 8/8 is 0/8, so shares may be counted from 0 or from 1. None: the whole job."""
        index, count = map(int, (text or "0/1").split("/"))
        return cls(index % count, count)

    @property
    def is_leader(self) -> bool:
        """Whether it completes the result of all shares."""
        return self.index == 0


@dataclass(frozen=True)
class Workers:
    """Runs tasks with an executor, or in this process."""

    timeout_s: float
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
        super().__init__(num_workers)  # a thread for each process waits for its results
        self.num_workers = num_workers
        self.processes = list[subprocess.Popen[bytes]]()
        self.idle_processes = SimpleQueue[subprocess.Popen[bytes]]()

    def submit(self, function: Callable[..., Any], /, *tasks: Any, **_: Any) -> Future[Any]:
        """Run a function of one task in a process. Raises ``OSError`` if none can be started."""
        if len(self.processes) < self.num_workers:
            words, pipe = [sys.executable, "-c", SERVE, *sys.path], subprocess.PIPE
            # in a session of its own: signals from the keyboard are for the command alone
            self.processes.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True))
            self.idle_processes.put(self.processes[-1])
        return super().submit(self.run_in_process, function, *tasks)

    def run_in_process(self, function: Callable[[Any], Any], task: Any) -> Any:
        """The result of a function in an idle process. Raises what it raises, and ``BrokenExecutor``."""
        process = self.idle_processes.get()  # cannot hang: each thread has a process, or submit started it
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((function, task), process.stdin)
            process.stdin.flush()
            is_done, value = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise BrokenExecutor from None
        finally:
            self.idle_processes.put(process)
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
    signal_on_parents_death(signal.SIGKILL)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no result
    with suppress(EOFError):
        while True:
            function, task = pickle.load(sys.stdin.buffer)
            try:
                data = pickle.dumps((True, function(task)))
            except Exception as error:
                data = pickle.dumps((False, error))
            try:
                results.write(data)
                results.flush()
            except BrokenPipeError:  # the command has ended
                os._exit(1)


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
        Screen(errors=True, quiet=quiet).print_text(f"dask: {address}, dashboard at {client.dashboard_link}")
        losses = (KilledWorker, CommClosedError, CancelledError)
        yield Workers(config.timeout_s, client.get_executor(pure=False), quiet=quiet, loss_errors=losses)
