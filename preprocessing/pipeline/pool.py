# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine that run the tasks of a job.

A worker is a new Python process that reads pickled tasks from its standard input and answers with pickled results. It
imports what its tasks need and not the caller's script, which may lack the guard for ``__main__``. It ends when its
input is closed, so it never outlives the command, however that ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from padless.core.signals import SIGNALS

START = "import sys; sys.path = sys.argv[1:]; from preprocessing.pipeline.pool import serve; serve()"


class WorkerDiedError(Exception):
    """A worker ended in the middle of a task."""


class ProcessPool(Executor):
    """An executor of worker processes, which start with the first task; a context manager that kills them."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.workers = list[subprocess.Popen[bytes]]()
        self.idle_workers = SimpleQueue[subprocess.Popen[bytes]]()
        self.threads = ThreadPoolExecutor(num_workers)
        """A thread for each worker waits for its results."""

    def submit(self, function: Callable[..., Any], /, *tasks: Any, **_: Any) -> Future[Any]:
        """Run a function of one task in a worker. Raises ``OSError`` if no process can be started."""
        while len(self.workers) < self.num_workers:
            words, pipe = [sys.executable, "-c", START, *sys.path], subprocess.PIPE
            # in a session of its own: signals from the keyboard are for the command alone
            self.workers.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, start_new_session=True))
            self.idle_workers.put(self.workers[-1])
        return self.threads.submit(self.run, function, *tasks)

    def run(self, function: Callable[[Any], Any], task: Any) -> Any:
        """The result of a function in an idle worker. Raises what it raises, and ``WorkerDiedError``."""
        worker = self.idle_workers.get()  # cannot hang: there are as many threads as workers
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            pickle.dump((function, task), worker.stdin)
            worker.stdin.flush()
            is_done, value = pickle.load(worker.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise WorkerDiedError from None
        finally:
            self.idle_workers.put(worker)
        if not is_done:
            raise value
        return value

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Kill the workers, whatever they do."""
        for worker in self.workers:
            worker.kill()
        self.threads.shutdown(wait, cancel_futures=cancel_futures)
        for worker in self.workers:
            with suppress(BrokenPipeError), worker:  # closes the pipes
                worker.wait()  # cannot hang: it was killed


def serve() -> None:
    """Run the tasks that come through standard input, one at a time."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no result
    tasks = SimpleQueue[tuple[Callable[[Any], Any], Any]]()
    threading.Thread(target=receive_tasks, args=(tasks,), daemon=True).start()
    while True:
        function, task = tasks.get()  # cannot hang: the process ends with its parent's pipe
        try:
            data = pickle.dumps((True, function(task)))
        except Exception as error:
            data = pickle.dumps((False, error))
        results.write(data)
        results.flush()


def receive_tasks(tasks: SimpleQueue[Any]) -> None:
    """Read tasks until the command ends; then this process ends at once, also in the middle of a task."""
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)
