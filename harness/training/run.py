# SPDX-License-Identifier: Apache-2.0
"""One training run: its parts built in order, what happens at its milestones, and its state on disk."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from harness.config import RunConfig, to_dict
from harness.data import order
from harness.data.checks import TEST, TRAIN, VALIDATION, check_dataset, check_fit, check_useful
from harness.data.residency import DataPlacement, OpenData
from harness.evaluate import Scores, assess, describe, describe_calibration, numbers_of, score, write_results
from harness.inference.bundle import INDEX, read_bundle, read_info
from harness.model.classifier import Classifier
from harness.ranks import preemption
from harness.ranks.precision import Choice
from harness.ranks.preemption import Preempted, StopWatch
from harness.ranks.session import Session
from harness.report.page import write_report_quietly
from harness.rundir import checkpoint, layout
from harness.scores.calibration import Decision, decide
from harness.scores.metrics import classification_metrics
from harness.tracking.trackers import check_trackers
from harness.tracking.tracking import Trackers
from harness.training import resume
from harness.training.assembly import build_trainer, longest_step
from harness.training.console import Console
from harness.training.flops import synchronize
from harness.training.probe import rehearse
from harness.training.requests import Wish
from harness.training.state import describe as describe_state
from harness.training.state import restore
from harness.training.throughput import TIMING, memory_bytes
from harness.training.trainer import Milestones
from harness.training.writer import RunWriter
from preprocessing.base import atomic
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Manifest


class Run(Milestones):
    """Builds everything a run needs on this rank, and keeps ``status.json`` true until the end.

    A context manager: leaving it writes the final state, whatever ended the block.
    """

    def __init__(self, config: RunConfig, session: Session) -> None:
        """Check, agree with the other ranks, then build. Raises the same ``UserError`` on every rank."""
        self.config, self.session, self.world = config, session, session.world
        self.directory = Path(config.run)
        self.record = RunWriter(config, active=self.world.is_main and not config.dry_run)
        self.choices = dict(session.choices)
        self.best: float | None = None
        self.best_step: int | None = None
        self.epochs_since_best = 0
        self.decision = Decision()
        self.manifest, self.start = self._agree()
        self.data = OpenData(DataPlacement.of(config), self.manifest, TRAIN, self.world, session.device)
        self.choices |= self.data.choices
        with self.world.together("staging the dataset"):
            self.data.copy()
        with self.world.together("opening the dataset"):
            self.data.open()
        self.splits = self.data.splits
        self.trainer = build_trainer(config, session, self.manifest, self.data, self.choices, self)
        with self.world.together("loading the checkpoint"):
            self._load()
        with self.world.together("opening the run directory"):
            self.watch = StopWatch(self.directory, config.max_time_s, is_main=self.record.active)
            self.record.open(self.trainer, self.start, self.choices)
            self._restore_bundle()
        self.console = Console(self.trainer.total_steps, self.trainer.step) if self.world.is_main else None
        effective = {name: str(choice) for name, choice in self.choices.items()}
        facts = {"dataset": self.manifest.fingerprint, "effective": effective}
        self.trackers = Trackers(config, self.directory, active=self.record.active, facts=facts)
        if self.console is not None:
            self.console.start(config, self.manifest, self.choices)

    def _agree(self) -> tuple[Manifest, checkpoint.Checkpoint | None]:
        """Check what was asked for, that all ranks were asked the same, and where the run goes on from."""
        config, world = self.config, self.world
        start = None
        with world.together("the checks before training"):
            if world.is_main:
                check_trackers(config.tracking)
                self.record.claim()
                told = layout.LAUNCH_ID in os.environ  # by the launcher
                start = resume.find_resume_point(config, (lambda text: None) if told else say).checkpoint
            manifest = check_dataset(config.data, hashes=world.is_main)
            check_fit(config, manifest, world.world_size)
            check_useful(config, manifest, world.world_size)
            if config.optim.gradient_compression != "none" and self.session.device.type != "cuda":
                raise ConfigError("optim.gradient_compression: bf16 gradients need CUDA devices; leave it at none here")
            if start is not None:
                resume.check_dataset(start, manifest, config)
        settings = hashlib.sha256(atomic.canonical_json(to_dict(config))).hexdigest()[:16]
        facts = {"configuration": settings, "dataset": manifest.fingerprint[:16], "torch": torch.__version__}
        world.handshake(facts)
        step = world.gather_objects(None if start is None else start.step, "where the run goes on from")[0]
        with world.together("reading the checkpoint"):
            if step is not None and start is None:
                start = checkpoint.verify(checkpoint.path_of(config.run, step))
        return manifest, start

    def _load(self) -> None:
        """Put every part where the checkpoint was taken."""
        if self.start is None:
            return
        state = self.start.state
        restore(self.trainer, self.start)
        if state["select"] == self.config.select:
            self.best, self.best_step = state["best"], state["best_step"]
            self.epochs_since_best, self.decision = state["epochs_since_best"], Decision(**state["decision"])
        self.choices["resume"] = Choice(f"step {self.start.step:,}", "newest checkpoint that verifies")
        before = len(state["counted"])
        if before != self.world.world_size:
            now = self.world.world_size
            self.choices["processes"] = Choice(str(now), f"{before} before: the same global batches, other rounding")

    def _restore_bundle(self) -> None:
        """The bundle may hold later weights than the best so far, of an epoch that is now trained again."""
        path = self.record.bundle / INDEX
        if self.best_step is None or not self.record.active:
            return
        if not path.exists() or read_info(self.record.bundle).step != self.best_step:
            self.record.keep_from_checkpoint(self.manifest, self.best_step, self.decision)

    def train(self) -> None:
        """Train to the end and test, or save and raise ``Preempted`` on all ranks at a common step."""
        try:
            self._pause()
            self.trainer.fit()
            self.test()
        except Preempted:
            self.save(wait=True)
            raise

    def rehearse(self) -> None:
        """A dry run: one real step of the longest batch, what it needs, and what a full run would take."""
        loader, trainer = self.trainer.loader, self.trainer
        step = longest_step(loader)
        (batch,) = loader.steps(0, step, step + 1)
        trainer.model.train()

        def update() -> int:
            trainer.update(batch)
            trainer.agreement.receive()
            synchronize(self.session.device)
            return sum(micro.num_tokens for micro in batch.micro_batches)

        cost = rehearse(update, lambda: memory_bytes(self.session.device))
        tokens = sum(shard.tokens for shard in self.manifest.splits[TRAIN]) * self.config.epochs
        if self.console is not None:
            self.console.rehearsal(cost, batch.global_rows, tokens // self.world.world_size)

    def after_step(self, wishes: set[Wish]) -> None:
        """Act on what the ranks agreed on, then say what this rank wants next."""
        preemption.beat()
        if Wish.FAIL in wishes:
            self._raise_failure()
        if Wish.STOP in wishes:
            raise Preempted
        every = self.config.checkpoint.every_steps
        if Wish.SAVE in wishes or (every is not None and self.trainer.step % every == 0):
            self.save()
        agreement = self.trainer.agreement
        if self.watch.reason() is not None:
            agreement.ask(Wish.STOP)
        if self.record.is_due():
            agreement.ask(Wish.SAVE)
        if self.record.failure is not None:
            agreement.ask(Wish.FAIL)

    def after_epoch(self) -> None:
        """Save; what could not be written since the last epoch ends the run here at the latest."""
        self.save()
        self._raise_failure()

    def save(self, *, wait: bool = False) -> None:
        """A checkpoint of this moment; every rank gives its share, rank 0 writes."""
        self.trainer.guard.flush(self.trainer.current_lr())
        counted = self.trainer.meter.partial(self.world)
        if not self.record.active:
            return
        state = describe_state(self.trainer, counted) | {
            "best": self.best,
            "best_step": self.best_step,
            "epochs_since_best": self.epochs_since_best,
            "decision": asdict(self.decision),
            "select": self.config.select,
            "dataset": self.manifest.fingerprint,
            "text_hash": self.manifest.text_hash,
            "order_version": order.VERSION,
            "config": to_dict(self.config),
            "versions": {"torch": torch.__version__, "padless": layout.installed_version("padless")},
        }
        self.record.save(self.trainer, state, self.best_step, wait=wait)

    def _raise_failure(self) -> None:
        """Raise what rank 0 could not write, on every rank."""
        with self.world.together("the files of the run"):
            if self.record.failure is not None:
                raise self.record.failure

    def _pause(self) -> None:
        """Leave, on all ranks, if any of them was asked to; where no gradients travel: before the first step and
        between the batches of an evaluation.
        """
        preemption.beat()
        wanted = np.array([int(self.watch.reason() is not None)])
        if self.world.gather_numbers(wanted, "whether to stop").any():
            raise Preempted

    def report(self, figures: dict[str, Any]) -> None:
        """A log line."""
        learned = {key: value for key, value in figures.items() if key not in TIMING}
        speed = {key: figures[key] for key in ("step", *TIMING)}
        self.record.line("train", learned)
        self.record.line("train", speed, layout.THROUGHPUT)
        self.trackers.write("train", figures)
        if figures["skipped"]:
            text = f"{figures['skipped']} steps up to step {figures['step']} had a gradient that was not finite."
            self.trackers.alert("Steps were skipped", text)
        if self.console is not None:
            self.console.line(figures)

    def score(self, split: str, classifier: Classifier) -> tuple[Scores, dict[str, Any]]:
        """Scores and metrics of a split, on every rank."""
        scores = score(
            classifier,
            self.splits[split],
            self.world,
            batch_rows=self.config.eval_batch,
            layout=self.session.layout,
            device=self.session.device,
            pause=self._pause,
            guard=self.data.guard.check_sizes,
        )
        return scores, classification_metrics(scores.logits, scores.labels)

    def validate(self, epoch: int, step: int) -> bool:
        """Exact validation; the weights are kept if they are the best so far. Whether to stop here."""
        with self.world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        classifier = self.trainer.objective.classifier
        scores, values = self.score(VALIDATION, classifier)
        selected = values["accuracy"] if self.config.select == "accuracy" else -values["log_loss"]
        better = self.best is None or selected > self.best or not np.isfinite(self.best)
        self.epochs_since_best = 0 if better else self.epochs_since_best + 1
        if better:
            self.best, self.best_step = selected, step
            self.decision = decide(scores.logits, scores.labels, self.config.evaluation)
            with self.world.together("keeping the best weights"):
                self.record.keep(classifier, self.manifest, step, self.decision)
        line = {"step": step, "epoch": epoch + 1, **numbers_of(values), "best": better}
        self.record.line(VALIDATION, line)
        self.trackers.write(VALIDATION, line)
        with self.world.together("saying where the run stands"):
            self.record.status("running", step)
        stop = self.config.patience is not None and self.epochs_since_best >= self.config.patience
        if self.console is not None:
            self.console.say(f"epoch {epoch + 1} validation: {describe(values)}{' (best so far)' if better else ''}")
            if stop:
                self.console.say(f"stopping: no better validation for {self.epochs_since_best} epochs (patience)")
        return stop

    def test(self) -> None:
        """Load the best weights and measure them, once, on the test split if the dataset has one."""
        with self.world.together("loading the best weights"):
            bundle = read_bundle(self.directory / layout.BUNDLE)
        self.world.handshake({"weights": bundle.info.weights_sha256})
        if TEST not in self.splits:
            if self.console is not None:
                self.console.say(f"no test: {self.config.data} has no test split")
            return
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        scores, _ = self.score(TEST, classifier)
        values: dict[str, Any] = {}
        with self.world.together("writing the test's results"), layout.storage(self.directory):
            if self.world.is_main:
                values = assess(scores, bundle, self.splits[TEST])
                write_results(self.directory, TEST, scores, self.manifest, values)
        if self.world.is_main:
            line = {"step": self.trainer.step, **numbers_of(values)}
            self.record.line(TEST, line)
            self.trackers.write(TEST, line)
        if self.console is not None:
            self.console.say(f"test, weights of step {bundle.info.step}: {describe(values)}")
            self.console.say(f"test, {describe_calibration(values)}")
        self._raise_failure()

    def __enter__(self) -> Run:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Finish what is being written, say how the run ended, then close the trackers, which may take their time.

        Preemption is no error.
        """
        failure = self.record.finish_writing()
        ended = error if error is not None and not isinstance(error, Preempted) else failure or error
        reason = self.watch.reason() or "another rank was asked to stop"
        if self.record.active:
            self.record.end(ended, self.trainer.step, reason)
        if isinstance(ended, Preempted):
            self.watch.clear()
        if self.console is not None and not self.config.dry_run:
            if ended is None:
                write_report_quietly(self.directory)
                self.console.end(self.directory)
            elif isinstance(ended, Preempted):
                self.console.say(f"stopped at step {self.trainer.step:,}: {reason}; the same command goes on from here")
        if ended is None:
            self.trackers.close("finished")
        elif isinstance(ended, Preempted):
            self.trackers.close("preempted", f"{reason}.")
        else:
            self.trackers.close("failed", str(ended))
        if ended is not None and ended is not error:
            raise ended
        return isinstance(ended, Preempted)


def say(text: str) -> None:
    """A line on stdout, at once."""
    print(text, flush=True)
