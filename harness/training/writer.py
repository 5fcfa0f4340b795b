# SPDX-License-Identifier: Apache-2.0
"""The run directory as rank 0 writes it; on every other rank, and in a dry run, an object that writes nothing.

Whatever cannot be written is kept as ``failure``: one rank alone must not leave, so the run raises it on all ranks at
their next meeting.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TextIO

from harness.config import RunConfig
from harness.inference.bundle import write_bundle
from harness.model.classifier import Classifier
from harness.ranks import preemption
from harness.ranks.precision import Choice
from harness.ranks.preemption import Preempted
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import write_vocabulary
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.configuration import write_config
from harness.rundir.environment import write_environment
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.status import State, note_attempt, write_status
from harness.rundir.storage import claim, storage
from harness.scores.calibration import Decision
from harness.training.checkpointer import Checkpointer
from harness.training.state import load_weights
from harness.training.trainer import Trainer
from preprocessing.base.errors import DataError, StorageError, UserError
from preprocessing.dataset.shards import Manifest


class RunWriter:
    """Status, metrics, checkpoints and bundle of one run."""

    def __init__(self, config: RunConfig, *, active: bool) -> None:
        """Nothing is touched yet."""
        self.config, self.active = config, active
        self.directory = Path(config.run)
        self.bundle = self.directory / layout.BUNDLE
        self.lock: TextIO | None = None
        self.log: MetricsLog | None = None
        self.checkpointer: Checkpointer | None = None
        self.failed: StorageError | None = None

    def claim(self) -> None:
        """Hold the directory against other processes. Raises ``ConfigError`` or ``StorageError``."""
        if self.active:
            self.lock = claim(self.config)

    def open(self, trainer: Trainer, start: Checkpoint | None, choices: dict[str, Choice]) -> None:
        """Make the directory tell of this start, and hold nothing that the run has not come to yet."""
        if not self.active:
            return
        processes = trainer.world.world_size
        effective = {name: str(choice) for name, choice in choices.items()}
        with storage(self.directory):
            checkpoint.sweep(self.directory)
            write_config(self.config)
            self.status("running", trainer.step)
            resumed_from = None if start is None else start.step
            note_attempt(self.directory, {"processes": processes, "resumed_from": resumed_from})
            write_environment(self.directory, effective)
            write_vocabulary(self.bundle, Path(self.config.data))
        self.log = MetricsLog(self.directory, {} if start is None else start.state["log_bytes"])
        device = trainer.accelerator.device
        self.checkpointer = Checkpointer(self.directory, self.config.checkpoint, device, self.log.sync)
        self.checkpointer.prepare(trainer)

    def line(self, kind: str, values: dict[str, Any], name: str = layout.METRICS) -> None:
        """A line of a metrics file."""
        if self.log is None or self.failed is not None:
            return
        try:
            self.log.write(kind, values, name)
        except StorageError as error:
            self.failed = error

    def save(self, trainer: Trainer, state: dict[str, Any], best_step: int | None, *, wait: bool) -> None:
        """A checkpoint of this moment."""
        if self.checkpointer is None or self.log is None:
            return
        try:
            self.checkpointer.save(trainer, state | {"log_bytes": self.log.sizes()}, best_step, wait=wait)
        except StorageError as error:
            self.failed = self.failed or error

    def is_due(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        return self.checkpointer is not None and self.checkpointer.is_due()

    @property
    def failure(self) -> StorageError | None:
        """What could not be written, if anything."""
        return self.failed or (self.checkpointer.failure if self.checkpointer is not None else None)

    def status(self, state: State, step: int, *, exit_code: int = 0, reason: str = "") -> None:
        """Say where the run stands. Raises ``StorageError``."""
        if self.active:
            write_status(self.directory, state, step=step, exit_code=exit_code, reason=reason)

    def keep(self, classifier: Classifier, manifest: Manifest, step: int, decision: Decision) -> None:
        """Write the best weights so far. Raises ``StorageError``."""
        if self.active:
            with storage(self.bundle):
                write_bundle(self.bundle, classifier, manifest, step, decision)

    def keep_from_checkpoint(self, manifest: Manifest, step: int, decision: Decision) -> None:
        """Put the best weights so far back, which the bundle no longer or not yet holds. Raises ``DataError``."""
        path = checkpoint.path_of(self.directory, step)
        if not path.exists():
            raise DataError(f"{path}: missing: it has the best weights so far, which the bundle has not; restore it")
        best = checkpoint.verify(path)
        weights, others = best.tensors(checkpoint.MODEL), best.tensors(checkpoint.OPTIMIZER)
        weights |= {name: others[f"average.{name}"] for name in weights if f"average.{name}" in others}
        classifier = Classifier(self.config.model, manifest.vocabulary_size, len(manifest.labels))
        load_weights(classifier, weights, best)
        self.keep(classifier, manifest, step, decision)

    def finish_writing(self) -> StorageError | None:
        """Wait for what is being written; what could not be written."""
        if self.checkpointer is not None:
            try:
                self.checkpointer.wait()
            except StorageError as error:
                self.failed = self.failed or error
        return self.failure

    def end(self, error: BaseException | None, step: int, reason: str) -> None:
        """Write how the run ended; ``reason`` says why it was preempted. A full disk is said on stderr alone."""
        try:
            if error is None:
                self.status("finished", step)
            elif isinstance(error, Preempted):
                self.status("preempted", step, exit_code=preemption.EXIT_CODE, reason=reason)
            elif isinstance(error, UserError):
                self.status("failed", step, exit_code=error.exit_code, reason=str(error))
            else:
                what = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self.status("failed", step, exit_code=1, reason=what)
                print(f"error: {what} (at step {step}; {self.directory / layout.STATUS} says so too)", file=sys.stderr)
        except StorageError as full:
            print(f"warning: {full}", file=sys.stderr)
        if self.log is not None:
            self.log.close()
