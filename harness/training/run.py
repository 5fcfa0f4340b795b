# SPDX-License-Identifier: Apache-2.0
"""One training run, on every rank: the loop over epochs and steps, with log lines, checkpoints, stops, validations; and
the test at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.batch import StepBatch
from harness.config import CLASSIFIER, RunConfig, to_record
from harness.data import order
from harness.data.loader import Loader, OpenData
from harness.distributed.devices import describe_device
from harness.distributed.precision import set_tf32
from harness.distributed.session import Session
from harness.distributed.stopping import HEARTBEAT, Preempted, StopWatch
from harness.inference.bundle import Bundle, write_bundle
from harness.inference.evaluation import assess, write_evaluation
from harness.inference.scoring import loader_over, score
from harness.metrics.figures import scalar_figures
from harness.rundir.bundle_files import INDEX, has_weights, read_info
from harness.rundir.layout import BUNDLE, EVALUATION, storage, wait_for_file
from harness.rundir.records import installed_version
from harness.training.throughput import peak_memory_bytes, synchronize
from harness.training.trainer import Trainer
from harness.training.validation import Selection, measure_objective
from harness.training.writer import RunWriter
from padless.core.signals import STOP
from padless.core.split_names import TEST, TRAIN, VALIDATION
from padless.core.terminal import duration

REHEARSED_STEPS = 2000
"""A dry run looks for the longest batch among so many first steps."""
REHEARSALS = 3
SHORT_STEP_S, MAX_REQUEST_EVERY = 0.01, 8
"""Where a step takes less, ranks exchange requests after one in so many."""
EVALUATION_ROWS = 512
"""Rows in a batch of validation and test, on each process."""


def computes_later(device: torch.device) -> bool:
    """Whether a device computes beside the host, so that a figure would be waited for."""
    return device.type == "cuda"


def no_requests() -> Iterable[int]:
    """The requests before the first step: none to stop, to save, or to raise an error."""
    return 0, 0, 0


@dataclass
class TrainingRun:
    """Trains, validates, saves and tests; ``training.assembly`` builds it."""

    config: RunConfig
    session: Session
    data: OpenData
    trainer: Trainer
    selection: Selection
    watch: StopWatch
    writer: RunWriter
    origin: dict[str, Any]
    """Where the first weights are from (vectors, pretrained weights), and facts of the dataset; for checkpoints."""
    read_line: Callable[[], dict[str, Any]] | None = None
    """Gives the figures of the last log line, which the device is copying."""
    request_every: int = 1
    """Steps from one request to the next, the same on all ranks."""
    read_requests: Callable[[], Iterable[int]] = no_requests
    """The requests of the last step, from any rank, the same on all: to stop, to save, to raise an error together."""

    def train(self, *, tests: bool = True) -> None:
        """Train to the end, and test if ``tests``, or save and raise ``Preempted`` on all ranks at the same step."""
        STOP.must_save, HEARTBEAT.step = True, self.trainer.step
        try:
            self.pause()
            self.fit()
            if tests and self.config.task == CLASSIFIER:  # a language model has no test
                self.test()
            self.raise_failure()
        except Preempted:
            self.writer.observers.advance(self.trainer.step, "saving")
            self.save(wait=True)
            self.watch.clear()
            raise

    def fit(self) -> None:
        """Train from the current step to the last epoch, or until a validation ends the training."""
        trainer, config = self.trainer, self.config
        while trainer.epochs_done < config.epochs and not self.selection.has_run_out(config.patience):
            trainer.model.train()
            for batch in trainer.batches():
                trainer.update(batch)
                if trainer.step % config.tracking.log_every == 0 or trainer.step == trainer.total_steps:
                    self.write_line()
                    self.read_line = trainer.begin_figures()
                    if not computes_later(self.session.device):
                        self.write_line()
                self.finish_step()
            self.write_line()
            self.handle_requests()
            with trainer.meter.pausing():
                self.validate()
            trainer.epochs_done += 1
            self.save()
            self.raise_failure()

    def write_line(self) -> None:
        """Write the log line whose figures the device is copying, if there is one. On CUDA that is at the next line, so
        that the host does not wait for the device.
        """
        if self.read_line is not None:
            read, self.read_line = self.read_line, None
            figures = read()
            self.writer.log("train", figures)
            is_short = figures["rows_per_s"] * SHORT_STEP_S > self.config.global_batch
            self.request_every = MAX_REQUEST_EVERY if is_short else 1

    def finish_step(self) -> None:
        """Handle the requests that ranks sent after an earlier step, then send this rank's; does not wait. Of short
        steps only one in several has requests, since a message may take as long as they do.
        """
        step = self.writer.step = HEARTBEAT.step = self.trainer.step
        exchanges = step % self.request_every == 0
        if exchanges:
            self.handle_requests()
        every_steps, checkpointer = self.config.checkpoint.every_steps, self.writer.checkpointer
        if every_steps is not None and step % every_steps == 0:
            self.save()
        if exchanges:
            is_save_due = checkpointer is not None and checkpointer.is_due()
            requests = np.array([self.watch.reason() is not None, is_save_due, self.writer.failure is not None])
            self.read_requests = self.session.world.start_maximum(requests, f"the requests of step {step}")
        self.writer.observers.advance(step)

    def handle_requests(self) -> None:
        """On all ranks at the same steps. Raises to leave the loop."""
        (must_stop, must_save, must_raise), self.read_requests = self.read_requests(), no_requests
        if must_raise:
            self.raise_failure()
        if must_stop:
            raise Preempted(self.stop_reason)
        if must_save:
            self.save()

    def raise_failure(self) -> None:
        """If rank 0 failed to write a file, raise on every rank: its error, or one that names it."""
        with self.session.world.raise_together("the files of the run"):
            if self.writer.failure is not None:
                raise self.writer.failure

    def pause(self) -> None:
        """Raise ``Preempted`` on all ranks if any of them received a stop request. Used before the first step and
        between batches of an evaluation, where ranks send no requests.
        """
        if any(self.session.world.gather_objects(self.watch.reason(), "whether to stop")):
            raise Preempted(self.stop_reason)

    @property
    def stop_reason(self) -> str:
        """Why the ranks stop, as far as this rank can see."""
        return self.watch.reason() or "another rank was asked to stop"

    def save(self, *, wait: bool = False) -> None:
        """Write a checkpoint of the current state; every rank contributes, rank 0 writes."""
        self.write_line()
        tensors, values = self.trainer.state()
        state = {
            "step": self.trainer.step,
            "trainer": values,
            "selection": self.selection.state(),
            "dataset": self.data.manifest.fingerprint,
            "order_version": order.VERSION,
            **self.origin,
            "config": to_record(self.config),
            "versions": {"torch": torch.__version__, "padless": installed_version("padless")},
        }
        self.writer.save(tensors, state, wait=wait)

    def evaluation_loader(self, split: str) -> Loader:
        """A loader of this rank's share of a split, for evaluation."""
        rows, layout = self.data.splits[split], self.trainer.loader.layout
        return loader_over(rows, self.session.world, EVALUATION_ROWS, layout, self.session.device)

    def validate(self) -> None:
        """Validate exactly, with the averaged weights if there are any, and write the weights as the bundle if they are
        the best so far.
        """
        config, world, writer, selection = self.config, self.session.world, self.writer, self.selection
        step, epoch, objective = self.trainer.step, self.trainer.epochs_done + 1, self.trainer.objective
        self.writer.observers.advance(step, "validating")
        with world.raise_together("checking that the dataset is unchanged"):
            self.data.check()
        average = self.trainer.average
        with nullcontext() if average is None else average.load_average():
            loader = self.evaluation_loader(VALIDATION)
            figures, choose_decision = measure_objective(config, objective, loader, world, self.pause)
            is_best = selection.compare(world, figures, step, choose_decision, 1 - epoch / config.epochs)
            if is_best:
                bundle, network = writer.directory / BUNDLE, objective.classifier
                with world.raise_together("writing the best weights"), storage(bundle):
                    if world.is_main:
                        write_bundle(bundle, network, self.data.manifest, step, selection.decision, **self.origin)
        line = {"step": step, "epoch": epoch, **scalar_figures(figures), "best": is_best}
        writer.log(VALIDATION, {**line, "seconds": writer.seconds})
        with world.raise_together("writing status.json"):
            writer.write_step(step)
        if selection.has_run_out(config.patience):
            writer.observers.print_text(
                f"stopping: {selection.epochs_since_best} validations without a better one (patience)"
            )

    def test(self) -> None:
        """Evaluate the best weights once, on the test split if the dataset has one, and print their figures.

        Without a test split they are evaluated on validation, for the report. A run with ``fold`` also evaluates its
        fold: all folds together give predictions of every row.
        """
        world, directory, splits = self.session.world, self.writer.directory, self.data.splits
        self.writer.observers.advance(self.trainer.step, "testing")
        path = directory / BUNDLE
        with world.raise_together("reading the bundle"):
            sha256 = read_info(path).weights_sha256 if world.is_main else ""
        sha256 = world.broadcast_from_main(sha256, "the hash of the best weights")
        with world.raise_together("loading the best weights"):
            wait_for_file(path / INDEX, lambda: has_weights(path, sha256), world.timeout_s)
            bundle = Bundle(path)
        set_tf32(False)
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        figures_by_split = {}
        if TEST not in splits:
            self.writer.observers.print_text(f"no test: {self.data.data} has no test split")
        for split in (VALIDATION, TEST):
            if split not in splits or (split == VALIDATION and TEST in splits and self.config.fold is None):
                continue
            started = time.perf_counter()
            scores = score(classifier, self.evaluation_loader(split), world, self.pause)
            rows_per_s = len(splits[split]) / (time.perf_counter() - started)
            with world.raise_together(f"writing the results of {split}"), storage(directory):
                if world.is_main:
                    figures = figures_by_split[split] = assess(scores, bundle, splits[split])
                    write_evaluation(directory if split == TEST else directory / EVALUATION, scores, bundle, figures)
                    if split == TEST:
                        line = {"step": self.trainer.step, "rows_per_s": rows_per_s}
                        self.writer.log(TEST, line | scalar_figures(figures))
        with world.raise_together("printing the results"), storage(directory):
            if world.is_main:
                self.writer.observers.results(figures_by_split)
                self.writer.observers.advance(self.trainer.step, "writing the report")

    def rehearse(self) -> None:
        """A dry run: print the device of each rank, take a few real steps with the longest batch; print time, memory
        and the time of a full run.
        """
        world, device, fact = self.session.world, self.trainer.device, self.writer.observers.fact
        devices = world.gather_objects(describe_device(device.type), "the device of each rank")
        fact("devices", ", ".join(devices if device.type == "cuda" else devices[:1]))
        batch = longest_batch(self.trainer.loader)
        self.trainer.model.train()
        seconds = []
        for _ in range(1 + REHEARSALS):  # the first warms up
            started = time.perf_counter()
            with world.watch_wait("the gradients of the longest batch"):
                self.trainer.update(batch)
                synchronize(device)
            seconds.append(time.perf_counter() - started)
        step_s = min(seconds[1:])
        tokens = sum(micro_batch.num_tokens for micro_batch in batch.micro_batches) * world.world_size
        total_tokens = self.data.manifest.tokens(TRAIN) * self.config.epochs
        total_time = duration(step_s * total_tokens / tokens)
        fact("dry run", f"longest step ({batch.global_rows} rows): {step_s * 1e3:,.0f} ms")
        fact("memory", f"{peak_memory_bytes(device) / 2**20:,.0f} MiB at most in one process")
        fact("full run", f"about {total_time} of training ({self.trainer.total_steps:,} steps)")


def longest_batch(loader: Loader) -> StepBatch:
    """This rank's share of the step with the most padded tokens (rows times longest row), among the first steps of
    epoch 0.
    """

    def count_padded_tokens(step: int) -> int:
        window = loader.order.window(0, step)
        lengths = window.lengths[window.batch(step)]  # longest first
        return len(lengths) * int(lengths[0])

    step = max(range(min(REHEARSED_STEPS, loader.order.steps_per_epoch)), key=count_padded_tokens)
    (batch,) = loader.steps(0, step, step + 1)
    return batch
