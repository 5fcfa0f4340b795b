# SPDX-License-Identifier: Apache-2.0
"""What rank 0 writes and tells of a run: events to its sinks, checkpoints beside the training, bundle and status.

On every other rank, and in a dry run, ``RunWriter`` writes nothing. ``status.json`` is true from the moment the
directory is claimed to the end of the block, whatever is raised in between. What cannot be written is kept as
``failure``: one rank alone must not leave, so the run raises it on all ranks at their next meeting.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import torch

from harness.config import CheckpointConfig, RunConfig
from harness.inference.bundle import write_bundle
from harness.model.networks import AnyNetwork, build_network, load_weights
from harness.ranks import stopping
from harness.ranks.precision import Choice
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT, Preempted
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import INDEX, read_info, write_vocabulary
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.layout import storage
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import (
    State,
    claim,
    known_status,
    note_attempt,
    write_config,
    write_environment,
    write_status,
)
from harness.scores.calibration import Decision
from harness.tracking.tracking import Trackers
from harness.training.throughput import TIMING
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.terminal import Screen, tell
from preprocessing.dataset.shards import Manifest

KINDS = ("train", VALIDATION, TEST)
"""Events that are lines of ``metrics.jsonl``."""
FIRST_S = 60.0
"""The first checkpoint of a start comes so soon, since what is lost early is lost with the start itself."""
NICENESS = 19
"""Priority of the writing thread: training needs the cores more. While training waits for it, they are idle."""
Tensors = dict[str, dict[str, torch.Tensor]]
"""File of a checkpoint -> name -> tensor."""


@dataclass(frozen=True)
class Ending:
    """How a run ended, as ``status.json`` says it."""

    state: State
    step: int
    exit_code: int = 0
    reason: str = ""

    @classmethod
    def of(cls, error: BaseException | None, step: int) -> Ending:
        """The ending that an exception, or none, means."""
        if error is None:
            return cls("finished", step)
        if isinstance(error, Preempted):
            return cls("preempted", step, stopping.EXIT_CODE, str(error))
        if isinstance(error, UserError):
            return cls("failed", step, error.exit_code, str(error))
        return cls("failed", step, 1, f"{type(error).__name__}: {' '.join(str(error).split())}")


class Sink:
    """A receiver of events on rank 0. This one ignores all of them; a sink overrides those that it wants.

    No sink can end the run: what a sink cannot do it says itself, or keeps until the run asks.
    """

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """The figures of one moment, each a number, a short text or None; ``kind`` is train, validation, test, or
        another name for figures that belong to no step of the run.
        """

    def say(self, text: str) -> None:
        """A sentence for the terminal."""

    def close(self, ending: Ending) -> None:
        """The run is over, and ``status.json`` says so."""


class TrackerSink(Sink):
    """W&B and the like, each in a process of its own; the training never waits for them."""

    def __init__(self, trackers: Trackers) -> None:
        """Trackers that have been started."""
        self.trackers = trackers

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Trackers read a row from its file; what they have to say is printed. Skipped steps reach people who do not
        watch the terminal.
        """
        self.trackers.listen()
        if kind not in KINDS:
            self.trackers.summarize(kind, values)
        elif values.get("skipped"):
            text = f"{values['skipped']} steps up to step {values['step']} had a gradient that was not finite."
            self.trackers.alert("Steps were skipped", text)

    def close(self, ending: Ending) -> None:
        """Finish, within a time limit."""
        assert ending.state != "running"
        self.trackers.close(ending.state, f"{ending.reason}." if ending.state == "preempted" else ending.reason)


class Checkpointer:
    """Writes checkpoints on rank 0, from copies of the state. One write at a time: the next one waits for the last."""

    def __init__(self, run: Path, config: CheckpointConfig, device: torch.device, sync: Callable[[], None]) -> None:
        """``sync`` flushes the metrics to the disk, before a checkpoint that knows of them gets its name."""
        self.run, self.config, self.sync = run, config, sync
        self.device = device.type
        self.copies: Tensors = {}
        """On the CPU, pinned for CUDA, used again by each save."""
        self.thread: threading.Thread | None = None
        self.failure: UserError | None = None
        """What could not be written; from then on nothing is."""
        self.saved_at = time.monotonic()
        self.saved = False

    def is_due(self) -> bool:
        """Whether ``every_s`` have passed since the last checkpoint, or ``FIRST_S`` since a start that has none yet.

        Only one rank's clock may decide.
        """
        every_s = self.config.every_s if self.saved else min(FIRST_S, self.config.every_s)
        return time.monotonic() - self.saved_at >= every_s

    def save(self, tensors: Tensors, state: dict[str, Any], best: int | None, *, wait: bool) -> None:
        """Take copies and write them, in the background unless ``wait``.

        ``best``: the step of the best validation so far, whose checkpoint is kept.
        """
        self.wait()  # cannot hang: see there
        if self.failure is not None:
            return
        self.copy(tensors)
        copied = None if self.device == "cpu" else torch.cuda.Event()
        if copied is not None:
            copied.record()
        self.saved_at, self.saved = time.monotonic(), True

        def write() -> None:
            if not wait:  # on Linux a thread has a priority of its own
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
            if copied is not None:
                what = "the device to copy a checkpoint, and with it gradients"
                with HEARTBEAT.waiting(what) if wait else nullcontext():
                    copied.synchronize()
            try:
                with storage(checkpoint.path_of(self.run, state["step"])):
                    self.sync()
                    checkpoint.write(self.run, state["step"], self.copies, state)
                    checkpoint.delete(self.run, set(checkpoint.steps(self.run)[: -self.config.keep_last]) - {best})
            except UserError as error:
                self.failure = error

        if wait:
            write()
        else:
            self.thread = threading.Thread(target=write, name="padless-checkpoint", daemon=True)
            self.thread.start()

    def copy(self, tensors: Tensors) -> None:
        """One pass over memory, so that training may go on at once; on CUDA done when the stream has come this far."""
        for file, named in tensors.items():
            held = self.copies.setdefault(file, {})
            for name, tensor in named.items():
                if name not in held:
                    held[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=self.device == "cuda")
                held[name].copy_(tensor, non_blocking=True)

    def wait(self) -> None:
        """Until nothing is being written."""
        if self.thread is not None:
            # cannot hang but on a disk that never answers, which holds a process in the kernel beyond any limit of its
            # own; the other ranks give up with a sentence, and the launcher after a stop signal
            self.thread.join()
            self.thread = None


class RunWriter(Sink):
    """The files of one run, and the sinks that hear of it after them.

    A context manager: leaving it says how the run ended, to the file first and then to the sinks.
    """

    def __init__(self, config: RunConfig, *, active: bool) -> None:
        """Nothing is touched yet."""
        self.config, self.active = config, active
        self.directory = Path(config.run)
        self.bundle = self.directory / layout.BUNDLE
        self.sinks: list[Sink] = []
        self.step = 0
        """The last step that is known here."""
        self.lock: TextIO | None = None
        self.begun = False
        self.had_finished = False
        """The run that was there when this start claimed the directory had ended well."""
        self.metrics: MetricsLog | None = None
        self.unlogged: UserError | None = None
        """Why figures could not be written; from then on none are."""
        self.checkpointer: Checkpointer | None = None
        self.origin: dict[str, Any] = {}
        """What is known of where the weights come from: vectors, other weights, soft labels."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """A line: how fast it went to one file, then what was learned to the other, which trackers follow."""
        if self.metrics is not None and self.unlogged is None and kind in KINDS:
            try:
                if kind == "train":
                    timing = {key: values[key] for key in ("step", *TIMING)}
                    self.metrics.write(kind, timing, layout.THROUGHPUT)
                self.metrics.write(kind, {key: value for key, value in values.items() if key not in TIMING})
            except UserError as error:
                self.unlogged = error
        for sink in self.sinks:
            sink.log(kind, values)

    def say(self, text: str) -> None:
        """Tell all sinks."""
        for sink in self.sinks:
            sink.say(text)

    def claim(self) -> None:
        """Hold the directory against other processes. Raises ``ConfigError`` or ``StorageError``."""
        if self.active:
            self.lock = claim(self.config)
            self.had_finished = known_status(self.directory).get("state") == "finished"

    def begin(self, step: int) -> None:
        """All checks of this start have passed: it goes on from ``step``. Raises ``StorageError``."""
        self.begun = True
        self.status(step)
        if self.active:
            HEARTBEAT.last_words = self.give_up

    def open(self, session: Session, start: Checkpoint | None, choices: dict[str, Choice]) -> None:
        """Make the directory tell of this start, and hold nothing that the run has not come to yet."""
        if not self.active:
            return
        state = {"step": None, "log_bytes": {}} if start is None else start.state
        with storage(self.directory):
            checkpoint.sweep(self.directory)
            write_config(self.config)
            note_attempt(self.directory, {"processes": session.world.world_size, "resumed_from": state["step"]})
            write_environment(self.directory, {name: str(choice) for name, choice in choices.items()})
            write_vocabulary(self.bundle, Path(self.config.data))
        self.metrics = MetricsLog(self.directory, state["log_bytes"])
        for sentence in self.metrics.mended:
            Screen(errors=True).say(f"warning: {sentence}", "warn")
        self.checkpointer = Checkpointer(self.directory, self.config.checkpoint, session.device, self.metrics.sync)

    def save(self, tensors: Tensors, state: dict[str, Any], best_step: int | None, *, wait: bool) -> None:
        """A checkpoint of this moment."""
        if self.checkpointer is not None and self.metrics is not None:
            self.step = state["step"]
            whole = state | {"log_bytes": self.metrics.sizes()}
            self.checkpointer.save(tensors, whole, best_step, wait=wait)

    @property
    def failure(self) -> UserError | None:
        """What could not be written, if anything."""
        return self.unlogged or (self.checkpointer.failure if self.checkpointer is not None else None)

    def status(self, step: int) -> None:
        """Say that the run stands at ``step``. Raises ``StorageError``."""
        self.step = step
        if self.active:
            write_status(self.directory, "running", step=step)

    def keep(self, network: AnyNetwork, manifest: Manifest, step: int, decision: Decision) -> None:
        """Write the best weights so far, those of ``step``. Raises ``StorageError``."""
        if self.active:
            with storage(self.bundle):
                write_bundle(self.bundle, network, manifest, step, decision, self.origin)

    def restore_bundle(self, manifest: Manifest, step: int | None, decision: Decision) -> None:
        """Put the best weights so far back where the bundle has others, of an epoch that is now trained again.

        Raises ``DataError`` if their checkpoint is gone.
        """
        if not self.active or step is None:
            return
        if (self.bundle / INDEX).exists() and read_info(self.bundle).step == step:
            return
        path = checkpoint.path_of(self.directory, step)
        if not path.exists():
            raise DataError(f"{path}: missing: it has the best weights so far, which the bundle has not; restore it")
        best = checkpoint.verify(path)
        weights, others = best.tensors(checkpoint.MODEL), best.tensors(checkpoint.OPTIMIZER)
        weights |= {name: others[f"average.{name}"] for name in weights if f"average.{name}" in others}
        network = build_network(self.config, manifest)
        load_weights(network, weights, path / checkpoint.MODEL)
        self.keep(network, manifest, step, decision)

    def __enter__(self) -> RunWriter:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Finish what is being written, say how the run ended, then let the sinks end, which may take their time.

        Preemption is no error: the block ends quietly. A start that is refused on a run that had finished leaves it so.
        """
        HEARTBEAT.last_words = None
        if self.checkpointer is not None:
            self.checkpointer.wait()  # cannot hang: see there
        ended = error if error is not None and not isinstance(error, Preempted) else self.failure or error
        ending = Ending.of(ended, self.step)
        unwritten: UserError | None = None
        if self.lock is not None and not (self.had_finished and not self.begun and isinstance(ended, UserError)):
            if ending.state == "failed" and not isinstance(ended, UserError):  # a bug, which nothing else reports
                where = self.directory / layout.STATUS
                tell(f"error: {ending.reason} (at step {ending.step}; {where} says so too)")
            try:
                write_status(self.directory, **asdict(ending))
            except UserError as full:
                unwritten = full
                if ending.exit_code not in (0, full.exit_code):  # else it is about to be said, of this file or another
                    tell(f"warning: {full}")
        for sink in self.sinks:
            sink.close(ending)
        if self.lock is not None:
            self.lock.close()
        ended = ended or unwritten  # no job script could know that it has finished
        if ended is not None and ended is not error:
            raise ended
        return isinstance(ended, Preempted)

    def give_up(self, reason: str) -> None:
        """Another thread ends the process for a peer that is gone."""
        write_status(self.directory, "failed", step=self.step, exit_code=1, reason=reason)
