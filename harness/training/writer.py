# SPDX-License-Identifier: Apache-2.0
"""The run directory as rank 0 writes it; on every other rank, and in a dry run, an object that writes nothing.

``status.json`` is true from the moment the directory is claimed to the end of the block, whatever is raised in between.
What cannot be written is kept as ``failure``: one rank alone must not leave, so the run raises it on all ranks at their
next meeting.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from harness.config import RunConfig
from harness.inference.bundle import write_bundle
from harness.model.networks import AnyNetwork, build_network
from harness.ranks.precision import Choice
from harness.ranks.stopping import HEARTBEAT, Preempted
from harness.rundir import checkpoint, layout
from harness.rundir.bundle_files import INDEX, read_info, write_vocabulary
from harness.rundir.checkpoint import Checkpoint
from harness.rundir.layout import storage
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import claim, known_status, note_attempt, write_config, write_environment, write_status
from harness.training.checkpointer import Checkpointer, Tensors, load_weights
from harness.training.sinks import Ending, MetricsFiles, Sinks
from harness.training.trainer import Trainer
from harness.training.validation import Selection
from preprocessing.base.errors import DataError, UserError
from preprocessing.base.terminal import Screen, tell
from preprocessing.dataset.shards import Manifest


class RunWriter:
    """Status, checkpoints and bundle of one run, and the sinks that hear of it.

    A context manager: leaving it says how the run ended, to the file first and then to the sinks.
    """

    def __init__(self, config: RunConfig, *, active: bool) -> None:
        """Nothing is touched yet."""
        self.config, self.active = config, active
        self.directory = Path(config.run)
        self.bundle = self.directory / layout.BUNDLE
        self.sinks = Sinks()
        self.step = 0
        """The last step that is known here."""
        self.lock: TextIO | None = None
        self.begun = False
        self.had_finished = False
        """The run that was there when this start claimed the directory had ended well."""
        self.files: MetricsFiles | None = None
        self.checkpointer: Checkpointer | None = None
        self.failed: UserError | None = None
        self.origin: dict[str, dict[str, Any] | None] = {}
        """What is known of where the weights come from: vectors, other weights, soft labels."""

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

    def open(self, trainer: Trainer, start: Checkpoint | None, choices: dict[str, Choice]) -> None:
        """Make the directory tell of this start, and hold nothing that the run has not come to yet."""
        if not self.active:
            return
        effective = {name: str(choice) for name, choice in choices.items()}
        attempt = {"processes": trainer.world.world_size, "resumed_from": None if start is None else start.step}
        with storage(self.directory):
            checkpoint.sweep(self.directory)
            write_config(self.config)
            note_attempt(self.directory, attempt)
            write_environment(self.directory, effective)
            write_vocabulary(self.bundle, Path(self.config.data))
        log = MetricsLog(self.directory, {} if start is None else start.state["log_bytes"])
        for sentence in log.mended:
            Screen(errors=True).say(f"warning: {sentence}", "warn")
        self.files = MetricsFiles(log)
        self.sinks.add(self.files, first=True)
        self.checkpointer = Checkpointer(self.directory, self.config.checkpoint, trainer.device, log.sync)

    def save(self, tensors: Tensors, state: dict[str, Any], best_step: int | None, *, wait: bool) -> None:
        """A checkpoint of this moment."""
        if self.checkpointer is None or self.files is None:
            return
        self.step = state["step"]
        try:
            whole = state | {"log_bytes": self.files.files.sizes()}
            self.checkpointer.save(tensors, whole, best_step, wait=wait)
        except UserError as error:
            self.failed = self.failed or error

    def is_due(self) -> bool:
        """Whether a checkpoint is due by the clock."""
        return self.checkpointer is not None and self.checkpointer.is_due()

    @property
    def failure(self) -> UserError | None:
        """What could not be written, if anything."""
        parts = (self.files, self.checkpointer)
        return self.failed or next((part.failure for part in parts if part is not None and part.failure), None)

    def status(self, step: int) -> None:
        """Say that the run stands at ``step``. Raises ``StorageError``."""
        self.step = step
        if self.active:
            write_status(self.directory, "running", step=step)

    def keep(self, classifier: AnyNetwork, manifest: Manifest, selection: Selection) -> None:
        """Write the best weights so far. Raises ``StorageError``."""
        if self.active:
            assert selection.best_step is not None
            with storage(self.bundle):
                best = (selection.best_step, selection.decision)
                write_bundle(self.bundle, classifier, manifest, *best, self.origin)

    def restore_bundle(self, manifest: Manifest, selection: Selection) -> None:
        """Put the best weights so far back where the bundle has others, of an epoch that is now trained again.

        Raises ``DataError`` if their checkpoint is gone.
        """
        step = selection.best_step
        if not self.active or step is None or bundle_step(self.bundle) == step:
            return
        path = checkpoint.path_of(self.directory, step)
        if not path.exists():
            raise DataError(f"{path}: missing: it has the best weights so far, which the bundle has not; restore it")
        best = checkpoint.verify(path)
        weights, others = best.tensors(checkpoint.MODEL), best.tensors(checkpoint.OPTIMIZER)
        weights |= {name: others[f"average.{name}"] for name in weights if f"average.{name}" in others}
        classifier = build_network(self.config, manifest)
        load_weights(classifier, weights, path / checkpoint.MODEL)
        self.keep(classifier, manifest, selection)

    def __enter__(self) -> RunWriter:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Finish what is being written, say how the run ended, then let the sinks end, which may take their time.

        Preemption is no error: the block ends quietly.
        """
        HEARTBEAT.last_words = None
        if self.checkpointer is not None:
            try:
                self.checkpointer.wait()  # cannot hang: see there
            except UserError as late:
                self.failed = self.failed or late
        ended = error if error is not None and not isinstance(error, Preempted) else self.failure or error
        ending = Ending.of(ended, self.step)
        unwritten = None
        if self.lock is not None and not self.is_refusal(ended):
            unwritten = self.write_ending(ending, said=isinstance(ended, UserError))
        self.sinks.close(ending)
        if self.lock is not None:
            self.lock.close()
        if ended is None and unwritten is not None:  # no job script could know that it has finished
            raise unwritten
        if ended is not None and ended is not error:
            raise ended
        return isinstance(ended, Preempted)

    def give_up(self, reason: str) -> None:
        """Another thread ends the process for a peer that is gone."""
        write_status(self.directory, "failed", step=self.step, exit_code=1, reason=reason)

    def is_refusal(self, error: BaseException | None) -> bool:
        """Whether a start was refused on a run that had finished, which stays so."""
        return self.had_finished and not self.begun and isinstance(error, UserError)

    def write_ending(self, ending: Ending, *, said: bool) -> UserError | None:
        """Write how the run ended; print what nothing else reports: a bug, or a full disk. Returns why it failed."""
        if ending.state == "failed" and not said:
            where = self.directory / layout.STATUS
            tell(f"error: {ending.reason} (at step {ending.step}; {where} says so too)")
        facts = {"step": ending.step, "exit_code": ending.exit_code, "reason": ending.reason}
        try:
            write_status(self.directory, ending.state, **facts)  # type: ignore[arg-type]
        except UserError as full:
            if ending.exit_code not in (0, full.exit_code):  # else it is about to be said, of this file or another
                print(f"warning: {full}", file=sys.stderr)
            return full
        return None


def bundle_step(bundle: Path) -> int | None:
    """The step of the weights in a bundle; None where there is none."""
    return read_info(bundle).step if (bundle / INDEX).exists() else None
