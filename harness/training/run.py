# SPDX-License-Identifier: Apache-2.0
"""One training run: validation, checkpoints, stops and tests on every rank."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from harness.batch import StepBatch
from harness.config import CLASSIFIER, RunConfig, to_dict
from harness.data import order
from harness.data.loader import Loader
from harness.data.placement import OpenData
from harness.inference.bundle import Bundle
from harness.inference.evaluation import assess, compare_bf16, write_results
from harness.inference.scoring import loader_over, measure, score
from harness.model.classifier import Classifier
from harness.model.language import LanguageObjective
from harness.ranks.distributed import World
from harness.ranks.precision import set_tf32
from harness.ranks.session import Session
from harness.ranks.stopping import HEARTBEAT, Preempted, StopWatch
from harness.rundir.bundle_files import KEPT_IN_BF16
from harness.rundir.layout import BUNDLE, EVALUATION, storage
from harness.rundir.metrics_log import jsonable
from harness.rundir.records import installed_version
from harness.scores.calibration import Decision, calibrated_log_loss, choose_share, decide
from harness.scores.figures import CHOSEN_BY, numbers_of
from harness.scores.metrics import classification_metrics
from harness.training.console import Console
from harness.training.throughput import memory_bytes, synchronize
from harness.training.trainer import Milestones, Trainer
from harness.training.writer import RunWriter
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.base.terminal import duration

STEPS_LOOKED_AT = 2000
REPEATS = 3
EARLY = 4.0
"""Nats by which the first weights must be better than the last ones, summed over the rows of validation."""


@dataclass
class Selection:
    """The best validation so far."""

    metric: Literal["accuracy", "loss", "calibrated"]
    """The best has the highest accuracy, the lowest log loss, or the lowest log loss of calibrated probabilities."""
    best: float | None = None
    """The best value so far; losses are negated, so higher is always better."""
    best_step: int | None = None
    epochs_since_best: int = 0
    decision: Decision = field(default_factory=Decision)
    """How the logits of the best weights become probabilities and labels."""

    def agree(
        self, world: World, values: dict[str, Any], step: int, decide: Callable[[], Decision], left: float = 0.0
    ) -> bool:
        """Whether the validation ``values`` after ``step`` are the best so far. Rank 0 decides for all ranks, since
        figures may differ in the last bit between machines.

        ``decide`` computes temperature and threshold for these weights; called only if they are the best. ``left`` is
        the share of the training that is still to come. Later weights are better for most corpora, and on few rows
        chance decides, so calibrated losses, summed over the rows, count ``EARLY`` times that share more.
        """
        better = False
        if world.is_main:
            value = values[CHOSEN_BY[self.metric]] * (1 if self.metric == "accuracy" else -1)
            value -= EARLY * left / values["rows"] if self.metric == "calibrated" else 0.0
            better = self.best is None or value > self.best or not math.isfinite(self.best)
            self.epochs_since_best += 1
            if better:
                self.best, self.best_step, self.epochs_since_best, self.decision = value, step, 0, decide()
        better, state = world.from_main((better, self.state()), "whether these weights are the best so far")
        self.load(state)
        return better

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self) | {"best": jsonable(self.best)}

    def load(self, state: dict[str, Any]) -> None:
        """Load a result of ``state``; if the metric has changed, forget the best so far."""
        if state["metric"] == self.metric:
            best = None if state["best"] is None else float(state["best"])
            vars(self).update(state, best=best, decision=Decision(**state["decision"]))


@dataclass
class Run(Milestones):
    """Trains, validates, saves and tests; ``training.assembly`` builds it."""

    config: RunConfig
    session: Session
    data: OpenData
    trainer: Trainer
    selection: Selection
    watch: StopWatch
    writer: RunWriter
    console: Console
    """Quiet on ranks other than 0."""
    pending: Callable[[], Iterable[int]] = lambda: (0, 0, 0)
    """The requests of the last step, from any rank, the same on all: to stop, to save, to raise an error together."""

    def measured(self, split: str) -> Loader:
        """A loader of this rank's share of a split, for evaluation."""
        rows, layout = self.data.splits[split], self.trainer.loader.layout
        return loader_over(rows, self.session.world, self.config.eval_batch, layout, self.session.device)

    def train(self) -> None:
        """Train to the end and test, or save and raise ``Preempted`` on all ranks at the same step."""
        HEARTBEAT.in_loop, HEARTBEAT.step = True, self.trainer.step
        try:
            self.pause()
            self.trainer.fit()
            if self.config.task == CLASSIFIER:  # a language model has no test
                self.finish()
            self.raise_failure()
        except Preempted:
            self.console.advance(self.trainer.step, "saving")
            self.save(wait=True)
            self.watch.clear()
            raise

    def finish(self) -> None:
        """Evaluate the best weights once, on the test split if the dataset has one, and print their figures.

        Without a test split they are evaluated on validation, for the report. A run with ``fold`` also evaluates its
        fold: all folds together give predictions of every row.
        """
        world, directory, splits = self.session.world, self.writer.directory, self.data.splits
        self.console.advance(self.trainer.step, "testing")
        with world.together("loading the best weights"):
            bundle = Bundle(directory / BUNDLE)
        world.handshake({"weights": bundle.info.weights_sha256})
        set_tf32(False)
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        places, measured = {VALIDATION: directory / EVALUATION, TEST: directory}, {}
        if TEST not in splits:
            self.writer.say(f"no test: {self.data.data} has no test split")
            del places[TEST]
        elif self.config.fold is None:
            del places[VALIDATION]
        for split, place in places.items():
            scores = score(classifier, self.measured(split), world, self.pause)
            with world.together(f"writing the results of {split}"), storage(directory):
                if world.is_main:
                    measured[split] = assess(scores, bundle, splits[split])
                    write_results(place, scores, bundle, measured[split])
        with world.together("comparing predictions in bf16 and printing the results"), storage(directory):
            if world.is_main:
                share = compare_bf16(bundle, splits[VALIDATION])
                used = "uses it" if share >= KEPT_IN_BF16 else "computes in fp32"
                self.console.details.fact("bf16", f"keeps the label of {share:.1%} of validation; predict {used}")
                if TEST in measured:
                    self.writer.log(TEST, {"step": self.trainer.step, **numbers_of(measured[TEST])})
                self.console.results(measured)
                self.console.advance(self.trainer.step, "writing the report")

    def rehearse(self) -> None:
        """A dry run: take a few real steps with the longest batch; print time, memory and the time of a full run."""
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
        tokens = sum(micro.num_tokens for micro in batch.micro_batches) * world.world_size
        every = self.data.manifest.tokens(TRAIN) * self.config.epochs
        fact, full = self.console.screen.fact, duration(step_s * every / tokens)
        fact("dry run", f"longest step ({batch.global_rows} rows): {step_s * 1e3:,.0f} ms")
        fact("memory", f"{memory_bytes(device) / 2**20:,.0f} MiB at most in one process")
        fact("full run", f"about {full} of training ({self.trainer.total_steps:,} steps)")

    def after_step(self) -> None:
        """Handle the requests that ranks sent after the previous step, then send this rank's; does not wait."""
        step = self.writer.step = HEARTBEAT.step = self.trainer.step
        self.handle_requests()
        every, saver = self.config.checkpoint.every_steps, self.writer.checkpointer
        if every is not None and step % every == 0:
            self.save()
        due = saver is not None and saver.is_due()
        wanted = np.array([self.watch.reason() is not None, due, self.writer.failure is not None])
        self.pending = self.session.world.start_maximum(wanted, f"the requests of step {step}")
        self.console.advance(step)

    def handle_requests(self) -> None:
        """On all ranks at the same steps. Raises to leave the loop."""
        stop, save, fail = self.pending()
        if fail:
            self.raise_failure()
        if stop:
            raise self.preempted()
        if save:
            self.save()

    def after_epoch(self) -> None:
        """Save, and raise if a file could not be written during the epoch."""
        self.save()
        self.raise_failure()

    def save(self, *, wait: bool = False) -> None:
        """Write a checkpoint of the current state; every rank contributes, rank 0 writes."""
        tensors, values = self.trainer.state()
        facts = {
            "step": self.trainer.step,
            "trainer": values,
            "selection": self.selection.state(),
            "dataset": self.data.manifest.fingerprint,
            "order_version": order.VERSION,
            **self.writer.origin,
            "config": to_dict(self.config),
            "versions": {"torch": torch.__version__, "padless": installed_version("padless")},
        }
        self.writer.save(tensors, facts, wait=wait)

    def raise_failure(self) -> None:
        """If rank 0 failed to write a file, raise on every rank: its error, or one that names it."""
        with self.session.world.together("the files of the run"):
            if self.writer.failure is not None:
                raise self.writer.failure

    def pause(self) -> None:
        """Raise ``Preempted`` on all ranks if any of them received a stop request. Used before the first step and
        between batches of an evaluation, where ranks send no requests.
        """
        if any(self.session.world.gather_objects(self.watch.reason(), "whether to stop")):
            raise self.preempted()

    def preempted(self) -> Preempted:
        """The exception with the stop reason that this rank knows."""
        return Preempted(self.watch.reason() or "another rank was asked to stop")

    def log(self, figures: dict[str, Any]) -> None:
        """Write a log line."""
        self.writer.log("train", figures)

    def validate(self, epoch: int) -> bool:
        """Handle the requests of the last step; no more are sent until the next epoch. Then, if it is due, validate
        exactly, with the averaged weights if there are any, and keep the weights if they are the best so far; returns
        whether to stop here.
        """
        self.handle_requests()
        self.pending = Run.pending
        if (epoch + 1) % self.config.validate_every and epoch + 1 < self.config.epochs:
            return False
        world, writer, selection, step = self.session.world, self.writer, self.selection, self.trainer.step
        self.console.advance(step, "validating")
        with world.together("checking that the dataset is unchanged"):
            self.data.check()
        average = self.trainer.average
        with nullcontext() if average is None else average.swapped():
            values, deciding = self.measure()
            better = selection.agree(world, values, step, deciding, 1 - (epoch + 1) / self.config.epochs)
            if better:
                with world.together("writing the best weights"):
                    writer.keep(self.trainer.objective.classifier, self.data.manifest, step, selection.decision)
        figures = {"step": step, "epoch": epoch + 1, **numbers_of(values), "best": better}
        writer.log(VALIDATION, {**figures, "seconds": writer.seconds})
        with world.together("writing status.json"):
            writer.status(step)
        if self.config.patience is None or selection.epochs_since_best < self.config.patience:
            return False
        writer.say(f"stopping: {selection.epochs_since_best} validations without a better one (patience)")
        return True

    def measure(self) -> tuple[dict[str, Any], Callable[[], Decision]]:
        """The figures of the validation split, of a language model its perplexity, and a function that computes
        temperature and threshold from them.

        With a wide part, also choose its share in the summed logits.
        """
        objective, world = self.trainer.objective, self.session.world
        classifier, loader = objective.classifier, self.measured(VALIDATION)
        if isinstance(objective, LanguageObjective):
            return measure(objective.classifier, loader, world, self.pause, objective.targets), Decision
        assert isinstance(classifier, Classifier)
        on_cuda = self.session.device.type == "cuda"
        read = partial(classifier.read, recurrent_dtype=objective.recurrent_dtype if on_cuda else None)
        scores = score(classifier, loader, world, self.pause, read)
        if classifier.wide is not None:
            network, wide = scores.logits, score(classifier, loader, world, self.pause, classifier.look_up).logits
            share = np.float32(choose_share(network, wide, scores.labels))
            classifier.wide.share.fill_(float(share))
            # In fp32 and in this order, as the model itself adds them.
            summed = network.astype(np.float32) + share * wide.astype(np.float32)
            scores = replace(scores, logits=summed.astype(np.float64))
        values = classification_metrics(scores.logits, scores.labels)
        if self.config.select == "calibrated":
            values["calibrated_log_loss"] = calibrated_log_loss(scores.logits, scores.labels)
        return values, partial(decide, scores.logits, scores.labels, self.config.evaluation)


def heaviest_batch(loader: Loader) -> StepBatch:
    """This rank's share of the step with the most padded tokens (rows times longest row), among the first steps of
    epoch 0.
    """
    order = loader.order

    def padded_tokens(step: int) -> int:
        window = order.window(0, step)
        lengths = window.lengths[window.batch(step)]  # longest first
        return len(lengths) * int(lengths[0])

    heaviest = max(range(min(STEPS_LOOKED_AT, order.steps_per_epoch)), key=padded_tokens)
    (batch,) = loader.steps(0, heaviest, heaviest + 1)
    return batch
