# SPDX-License-Identifier: Apache-2.0
"""The run directory while this process trains in it: lock, status, metrics, checkpoints; and events for the observers.

On every rank but 0, and in a dry run, ``RunWriter`` writes nothing. ``status.json`` is correct from the moment the
directory is claimed to the end of the block, also after an exception. An error in writing is kept in ``failure``: one
rank must not stop alone, so the run raises it on all ranks at their next synchronisation.

``Checkpointer`` says when checkpoints are written and which are kept; the bytes are ``rundir.checkpoint``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from harness.batch import record_event
from harness.config import CheckpointConfig, RunConfig
from harness.distributed.session import Session
from harness.distributed.stopping import HEARTBEAT, Preempted
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.events import Observer, Observers
from harness.rundir.layout import claim_run, storage
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import (
    Ending,
    note_attempt,
    read_status,
    write_config,
    write_environment,
    write_status,
)
from harness.training.throughput import TIMING
from harness.training.trainer import Tensors
from padless.core.errors import UserError
from padless.core.signals import PREEMPTED
from padless.core.terminal import print_stderr
from preprocessing.dataset.remote import local

MAX_FIRST_S = 60.0
"""Latest time of the first checkpoint, so that an early failure does not lose the startup work."""


def ending_of(error: BaseException | None, step: int) -> Ending:
    """How a run ended, by its exception, or by none."""
    if error is None:
        return Ending("finished", step)
    if isinstance(error, Preempted):
        return Ending("preempted", step, PREEMPTED, str(error))
    if isinstance(error, UserError):
        return Ending("failed", step, error.exit_code, str(error))
    return Ending("failed", step, 1, f"{type(error).__name__}: {' '.join(str(error).split())}")


class Checkpointer:
    """Writes checkpoints on rank 0, from copies of the state; one at a time."""

    def __init__(self, run: Path, config: CheckpointConfig, device: torch.device, sync: Callable[[], None]) -> None:
        """``sync`` flushes the metrics to disk; called before each checkpoint, which stores the size of their files."""
        self.run, self.config, self.sync = run, config, sync
        self.device = device
        self.copies: Tensors = {}
        """On the CPU, pinned for CUDA; reused by each save."""
        self.thread: threading.Thread | None = None
        self.failure: Exception | None = None
        """The first error in writing; nothing is written after it."""
        self.due_at = time.monotonic() + min(MAX_FIRST_S, config.every_s)

    def is_due(self) -> bool:
        """Whether ``every_s`` have passed since the last checkpoint, or ``MAX_FIRST_S`` since the start without one.

        Call it on one rank only: clocks differ.
        """
        return time.monotonic() >= self.due_at

    def save(self, tensors: Tensors, state: dict[str, Any], *, wait: bool) -> None:
        """Copy the state and write it, in the background unless ``wait``. The checkpoint of the best validation so far
        is kept.
        """
        self.wait()  # cannot hang: see there
        if self.failure is not None:
            return
        self.copy(tensors)
        copied = record_event(self.device)
        self.due_at = time.monotonic() + self.config.every_s

        def write() -> None:
            try:
                self.write(state, copied, wait=wait)
            except Exception as error:  # an exception in a thread is not reported otherwise
                self.failure = error

        if wait:
            write()
        else:
            self.thread = threading.Thread(target=write, name="padless-checkpoint", daemon=True)
            self.thread.start()

    def write(self, state: dict[str, Any], copied: torch.cuda.Event | None, *, wait: bool) -> None:
        """Write the copied tensors and ``state``, after ``copied`` confirms that they are complete; then remove old
        checkpoints. Raises ``StorageError``.
        """
        if copied is not None:
            device = "the device to copy a checkpoint, and with it gradients"
            with HEARTBEAT.watch_wait(device) if wait else nullcontext():
                copied.synchronize()
        with storage(checkpoint.checkpoint_path(self.run, state["step"])):
            self.sync()
            checkpoint.write(self.run, state["step"], self.copies, state)
            old_steps = set(checkpoint.steps(self.run)[: -self.config.keep_last])
            checkpoint.delete(self.run, old_steps - {state["selection"]["best_step"]})

    def copy(self, tensors: Tensors) -> None:
        """Copy the tensors, so that training can continue at once; on CUDA asynchronous, in stream order."""
        for file, tensor_by_name in tensors.items():
            copies = self.copies.setdefault(file, {})
            for name, tensor in tensor_by_name.items():
                if name not in copies:
                    copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device.type == "cuda")
                copies[name].copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Wait for the current write, if any."""
        if self.thread is not None:
            # cannot hang, except on a disk that does not respond: the process then blocks in the kernel, where it
            # cannot enforce a limit; the other ranks time out with a message, the launcher after a stop signal
            self.thread.join()
            self.thread = None


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
        if self.metrics is not None and self.metrics_error is None:
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
        state: dict[str, Any] = {"step": None, "seconds": 0.0} if start is None else start.state
        with storage(self.directory):
            checkpoint.sweep_run(self.directory)
            write_config(self.config)
            note_attempt(self.directory, {"processes": session.world.world_size, "resumed_from": state["step"]})
            write_environment(self.directory, settings)
            write_vocabulary(self.directory / layout.BUNDLE, local(self.config.data))
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
