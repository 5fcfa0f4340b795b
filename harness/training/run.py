# SPDX-License-Identifier: Apache-2.0
"""One training run: what happens at its milestones, on every rank."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.config import RunConfig, to_dict
from harness.data import order
from harness.data.checks import TRAIN, VALIDATION
from harness.data.placement import OpenData
from harness.inference.scoring import measure
from harness.model.classifier import Classifier
from harness.model.language import LanguageObjective
from harness.ranks.distributed import PendingMaximum, World
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT, Preempted, StopWatch
from harness.rundir.records import installed_version
from harness.scores.calibration import calibrated_log_loss, decide
from harness.scores.figures import numbers_of
from harness.scores.metrics import classification_metrics
from harness.training.console import Console
from harness.training.probe import rehearse
from harness.training.trainer import Milestones, Trainer
from harness.training.validation import Scorer, Selection
from harness.training.writer import RunWriter
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import Manifest


@dataclass
class Run(Milestones):
    """Trains, validates, saves and tests; ``training.assembly`` puts its parts together."""

    config: RunConfig
    session: Session
    manifest: Manifest
    data: OpenData
    scorer: Scorer
    trainer: Trainer
    selection: Selection
    requests: RankRequests
    watch: StopWatch
    writer: RunWriter
    console: Console | None
    """None on ranks other than 0."""
    interrupted: bool = False
    """A rank was told to stop before the weights were what the run begins with."""

    def train(self) -> None:
        """Train to the end and test, or save and raise ``Preempted`` on all ranks at a common step."""
        if self.interrupted:
            raise self.preempted()
        HEARTBEAT.in_loop, HEARTBEAT.step = True, self.trainer.step
        try:
            self.pause()
            self.trainer.fit()
            self.finish()
            self.raise_failure()
        except Preempted:
            self.save(wait=True)
            self.watch.clear()
            raise

    def finish(self) -> None:
        """Measure the best weights, once, and say how good they are."""
        self.show("testing")
        test = self.scorer.test(self.writer.directory, self.trainer.step, self.writer.sinks, self.pause)
        with self.session.world.together("saying how good the best weights are"):
            if self.console is not None:
                self.console.results(test)

    def rehearse(self) -> None:
        """A dry run: a few real steps of the longest batch, what they need, and what a full run would take."""
        cost = rehearse(self.trainer)
        tokens = sum(shard.tokens for shard in self.manifest.splits[TRAIN]) * self.config.epochs
        if self.config.order.unlabelled_batch:
            shards = self.manifest.splits[UNLABELLED]
            of_step = sum(shard.tokens for shard in shards) * self.config.order.unlabelled_batch
            tokens += self.trainer.total_steps * of_step // self.manifest.rows(UNLABELLED)
        if self.console is not None:
            self.console.rehearsal(cost, tokens // self.session.world.world_size)

    def after_step(self) -> None:
        """Act on what the ranks asked for at the step before, then say what this rank asks for now."""
        step = self.writer.step = HEARTBEAT.step = self.trainer.step
        self.act_on(self.requests.receive())
        every = self.config.checkpoint.every_steps
        if every is not None and step % every == 0:
            self.save()
        self.requests.send(self.wanted(), step)
        self.show()

    def before_validation(self) -> None:
        """Act on what was asked for at the last step; no request travels until the next epoch."""
        self.act_on(self.requests.receive())
        self.show("validating")

    def show(self, doing: str = "") -> None:
        """Move the progress bar, on rank 0."""
        if self.console is not None:
            self.console.advance(self.trainer.step, doing)

    def wanted(self) -> set[RankRequest]:
        """What this rank asks of all."""
        facts = {
            RankRequest.STOP: self.watch.reason() is not None,
            RankRequest.SAVE: self.writer.is_due(),
            RankRequest.FAIL: self.writer.failure is not None,
        }
        return {request for request, holds in facts.items() if holds}

    def act_on(self, heard: set[RankRequest]) -> None:
        """Do what was asked for, on all ranks. Raises to leave the loop."""
        if RankRequest.FAIL in heard:
            self.raise_failure()
        if RankRequest.STOP in heard:
            raise self.preempted()
        if RankRequest.SAVE in heard:
            self.save()

    def after_epoch(self) -> None:
        """Save; what could not be written since the last epoch ends the run here at the latest."""
        self.save()
        self.raise_failure()

    def save(self, *, wait: bool = False) -> None:
        """A checkpoint of this moment; every rank gives its share, rank 0 writes."""
        state = self.trainer.state()
        facts = {
            "step": self.trainer.step,
            "trainer": state.values,
            "selection": self.selection.state(),
            "dataset": self.manifest.fingerprint,
            "text_hash": self.manifest.text_hash,
            "order_version": order.VERSION,
            **self.writer.origin,
            "config": to_dict(self.config),
            "versions": {"torch": torch.__version__, "padless": installed_version("padless")},
        }
        self.writer.save(state.tensors, facts, self.selection.best_step, wait=wait)

    def raise_failure(self) -> None:
        """Raise what rank 0 could not write, on every rank."""
        with self.session.world.together("the files of the run"):
            if self.writer.failure is not None:
                raise self.writer.failure

    def pause(self) -> None:
        """Leave, on all ranks, if any of them was asked to; before the first step and between batches of an evaluation,
        where no requests travel.
        """
        wanted = np.array([int(self.watch.reason() is not None)])
        if self.session.world.gather_numbers(wanted, "whether to stop").any():
            raise self.preempted()
        if self.console is not None:
            self.console.tick()

    def preempted(self) -> Preempted:
        """Why all ranks leave, as far as this rank knows."""
        return Preempted(self.watch.reason() or "another rank was asked to stop")

    def log(self, figures: dict[str, Any]) -> None:
        """A log line."""
        self.writer.sinks.log("train", figures)
        if figures["skipped"]:
            text = f"{figures['skipped']} steps up to step {figures['step']} had a gradient that was not finite."
            self.writer.sinks.alert("Steps were skipped", text)

    def validate(self, epoch: int, step: int) -> bool:
        """Exact validation; the weights are kept if they are the best so far. Whether to stop here."""
        world = self.session.world
        with world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        classifier = self.trainer.objective.classifier
        assert isinstance(classifier, Classifier)
        scores = self.scorer.validate(VALIDATION, classifier, self.pause)
        values = classification_metrics(scores.logits, scores.labels)
        if self.config.select == "calibrated":
            values["calibrated_log_loss"] = calibrated_log_loss(scores.logits, scores.labels)
        deciding = partial(decide, scores.logits, scores.labels, self.config.evaluation)
        better = self.selection.agree(world, values, step, deciding)
        if better:
            with world.together("keeping the best weights"):
                self.writer.keep(classifier, self.manifest, self.selection)
            if self.console is not None:
                self.console.best(values)
        return self.conclude(numbers_of(values), epoch, step, better=better)

    def conclude(self, figures: dict[str, Any], epoch: int, step: int, *, better: bool) -> bool:
        """Tell of a validation that is done and of where the run stands; whether to stop here."""
        world, sinks = self.session.world, self.writer.sinks
        sinks.log(VALIDATION, {"step": step, "epoch": epoch + 1, **figures, "best": better})
        with world.together("saying where the run stands"):
            self.writer.status(step)
        if self.selection.exhausted:
            sinks.say(f"stopping: {self.selection.epochs_since_best} validations without a better one (patience)")
        return self.selection.exhausted


@dataclass
class PretrainingRun(Run):
    """Trains, measures perplexity and saves; the weights with the lowest log loss are kept."""

    def validate(self, epoch: int, step: int) -> bool:
        """Exact perplexity; the weights are kept if they are the best so far. Whether to stop here."""
        world = self.session.world
        with world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        objective = self.trainer.objective
        assert isinstance(objective, LanguageObjective)
        model = objective.classifier
        found = measure(
            model,
            self.data.splits[VALIDATION],
            world,
            batch_rows=self.config.eval_batch,
            layout=self.trainer.loader.layout,
            device=self.session.device,
            pause=self.pause,
            guard=self.data.guard.check_sizes,
            targets=objective.targets,
        )
        better = self.selection.agree(world, found.figures(), step)
        if better:
            with world.together("keeping the best weights"):
                self.writer.keep(model, self.manifest, self.selection)
        return self.conclude(found.figures(), epoch, step, better=better)

    def finish(self) -> None:
        """Say which weights were kept and what to do with them."""
        with self.session.world.together("saying how good the best weights are"):
            if self.console is not None:
                self.console.pretrained()


class RankRequest(IntEnum):
    """What a rank can ask of all."""

    STOP = 0
    """Save and leave."""
    SAVE = 1
    """A checkpoint is due."""
    FAIL = 2
    """A rank has an error to raise, which only all together can."""


class RankRequests:
    """The requests of this rank and of all others; every rank calls ``receive`` and ``send`` at the same steps."""

    def __init__(self, world: World) -> None:
        """Nothing is on its way yet."""
        self.world = world
        self.pending: PendingMaximum | None = None
        self.own: set[RankRequest] = set()
        """What a rank without others has to tell itself."""

    def send(self, wanted: Collection[RankRequest], step: int) -> None:
        """Start telling all ranks what this one wants after ``step``; does not wait."""
        if self.world.world_size == 1:
            self.own = set(wanted)
            return
        flags = np.array([int(request in wanted) for request in RankRequest])
        self.pending = self.world.start_maximum(flags, f"the requests of step {step}")

    def receive(self) -> set[RankRequest]:
        """What any rank wanted at the last ``send``: the same set on every rank. Empty if nothing was sent since."""
        heard, self.own = self.own, set()
        if self.pending is not None:
            pending, self.pending = self.pending, None
            heard = {request for request, flag in zip(RankRequest, pending.read(), strict=True) if flag}
        return heard
