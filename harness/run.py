# SPDX-License-Identifier: Apache-2.0
"""One training run: its parts built in order, what happens at its milestones, and its state on disk."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from harness import rundir
from harness.bundle import read_bundle, write_bundle, write_vocabulary
from harness.checks import TEST, TRAIN, VALIDATION, check_dataset, check_fit, check_useful, order_spec
from harness.config import RunConfig, to_dict
from harness.console import Console
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.data.residency import OpenData
from harness.evaluate import Scores, describe, score, write_results
from harness.fit import choose_micro_batch, heaviest_step, rehearse
from harness.flops import flops_per_token, measure_peak, synchronize
from harness.guard import NanGuard
from harness.metrics import classification_metrics
from harness.metrics_log import MetricsLog
from harness.model import Classifier, Objective
from harness.precision import Choice
from harness.profiling import StepProfiler
from harness.session import Session
from harness.throughput import Meter, memory_bytes
from harness.trackers import check_trackers
from harness.tracking import Trackers
from harness.trainer import Trainer
from preprocessing import atomic
from preprocessing.errors import ConfigError, UserError
from preprocessing.shards import Manifest

FP16_FIRST_SKIPS = 20
"""fp16 starts with a large loss scale and finds the right one by skipping steps; those are no sign of divergence."""


class Run:
    """Builds everything a run needs on this rank, and keeps ``status.json`` true until the end.

    A context manager: leaving it writes the final state, whatever ended the block.
    """

    def __init__(self, config: RunConfig, session: Session) -> None:
        """Check, agree with the other ranks, then build. Raises the same ``UserError`` on every rank."""
        self.config, self.session, self.world = config, session, session.world
        self.directory = Path(config.run)
        self.choices = dict(session.choices)
        self.best: float | None = None
        self.epochs_since_best = 0
        self.manifest = self._agree()
        self.data = OpenData(config, self.manifest, TRAIN, self.world, session.device)
        self.choices |= self.data.choices
        with self.world.together("staging the dataset"):
            self.data.copy()
        with self.world.together("opening the dataset"):
            self.data.open()
        self.splits = self.data.splits
        self.trainer = self._build_trainer()
        self.console = Console(self.trainer.total_steps) if self.world.is_main else None
        writes = self.world.is_main and not config.dry_run
        with self.world.together("opening the run directory"):
            if writes:
                rundir.claim(config)
                rundir.write_status(self.directory, "running")
                self._describe()
        self.log = MetricsLog(self.directory / rundir.METRICS) if writes else None
        self.trackers = Trackers(config, self.directory, active=writes, facts=self._facts())
        if self.console is not None:
            self.console.start(config, self.manifest, self.trainer.objective.classifier, self.choices)

    def _agree(self) -> Manifest:
        """Check what was asked for, and that all ranks were asked the same."""
        config = self.config
        with self.world.together("the checks before training"):
            if self.world.is_main:
                check_trackers(config.tracking)
                rundir.check_free(config.run)
            manifest = check_dataset(config.data, hashes=self.world.is_main)
            check_fit(config, manifest, self.world.world_size)
            check_useful(config, manifest, self.world.world_size)
            if config.optim.gradient_compression != "none" and self.session.device.type != "cuda":
                raise ConfigError("optim.gradient_compression: bf16 gradients need CUDA devices; leave it at none here")
        settings = hashlib.sha256(atomic.canonical_json(to_dict(config))).hexdigest()[:16]
        facts = {"configuration": settings, "dataset": manifest.fingerprint[:16], "torch": torch.__version__}
        self.world.handshake(facts)
        return manifest

    def _describe(self) -> None:
        effective = {name: str(choice) for name, choice in self.choices.items()}
        atomic.write_json(self.directory / rundir.ENVIRONMENT, rundir.describe_environment(effective))
        write_vocabulary(self.directory / rundir.BUNDLE, Path(self.config.data))

    def _build_trainer(self) -> Trainer:
        config, session = self.config, self.session
        torch.manual_seed(config.seed)
        classifier = Classifier(config.model, self.manifest.vocabulary_size, len(self.manifest.labels))
        classifier.to(session.device).recurrent.flatten_parameters()
        weights = [config.optim.class_weights.get(label, 1.0) for label in self.manifest.labels]
        objective = Objective(
            classifier,
            label_smoothing=config.optim.label_smoothing,
            class_weights=torch.tensor(weights, device=session.device) if config.optim.class_weights else None,
        )
        peak = measure_peak(session.device, self.choices["precision"].value)
        peaks = self.world.gather_numbers(np.array([peak]), "measuring the devices")
        self.choices["peak"] = Choice(f"{peaks.sum() / 1e9:,.0f} GFLOP/s", "a matrix product, all processes together")
        return Trainer(
            config,
            objective,
            self._build_loader(objective),
            session.accelerator,
            self.world,
            guard=self._build_guard(),
            meter=Meter(session.device, flops_per_token(config.model), float(peaks.sum())),
            profiler=StepProfiler(config.profile if self.world.is_main else [], self.directory / "profile"),
            validate=self.validate,
            report=self.report,
        )

    def _build_guard(self) -> NanGuard:
        scaled = self.choices["precision"].value == "fp16"
        limit = self.config.nan_limit + (FP16_FIRST_SKIPS if scaled else 0)
        data, classes = Path(self.config.data), len(self.manifest.labels)
        return NanGuard(limit, self.world, self.directory, self.splits[TRAIN], data, classes)

    def _build_loader(self, objective: Objective) -> Loader:
        config, split = self.config, self.splits[TRAIN]
        loader = Loader(
            split,
            order_over(split, order_spec(config)),
            rank=self.world.rank,
            world_size=self.world.world_size,
            layout=self.session.layout,
            device=self.session.device,
            micro_batch=None if config.micro_batch == "auto" else config.micro_batch,
            resident=self.data.rows,
            guard=self.data.guard.check_sizes,
        )
        if config.micro_batch == "auto":
            self._fit_micro_batch(loader, objective)
        return loader

    def _fit_micro_batch(self, loader: Loader, objective: Objective) -> None:
        """Give the loader the micro-batch with which the longest batch fits."""
        step = self._heaviest_step(loader)

        def attempt(rows: int) -> None:
            loader.micro_batch = rows
            (batch,) = loader.steps(0, step, step + 1)
            for micro_batch in batch.micro_batches:
                with self.session.accelerator.autocast():
                    loss = objective(micro_batch)
                loss.backward()
            objective.zero_grad(set_to_none=True)

        share = -(-self.config.global_batch // self.world.world_size)
        loader.micro_batch, self.choices["micro_batch"] = choose_micro_batch(
            share, attempt, self.world, self.session.device
        )

    def _heaviest_step(self, loader: Loader) -> int:
        starts, blocks = loader.split.block_starts, loader.split.blocks

        def longest(row: int) -> int:
            block = int(np.searchsorted(starts, row, side="right")) - 1
            return int(blocks[block].length[row - starts[block]])

        return heaviest_step(loader.order, longest)

    def rehearse(self) -> None:
        """A dry run: one real step of the longest batch, what it needs, and what a full run would take."""
        loader, trainer = self.trainer.loader, self.trainer
        step = self._heaviest_step(loader)
        (batch,) = loader.steps(0, step, step + 1)
        trainer.model.train()

        def update() -> int:
            trainer.update(batch)
            synchronize(self.session.device)
            return sum(micro.num_tokens for micro in batch.micro_batches)

        cost = rehearse(update, lambda: memory_bytes(self.session.device))
        tokens = sum(shard.tokens for shard in self.manifest.splits[TRAIN]) * self.config.epochs
        if self.console is not None:
            self.console.rehearsal(cost, batch.global_rows, tokens // self.world.world_size)

    def _facts(self) -> dict[str, Any]:
        """What trackers show beside the configuration."""
        effective = {name: str(choice) for name, choice in self.choices.items()}
        return {"dataset": self.manifest.fingerprint, "effective": effective}

    def write(self, kind: str, figures: dict[str, Any]) -> None:
        """A line of metrics.jsonl, then the trackers."""
        if self.log is not None:
            self.log.write(kind, figures)
        self.trackers.write(kind, figures)

    def report(self, figures: dict[str, Any]) -> None:
        """A log line."""
        self.write("train", figures)
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
        )
        return scores, classification_metrics(scores.logits, scores.labels)

    def validate(self, epoch: int, step: int) -> bool:
        """Exact validation; the weights are kept if they are the best so far. Whether to stop here."""
        with self.world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        classifier = self.trainer.objective.classifier
        _, values = self.score(VALIDATION, classifier)
        selected = values["accuracy"] if self.config.select == "accuracy" else -values["log_loss"]
        better = self.best is None or selected > self.best or not np.isfinite(self.best)
        self.epochs_since_best = 0 if better else self.epochs_since_best + 1
        if better:
            self.best = selected
            if self.world.is_main:
                write_bundle(self.directory / rundir.BUNDLE, classifier, self.manifest, step)
        figures = {key: value for key, value in values.items() if key != "confusion"}
        self.write(VALIDATION, {"step": step, "epoch": epoch + 1, **figures, "best": better})
        if self.world.is_main:
            rundir.write_status(self.directory, "running", step=step)
        stop = self.config.patience is not None and self.epochs_since_best >= self.config.patience
        if self.console is not None:
            self.console.say(f"epoch {epoch + 1} validation: {describe(values)}{' (best so far)' if better else ''}")
            if stop:
                self.console.say(f"stopping: no better validation for {self.epochs_since_best} epochs (patience)")
        return stop

    def test(self) -> None:
        """Load the best weights and measure them, once, on the test split if the dataset has one."""
        with self.world.together("rank 0 writing the best weights"):
            pass
        with self.world.together("loading the best weights"):
            bundle = read_bundle(self.directory / rundir.BUNDLE)
        self.world.handshake({"weights": bundle.info.weights_sha256})
        if TEST not in self.splits:
            if self.console is not None:
                self.console.say(f"no test: {self.config.data} has no test split")
            return
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        scores, values = self.score(TEST, classifier)
        if self.world.is_main:
            values |= {"split": TEST, "threshold": bundle.info.threshold, "step": bundle.info.step}
            write_results(self.directory, TEST, scores, self.manifest, values)
        figures = {key: value for key, value in values.items() if key not in ("confusion", "split")}
        self.write(TEST, {"step": self.trainer.step, **figures})
        if self.console is not None:
            self.console.say(f"test, weights of step {bundle.info.step}: {describe(values)}")

    def __enter__(self) -> Run:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write how the run ended, then close the trackers: they may take their time, the status is true at once."""
        if self.log is not None:
            self.log.close()
        if self.world.is_main and not self.config.dry_run:
            self._end(error)
        self.trackers.close("finished" if error is None else "failed", "" if error is None else str(error))

    def _end(self, error: BaseException | None) -> None:
        step = self.trainer.step
        if error is None:
            rundir.write_status(self.directory, "finished", step=step)
            if self.console is not None:
                self.console.end(self.directory)
        elif isinstance(error, UserError):
            rundir.write_status(self.directory, "failed", step=step, exit_code=error.exit_code, reason=str(error))
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            rundir.write_status(self.directory, "failed", step=step, exit_code=1, reason=reason)
            print(f"error: {reason} (at step {step}; {self.directory / rundir.STATUS} says so too)", file=sys.stderr)
