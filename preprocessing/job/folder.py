# SPDX-License-Identifier: Apache-2.0
"""A shared directory as the queue of a job, without a server: the job writes tasks, and workers on any machine
(``padless work``) do them.

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
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from preprocessing.base import atomic
from preprocessing.base.errors import UserError
from preprocessing.base.untrusted import make_private

ENDED = "ended"
SILENT_S = 120.0
"""After how long without a sign a process counts as gone; NFS shows times up to a minute late."""
TICK_S = 0.5
"""How often the job shows that it runs, and looks for results."""


class Folder(Executor):
    """Has tasks done by the workers of a directory."""

    def __init__(self, folder: Path) -> None:
        """Begin a start of a job; an earlier one loses its workers.

        Raises ``ConfigError`` if other users can write to the folder, and ``OSError``.
        """
        make_private(folder, "executor.scheduler")
        for earlier in filter(str.isdigit, os.listdir(folder)):
            atomic.vanish(folder / earlier)
        (folder / ENDED).unlink(missing_ok=True)
        self.folder, self.started = folder, folder / str(time.time_ns())
        for name in ("todo", "done", "workers"):
            (self.started / name).mkdir(parents=True)
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
