# SPDX-License-Identifier: Apache-2.0
"""The trainer's side of the trackers: processes that can neither stop nor slow the training (law 8).

Each tracker has its own process (``observer.py``), which follows ``metrics.jsonl``. Everything else passes between it
and the trainer through the tracker's journal. A tracker that hangs, raises or dies costs a warning and a bounded wait
at the end.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from harness.config import RunConfig, to_dict
from harness.rundir.layout import TRACKING
from harness.rundir.metrics_log import KINDS
from harness.rundir.records import Ending
from harness.tracking.journal import Journal
from harness.tracking.trackers import active_trackers
from preprocessing.base.errors import DataError

FINISH_S, SHORT_FINISH_S = 30.0, 15.0
"""How long a run's end waits for a tracker; the short time if the run did not finish."""
KILL_AFTER_S = 3.0
"""An observer exits when its time is up. Otherwise it is killed after this extra time."""
KILLED_S = 1.0
"""How long to wait until a killed process has ended."""
LAUNCHED = ("ACCELERATE_", "FSDP_", "GROUP_", "LOCAL_", "MASTER_", "PET_", "ROLE_", "TORCHELASTIC_")
"""Prefixes of variables that would make the observer a rank of this run."""
RANKED = {"RANK", "WORLD_SIZE", "NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_ASYNC_ERROR_HANDLING"}


class Sink:
    """A receiver of events on rank 0. Ignores all events; subclasses override the ones that they handle.

    A sink never ends the run: it reports its own errors, or keeps them until the run asks.
    """

    def begin(self) -> None:
        """All checks have passed; sinks that are added later do not hear it."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Receive figures, each a number, a short text or None; ``kind`` is one of ``KINDS``, or another name for
        figures that belong to no step.
        """

    def say(self, text: str) -> None:
        """Receive a sentence for the terminal."""

    def close(self, ending: Ending) -> None:
        """The run has ended; ``status.json`` is written already."""


class Trackers(Sink):
    """Every tracker of a run."""

    def __init__(self, config: RunConfig, run: Path, *, facts: Mapping[str, Any]) -> None:
        """Start one observer for each tracker of ``config``, without waiting for any.

        ``metrics.jsonl`` must be truncated to the resumed step before. ``facts`` are facts of the run besides its
        configuration; ``facts["dataset"]`` is the fingerprint.
        """
        settings = config.tracking
        start = {
            "project": settings.project,
            "name": settings.name or run.resolve().name,
            "tags": list(settings.tags),
            "log_bundle": settings.log_bundle,
            "config": to_dict(config),
            "facts": dict(facts),
            "pid": os.getpid(),
            "finish_s": FINISH_S,
        }
        self.observers = [Observer(name, run, start) for name in active_trackers(settings)]

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Print new messages of the trackers, which read rows from ``metrics.jsonl``; note what is in no row: figures
        of the whole run, such as those of a baseline.
        """
        for observer in self.observers:
            observer.listen()
            if kind not in KINDS:
                observer.note(summary={"name": kind, "values": values})

    def close(self, ending: Ending) -> None:
        """Finish the trackers within ``FINISH_S`` and ``KILL_AFTER_S``; none is left running."""
        began = time.monotonic()
        for observer in self.observers:
            observer.close(ending.state)
        for observer in self.observers:
            observer.wait(began)
        self.observers = []


class Observer:
    """The trainer's handle of one tracker's process. Only ``wait`` blocks, and nothing raises."""

    def __init__(self, name: str, run: Path, start: dict[str, Any]) -> None:
        """Start the process of the tracker ``name``, which reads ``start`` from the tracker's journal."""
        self.name, self.run, self.log = name, run, run / TRACKING / f"{name}.log"
        self.warned = self.closing = False
        self.limit_s = FINISH_S
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.journal = Journal(run, name)
            self.journal.note(start=start)
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "harness.tracking.observer", name, str(run.absolute())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=observer_environment(os.environ),
                    start_new_session=True,  # not in the trainer's process group, which gets signals
                )
        except (OSError, DataError) as error:
            self.warn(f"could not be started ({getattr(error, 'strerror', error)})")

    def note(self, **line: Any) -> None:
        """Append a line to the journal; it is lost if that cannot be written."""
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.journal.note(**line)

    def listen(self) -> None:
        """Print new messages of the process, and notice its end."""
        if self.process is None:
            return
        has_ended = self.process.poll() is not None  # first: after its end it says nothing more
        with contextlib.suppress(OSError, DataError):
            for line in self.journal.new():
                if "say" in line:
                    tell(f"{self.name:<10} {line['say']}", sys.stdout)
                if "warn" in line:
                    self.warn(line["warn"])
        if has_ended:
            self.process = None
            if not self.closing:
                self.warn(f"stopped; {self.log} says why")

    def warn(self, what: str) -> None:
        """Print the first warning only; later ones follow from it and are in the log."""
        if not self.warned:
            rest = f"; padless wandb-sync {self.run} sends what is missing" if self.name == "wandb" else ""
            tell(f"warning: {self.name} {what}; training is not affected{rest}", sys.stderr)
        self.warned = True

    def close(self, state: str) -> None:
        """Note how the run ended, and the tracker's time limit to finish."""
        self.listen()
        self.closing = True
        self.limit_s = FINISH_S if state == "finished" else SHORT_FINISH_S
        self.note(end={"state": state, "limit_s": self.limit_s})

    def wait(self, began: float) -> None:
        """Wait until the process has ended, then kill what is left of it and its children."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.0, began + self.limit_s + KILL_AFTER_S - time.monotonic()))
        self.listen()
        if self.process is not None:
            self.warn(f"did not finish within {self.limit_s:.0f} s, and was stopped")
            kill_tree(self.process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a process that hangs in the kernel is left behind
                self.process.wait(KILLED_S)


def tell(line: str, stream: TextIO) -> None:
    """Print a line; ignore a closed terminal."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=stream, flush=True)


def kill_tree(pid: int, *, spare_root: bool = False) -> None:
    """SIGKILL a process and its descendants in all sessions; ``spare_root`` spares the process itself."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [*root.children(recursive=True), *([] if spare_root else [root])]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def observer_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without the variables of a rank: an observer must not join the process group."""
    ours = {key: value for key, value in environment.items() if key not in RANKED and not key.startswith(LAUNCHED)}
    return ours | {"OMP_NUM_THREADS": "1"}
