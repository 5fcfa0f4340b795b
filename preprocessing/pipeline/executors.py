# SPDX-License-Identifier: Apache-2.0
"""The executors of a job's parts: this process, processes of this machine, or the workers of a Dask cluster; and the
share of a job's parts that this command makes, where several machines work on one job without a server.

Every wait has a limit, and workers that died are noticed long before it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from padless.core.errors import ConfigError, UserError
from padless.core.processes import available_cores
from padless.core.terminal import Screen
from padless.core.untrusted import one_line
from preprocessing.config import ExecutorConfig
from preprocessing.pipeline.pool import ProcessPool, WorkerDiedError

Task = TypeVar("Task")
Result = TypeVar("Result")
POLL_S = 1.0
MAX_TASKS_AHEAD = 64
"""How many tasks are submitted before a result is read, since results wait in memory."""
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

    @classmethod
    def parse(cls, text: str | None) -> Share:
        """``3/8`` as share 3 of 8; 8/8 is 0/8, so shares may be counted from 0 or from 1. None: the whole job."""
        if text is None:
            return cls()
        index, count = map(int, text.split("/"))
        return cls(index % count, count)

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
    """Longest time in which no task finishes and none makes a file."""
    executor: Executor | None = None
    loss_errors: tuple[type[BaseException], ...] = ()
    """What a task raises when its worker is gone for good."""
    share: Share = Share()
    """Which parts of a job this command makes."""

    def map(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], *, step: str, folder: Path | None = None
    ) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result, in the order in which tasks finish. A single task runs in this process.

        ``tasks`` is read while the first ones already run. A new file in ``folder`` shows that a long task goes on.
        Raises what a task raises, and ``UserError`` when nothing happens within the limit or a worker process ends.
        """
        remaining = iter(tasks)
        first_tasks = list(itertools.islice(remaining, 2))
        if len(first_tasks) < 2 or self.executor is None:
            for task in itertools.chain(first_tasks, remaining):
                yield task, function(task)
            return
        remaining = itertools.chain(first_tasks, remaining)
        task_by_future: dict[Future[Result], Task] = {}
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
        yield Workers(config.timeout_s, share=share)
    else:
        with ProcessPool(num_workers) as pool:
            yield Workers(config.timeout_s, pool, (WorkerDiedError,), share)


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
        yield Workers(config.timeout_s, client.get_executor(pure=False), losses)
