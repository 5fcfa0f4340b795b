# SPDX-License-Identifier: Apache-2.0
"""Output of rank 0: events to sinks, checkpoints in a background thread, bundle and status.

On every other rank, and in a dry run, ``RunWriter`` writes nothing. ``status.json`` is correct from the moment the
directory is claimed to the end of the block, also after an exception. An error in writing is kept in ``failure``: one
rank must not stop alone, so the run raises it on all ranks at their next synchronisation.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from harness.config import CheckpointConfig, RunConfig
from harness.inference.bundle import write_bundle
from harness.model.networks import AnyNetwork, build_network, load_weights
from harness.ranks import stopping
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT, Preempted
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import INDEX, read_info, write_vocabulary
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.layout import storage
from harness.rundir.metrics_log import KINDS, MetricsLog
from harness.rundir.records import (
    Ending,
    claim,
    note_attempt,
    read_status,
    write_config,
    write_environment,
    write_status,
)
from harness.scores.calibration import Decision
from harness.tracking.tracking import Sink
from harness.training.throughput import TIMING
from harness.training.trainer import Tensors
from preprocessing.base.errors import UserError
from preprocessing.base.split_names import TEST
from preprocessing.base.terminal import tell
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import home_of

FIRST_S = 60.0
"""Latest time of the first checkpoint, so that an early failure does not lose the startup work."""
NICENESS = 19
"""Niceness of the writing thread: training has priority, except while it waits for the thread."""


def ending_of(error: BaseException | None, step: int) -> Ending:
    """How a run ended, by its exception, or by none."""
    if error is None:
        return Ending("finished", step)
    if isinstance(error, Preempted):
        return Ending("preempted", step, stopping.EXIT_CODE, str(error))
    if isinstance(error, UserError):
        return Ending("failed", step, error.exit_code, str(error))
    return Ending("failed", step, 1, f"{type(error).__name__}: {' '.join(str(error).split())}")


class Checkpointer:
    """Writes checkpoints on rank 0, from copies of the state; one at a time."""

    def __init__(self, run: Path, config: CheckpointConfig, device: torch.device, sync: Callable[[], None]) -> None:
        """``sync`` flushes the metrics to disk; called before each checkpoint, which stores the size of their files."""
        self.run, self.config, self.sync = run, config, sync
        self.device = device.type
        self.copies: Tensors = {}
        """On the CPU, pinned for CUDA; reused by each save."""
        self.thread: threading.Thread | None = None
        self.failure: Exception | None = None
        """The first error in writing; nothing is written after it."""
        self.due_at = time.monotonic() + min(FIRST_S, config.every_s)

    def is_due(self) -> bool:
        """Whether ``every_s`` have passed since the last checkpoint, or ``FIRST_S`` since the start without one.

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
        copied = None if self.device == "cpu" else torch.cuda.Event()
        if copied is not None:
            copied.record()
        self.due_at = time.monotonic() + self.config.every_s

        def write() -> None:
            try:
                self.write(state, copied, wait=wait)
            except Exception as error:  # in a thread nobody would learn of it
                self.failure = error

        if wait:
            write()
        else:
            self.thread = threading.Thread(target=write, name="padless-checkpoint", daemon=True)
            self.thread.start()

    def write(self, state: dict[str, Any], copied: torch.cuda.Event | None, *, wait: bool) -> None:
        """Write the copied tensors and ``state``, after ``copied`` says that they are whole; then remove old
        checkpoints. Raises ``StorageError``.
        """
        if not wait:  # on Linux, per thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        if copied is not None:
            device = "the device to copy a checkpoint, and with it gradients"
            with HEARTBEAT.waiting(device) if wait else nullcontext():
                copied.synchronize()
        with storage(checkpoint.path_of(self.run, state["step"])):
            self.sync()
            checkpoint.write(self.run, state["step"], self.copies, state)
            old = set(checkpoint.steps(self.run)[: -self.config.keep_last])
            checkpoint.delete(self.run, old - {state["selection"]["best_step"]})

    def copy(self, tensors: Tensors) -> None:
        """Copy the tensors, so that training can continue at once; on CUDA asynchronous, in stream order."""
        for file, named in tensors.items():
            held = self.copies.setdefault(file, {})
            for name, tensor in named.items():
                if name not in held:
                    held[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device == "cuda")
                held[name].copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Wait for the current write, if any."""
        if self.thread is not None:
            # cannot hang, except on a disk that does not respond: the process then blocks in the kernel, where it
            # cannot enforce a limit; the other ranks time out with a message, the launcher after a stop signal
            self.thread.join()
            self.thread = None


class RunWriter(Sink):
    """Writes the files of one run, then passes each event to the sinks.

    A context manager: on exit it writes how the run ended to ``status.json``, then closes the sinks.
    """

    def __init__(self, config: RunConfig, *, active: bool) -> None:
        """Touches no file yet."""
        self.config, self.active = config, active
        self.directory = Path(config.run)
        self.bundle = self.directory / layout.BUNDLE
        self.sinks: list[Sink] = []
        self.step = 0
        """The latest known step."""
        self.began = time.monotonic()
        """The start of the run; of a resumed one, as many seconds ago as it had taken up to its checkpoint."""
        self.lock: TextIO | None = None
        self.begun = False
        self.had_finished = False
        """When this start claimed the directory, it held a finished run."""
        self.metrics: MetricsLog | None = None
        self.unlogged: UserError | None = None
        """The first error in writing figures; none are written after it."""
        self.checkpointer: Checkpointer | None = None
        self.origin: dict[str, Any] = {}
        """Origin of the weights: vectors, pretrained weights."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Write timing figures to one file, then all others to ``metrics.jsonl``, which trackers follow."""
        if self.metrics is not None and self.unlogged is None and kind in KINDS:
            try:
                if kind != TEST:
                    timing = {key: values[key] for key in ("step", *TIMING) if key in values}
                    self.metrics.write(kind, timing, layout.THROUGHPUT)
                self.metrics.write(kind, {key: value for key, value in values.items() if key not in TIMING})
            except UserError as error:
                self.unlogged = error
        for sink in self.sinks:
            sink.log(kind, values)

    @property
    def seconds(self) -> float:
        """Time that the run has taken, with vectors and linear part, without what an interruption lost."""
        return round(time.monotonic() - self.began, 3)

    def say(self, text: str) -> None:
        """Pass a sentence to all sinks."""
        for sink in self.sinks:
            sink.say(text)

    def claim(self) -> None:
        """Lock the directory against other processes. Raises ``ConfigError`` or ``StorageError``."""
        if self.active:
            self.lock = claim(self.config)
            self.had_finished = read_status(self.directory).get("state") == "finished"

    def go_on(self, step: int) -> None:
        """Called after all checks have passed: the run continues from ``step``. Raises ``StorageError``."""
        self.begun = True
        for sink in self.sinks:
            sink.begin()
        self.status(step)
        if self.active:
            HEARTBEAT.last_words = self.give_up

    def open(self, session: Session, start: Checkpoint | None, settings: dict[str, str]) -> None:
        """Write the files that describe this start, and remove what is newer than the checkpoint."""
        if not self.active:
            return
        state = {"step": None, "log_bytes": {}, "seconds": 0.0} if start is None else start.state
        with storage(self.directory):
            checkpoint.sweep(self.directory)
            write_config(self.config)
            note_attempt(self.directory, {"processes": session.world.world_size, "resumed_from": state["step"]})
            write_environment(self.directory, settings)
            write_vocabulary(self.bundle, home_of(self.config.data))
        self.began -= state["seconds"]
        self.metrics = MetricsLog(self.directory, state)
        self.checkpointer = Checkpointer(self.directory, self.config.checkpoint, session.device, self.metrics.sync)

    def save(self, tensors: Tensors, state: dict[str, Any], *, wait: bool) -> None:
        """Write a checkpoint."""
        if self.checkpointer is not None and self.metrics is not None:
            self.step = state["step"]
            whole = state | self.metrics.state() | {"seconds": self.seconds}
            self.checkpointer.save(tensors, whole, wait=wait)

    @property
    def failure(self) -> Exception | None:
        """The first error in writing, if any."""
        return self.unlogged or (self.checkpointer.failure if self.checkpointer is not None else None)

    def status(self, step: int) -> None:
        """Write ``step`` to ``status.json``. Raises ``StorageError``."""
        self.step = step
        if self.active:
            write_status(self.directory, Ending("running", step))

    def keep(self, network: AnyNetwork, manifest: Manifest, step: int, decision: Decision) -> None:
        """Write the best weights so far, of ``step``, as the bundle. Raises ``StorageError``."""
        if self.active:
            with storage(self.bundle):
                write_bundle(self.bundle, network, manifest, step, decision, **self.origin)

    def restore_bundle(self, manifest: Manifest, step: int | None, decision: Decision) -> None:
        """Restore the best weights from their checkpoint if the bundle is of a later epoch, which is trained again.

        Raises ``DataError`` if that checkpoint is missing.
        """
        if not self.active or step is None:
            return
        if (self.bundle / INDEX).exists() and read_info(self.bundle).step == step:
            return
        best = checkpoint.verify(checkpoint.path_of(self.directory, step))
        weights, others = best.tensors(checkpoint.MODEL), best.tensors(checkpoint.OPTIMIZER)
        weights |= {name: others[f"average.{name}"] for name in weights if f"average.{name}" in others}
        network = build_network(self.config, manifest)
        load_weights(network, weights, best.path)
        self.keep(network, manifest, step, decision)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Wait for the current write, write how the run ended, then close the sinks, which may take a while.

        Preemption raises no exception. If a finished run refuses this start, its status stays finished.
        """
        HEARTBEAT.last_words = None
        if self.checkpointer is not None:
            self.checkpointer.wait()  # cannot hang: see there
        ended = error if error is not None and not isinstance(error, Preempted) else self.failure or error
        ending = ending_of(ended, self.step)
        unwritten: UserError | None = None
        if self.lock is not None and not (self.had_finished and not self.begun and isinstance(ended, UserError)):
            if isinstance(ended, Exception) and not isinstance(ended, UserError | Preempted):  # a bug, told only here
                where = self.directory / layout.STATUS
                tell(f"error: {ending.reason} (at step {ending.step}; also in {where})")
            try:
                write_status(self.directory, ending)
            except UserError as full:
                unwritten = full
                if ending.exit_code not in (0, full.exit_code):  # else raised below, for this file or another
                    tell(f"warning: {full}")
        for sink in self.sinks:
            sink.close(ending)
        if self.lock is not None:
            self.lock.close()
        ended = ended or unwritten  # else a job script never learns that the run has finished
        if ended is not None and ended is not error:
            raise ended
        return isinstance(ended, Preempted)

    def give_up(self, reason: str) -> None:
        """Record a failure; called by the watchdog thread before it ends the process."""
        write_status(self.directory, Ending("failed", self.step, 1, reason))
