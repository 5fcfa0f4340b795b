# SPDX-License-Identifier: Apache-2.0
"""The run directory while this process trains in it: lock, status, metrics, checkpoints; and events for the observers.

On every rank but 0, and in a dry run, ``RunWriter`` writes nothing. ``status.json`` is correct from the moment the
directory is claimed to the end of the block, also after an exception. An error in writing is kept in ``failure``: one
rank must not stop alone, so the run raises it on all ranks at their next synchronisation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from harness.config import RunConfig
from harness.distributed.session import Session
from harness.distributed.stopping import HEARTBEAT, Preempted
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.events import Observer, Observers
from harness.rundir.layout import claim_run, storage
from harness.rundir.metrics_log import KINDS, MetricsLog
from harness.rundir.records import (
    Ending,
    note_attempt,
    read_status,
    write_config,
    write_environment,
    write_status,
)
from harness.training.checkpointer import Checkpointer
from harness.training.throughput import TIMING
from harness.training.trainer import Tensors
from padless.core.errors import UserError
from padless.core.signals import PREEMPTED
from padless.core.terminal import print_stderr
from preprocessing.dataset.views import home_of


def ending_of(error: BaseException | None, step: int) -> Ending:
    """How a run ended, by its exception, or by none."""
    if error is None:
        return Ending("finished", step)
    if isinstance(error, Preempted):
        return Ending("preempted", step, PREEMPTED, str(error))
    if isinstance(error, UserError):
        return Ending("failed", step, error.exit_code, str(error))
    return Ending("failed", step, 1, f"{type(error).__name__}: {' '.join(str(error).split())}")


class RunWriter:
    """Writes the files of one run, then passes events to the observers.

    A context manager: on exit it writes how the run ended to ``status.json``, then closes the observers.
    """

    def __init__(self, config: RunConfig, observers: Sequence[Observer], *, active: bool) -> None:
        """Touches no file yet."""
        self.config, self.active = config, active
        self.directory = Path(config.run)
        self.observers = Observers(observers)
        self.step = 0
        """The latest known step."""
        self.started = time.monotonic()
        """The start of the run; of a resumed one, as many seconds ago as it had taken up to its checkpoint."""
        self.lock: TextIO | None = None
        self.keeps_status = False
        """The directory holds a finished run, and this start has not passed its checks."""
        self.metrics: MetricsLog | None = None
        self.metrics_error: UserError | None = None
        """The first error in writing figures; none are written after it."""
        self.checkpointer: Checkpointer | None = None

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Write timing figures to one file, then all others to ``metrics.jsonl``, which trackers follow."""
        if self.metrics is not None and self.metrics_error is None and kind in KINDS:
            try:
                timing = {key: values[key] for key in ("step", *TIMING) if key in values}
                self.metrics.write(kind, timing, layout.THROUGHPUT)
                self.metrics.write(kind, {key: value for key, value in values.items() if key not in TIMING})
            except UserError as error:
                self.metrics_error = error
        self.observers.log(kind, values)

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with vectors and linear part, without what an interruption lost."""
        return round(time.monotonic() - self.started, 3)

    def claim(self) -> None:
        """Lock the directory against other processes. Raises ``ConfigError`` or ``StorageError``."""
        if self.active:
            self.lock = claim_run(self.directory)
            self.keeps_status = read_status(self.directory).get("state") == "finished"

    def go_on(self, step: int) -> None:
        """Called after all checks have passed: the run continues from ``step``. Raises ``StorageError``."""
        self.keeps_status = False
        self.observers.begin()
        self.write_step(step)
        if self.active:
            HEARTBEAT.last_words = self.write_failure

    def open(self, session: Session, start: Checkpoint | None, settings: dict[str, str]) -> None:
        """Write the files that describe this start, and remove what is newer than the checkpoint."""
        if not self.active:
            return
        state = {"step": None, "log_bytes": {}, "seconds": 0.0} if start is None else start.state
        with storage(self.directory):
            checkpoint.sweep_run(self.directory)
            write_config(self.config)
            note_attempt(self.directory, {"processes": session.world.world_size, "resumed_from": state["step"]})
            write_environment(self.directory, settings)
            write_vocabulary(self.directory / layout.BUNDLE, home_of(self.config.data))
        self.started -= state["seconds"]
        self.metrics = MetricsLog(self.directory, state)
        self.checkpointer = Checkpointer(self.directory, self.config.checkpoint, session.device, self.metrics.sync)

    def save(self, tensors: Tensors, state: dict[str, Any], *, wait: bool) -> None:
        """Write a checkpoint."""
        if self.checkpointer is not None and self.metrics is not None:
            self.step = state["step"]
            state = state | self.metrics.state() | {"seconds": self.seconds}
            self.checkpointer.save(tensors, state, wait=wait)

    @property
    def failure(self) -> Exception | None:
        """The first error in writing, if any."""
        return self.metrics_error or (self.checkpointer.failure if self.checkpointer is not None else None)

    def write_step(self, step: int) -> None:
        """Write ``step`` to ``status.json``. Raises ``StorageError``."""
        self.step = step
        if self.active:
            write_status(self.directory, Ending("running", step))

    def write_failure(self, reason: str) -> None:
        """Record a failure; called by the watchdog thread before it ends the process."""
        write_status(self.directory, Ending("failed", self.step, 1, reason))

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Wait for the current write, write how the run ended, then close the observers, which may take a while.

        Preemption raises no exception. If a finished run refuses this start, its status stays finished.
        """
        HEARTBEAT.last_words = None
        if self.checkpointer is not None:
            self.checkpointer.wait()  # cannot hang: see there
        is_failure = error is not None and not isinstance(error, Preempted)
        cause = error if is_failure else self.failure or error
        ending = ending_of(cause, self.step)
        storage_error = self.write_ending(ending, cause)
        self.observers.close(ending)
        if self.lock is not None:
            self.lock.close()
        cause = cause or storage_error  # else a job script never learns that the run has finished
        if cause is not None and cause is not error:
            raise cause
        return isinstance(cause, Preempted)

    def write_ending(self, ending: Ending, cause: BaseException | None) -> UserError | None:
        """Write the end to ``status.json``; the error if that fails, which is printed beside another one."""
        if self.lock is None or (self.keeps_status and isinstance(cause, UserError)):
            return None
        if isinstance(cause, Exception) and not isinstance(cause, UserError | Preempted):  # a bug, reported only here
            path = self.directory / layout.STATUS
            print_stderr(f"error: {ending.reason} (at step {ending.step}; also in {path})")
        try:
            write_status(self.directory, ending)
        except UserError as error:
            if ending.exit_code not in (0, error.exit_code):  # else raised, for this file or another
                print_stderr(f"warning: {error}")
            return error
        return None
