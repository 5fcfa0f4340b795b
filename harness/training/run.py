# SPDX-License-Identifier: Apache-2.0
"""One training run: what happens at its milestones, on every rank; and what fits, tried before any step counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import torch

from harness.batch import StepBatch
from harness.config import RunConfig, to_dict
from harness.data import order
from harness.data.checks import TRAIN, VALIDATION
from harness.data.loader import Loader
from harness.data.placement import OpenData
from harness.inference.scoring import loader_over, measure
from harness.model.classifier import Classifier
from harness.model.language import LanguageObjective
from harness.ranks.distributed import World
from harness.ranks.precision import Choice
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT, Preempted, StopWatch
from harness.rundir.records import installed_version
from harness.scores.calibration import Decision, calibrated_log_loss, decide
from harness.scores.figures import numbers_of
from harness.scores.metrics import classification_metrics
from harness.training.console import Console
from harness.training.throughput import memory_bytes, reset_peak_memory, synchronize
from harness.training.trainer import Milestones, Trainer
from harness.training.validation import Scorer, Selection
from harness.training.writer import RunWriter
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import Manifest

STEPS_LOOKED_AT = 2000
REPEATS = 3


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
        measured = self.scorer.measure_best(self.writer.directory, self.trainer.step, self.writer.sinks, self.pause)
        with self.session.world.together("saying how good the best weights are"):
            if self.console is not None:
                self.console.results(measured)

    def rehearse(self) -> None:
        """A dry run: a few real steps of the longest batch, what they need, and what a full run would take."""
        world, device, batch = self.session.world, self.trainer.device, heaviest_batch(self.trainer.loader)
        self.trainer.model.train()
        seconds = []
        for _ in range(1 + REPEATS):  # the first warms up
            started = time.perf_counter()
            with world.waiting("the gradients of the longest batch"):
                self.trainer.update(batch)
                synchronize(device)
            seconds.append(time.perf_counter() - started)
        step_s = min(seconds[1:])
        if self.console is not None:
            tokens = sum(micro.num_tokens for micro in batch.micro_batches) * world.world_size
            every = sum(shard.tokens for shard in self.manifest.splits[TRAIN]) * self.config.epochs
            self.console.rehearsal(step_s, batch.global_rows, memory_bytes(device), step_s * every / tokens)

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
        saver = self.writer.checkpointer
        facts = {
            RankRequest.STOP: self.watch.reason() is not None,
            RankRequest.SAVE: saver is not None and saver.is_due(),
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
        world, sinks, selection = self.session.world, self.writer.sinks, self.selection
        with world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        values, deciding = self.measure()
        better = selection.agree(world, values, step, deciding)
        if better:
            with world.together("keeping the best weights"):
                self.writer.keep(self.trainer.objective.classifier, self.manifest, step, selection.decision)
        sinks.log(VALIDATION, {"step": step, "epoch": epoch + 1, **numbers_of(values), "best": better})
        with world.together("saying where the run stands"):
            self.writer.status(step)
        if selection.exhausted:
            sinks.say(f"stopping: {selection.epochs_since_best} validations without a better one (patience)")
        return selection.exhausted

    def measure(self) -> tuple[dict[str, Any], Callable[[], Decision]]:
        """The figures of the validation split, and what gives the decision that belongs to these weights."""
        classifier = self.trainer.objective.classifier
        assert isinstance(classifier, Classifier)
        scores = self.scorer.validate(VALIDATION, classifier, self.pause)
        values = classification_metrics(scores.logits, scores.labels)
        if self.config.select == "calibrated":
            values["calibrated_log_loss"] = calibrated_log_loss(scores.logits, scores.labels)
        return values, partial(decide, scores.logits, scores.labels, self.config.evaluation)


@dataclass
class PretrainingRun(Run):
    """Trains, measures perplexity and saves; the weights with the lowest log loss are kept."""

    def measure(self) -> tuple[dict[str, Any], Callable[[], Decision]]:
        """Exact perplexity."""
        objective = self.trainer.objective
        assert isinstance(objective, LanguageObjective)
        world, split, guard = self.session.world, self.data.splits[VALIDATION], self.data.guard.check_sizes
        loader = loader_over(
            split, world, self.config.eval_batch, self.trainer.loader.layout, self.session.device, guard
        )
        found = measure(objective.classifier, loader, world, self.pause, objective.targets)
        return found, Decision

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
        self.pending: Callable[[], np.ndarray] | None = None

    def send(self, wanted: Collection[RankRequest], step: int) -> None:
        """Start telling all ranks what this one wants after ``step``; does not wait."""
        flags = np.array([int(request in wanted) for request in RankRequest])
        self.pending = self.world.start_maximum(flags, f"the requests of step {step}")

    def receive(self) -> set[RankRequest]:
        """What any rank wanted at the last ``send``: the same set on every rank. Empty if nothing was sent since."""
        if self.pending is None:
            return set()
        pending, self.pending = self.pending, None
        return {request for request, flag in zip(RankRequest, pending(), strict=True) if flag}


def heaviest_batch(loader: Loader) -> StepBatch:
    """This rank's share of the step whose rows times longest row is the largest, in the first steps of epoch 0.

    Where steps have unlabelled rows, they are the ones of the step that has the most of those.
    """
    heaviest = heaviest_step(loader)
    (batch,) = loader.steps(0, heaviest, heaviest + 1)
    if loader.unlabelled is not None:
        heaviest = heaviest_step(loader.unlabelled)
        (other,) = loader.unlabelled.steps(0, heaviest, heaviest + 1)
        batch.take_unlabelled(other)
    return batch


def heaviest_step(loader: Loader) -> int:
    """The step of epoch 0 that computes the most positions, of the first ones."""
    order, split = loader.order, loader.split
    sizes = []
    for step in range(min(STEPS_LOOKED_AT, order.steps_per_epoch)):
        rows = order.batch_rows(0, step)  # longest first
        block = int(np.searchsorted(split.block_starts, rows[0], side="right")) - 1
        sizes.append(len(rows) * int(split.blocks[block].length[rows[0] - split.block_starts[block]]))
    return int(np.argmax(sizes))


def choose_micro_batch(trainer: Trainer) -> Choice:
    """Give the loader the largest of the whole share of a step, its half, … with which the longest batch fits.

    All ranks try the same size and agree. What training holds between two steps is there already: Adam's moments, the
    average, DDP's buckets. Raises ``ConfigError`` when one row is too much.
    """
    loader, world, device = trainer.loader, trainer.world, trainer.device
    if device.type != "cuda":
        loader.micro_batch = None
        return Choice("no limit", "only CUDA devices run out of memory in a way that can be caught")
    loaders = [one for one in (loader, loader.unlabelled) if one is not None]
    loader.micro_batch = share = max(-(-one.order.largest_step // world.world_size) for one in loaders)
    while True:
        failed = runs_out_of_memory(trainer)
        torch.cuda.empty_cache()
        reset_peak_memory(device)
        if not world.gather_numbers(np.array([int(failed)]), "trying out a micro-batch").any():
            break
        if loader.micro_batch == 1:
            with world.together("trying out a micro-batch"):
                raise ConfigError(
                    "micro_batch: one row of the longest text does not fit into the device's memory; build the dataset "
                    "with a smaller text.max_tokens or lower model.hidden_size"
                )
        loader.micro_batch = (loader.micro_batch + 1) // 2
    return Choice(f"{loader.micro_batch} rows", f"with the longest batch, of {share}, they fit into memory")


def runs_out_of_memory(trainer: Trainer) -> bool:
    """Whether the longest batch fails for want of memory, forward and backward; no gradient is exchanged or kept."""
    try:
        batch = heaviest_batch(trainer.loader)
        for micro_batch in [*batch.micro_batches, *batch.unlabelled]:
            with trainer.accelerator.no_sync(trainer.model):
                trainer.accelerator.backward(trainer.model(micro_batch, 0))
    except torch.OutOfMemoryError:
        return True
    finally:
        trainer.optimizer.zero_grad(set_to_none=True)
    return False
