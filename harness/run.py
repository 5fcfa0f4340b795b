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
from harness.checks import TEST, TRAIN, VALIDATION, check_dataset, check_fit, order_spec
from harness.config import RunConfig, to_dict
from harness.console import Console
from harness.data.loader import Loader
from harness.data.order import order_over
from harness.data.residency import OpenData
from harness.evaluate import Scores, describe, score, write_results
from harness.metrics import classification_metrics
from harness.model import Classifier, Objective
from harness.session import Session
from harness.trackers import check_trackers
from harness.tracking import Tracking
from harness.trainer import Trainer
from preprocessing import atomic
from preprocessing.errors import UserError


class Run:
    """Builds everything a run needs on this rank, and keeps ``status.json`` true until the end.

    A context manager: leaving it writes the final state, whatever ended the block.
    """

    def __init__(self, config: RunConfig, session: Session) -> None:
        """Check, agree with the other ranks, then build. Raises the same ``UserError`` on every rank."""
        self.config, self.session, self.world = config, session, session.world
        self.best: float | None = None
        with self.world.together("the checks before training"):
            if self.world.is_main:
                check_trackers(config.tracking)
                rundir.check_free(config.run)
            self.manifest = check_dataset(config.data, hashes=self.world.is_main)
            check_fit(config, self.manifest, self.world.world_size)
        settings = hashlib.sha256(atomic.canonical_json(to_dict(config))).hexdigest()[:16]
        version = f"{torch.__version__}"
        facts = {"configuration": settings, "dataset": self.manifest.fingerprint[:16], "torch": version}
        self.world.handshake(facts)
        self.directory = Path(config.run)
        self.data = OpenData(config, self.manifest, TRAIN, self.world, session.device)
        session.choices.update(self.data.choices)
        with self.world.together("opening the run directory"):
            if self.world.is_main:
                rundir.claim(config)
                rundir.write_status(self.directory, "running")
                self._describe()
        with self.world.together("staging the dataset"):
            self.data.copy()
        with self.world.together("opening the dataset"):
            self.data.open()
        self.splits = self.data.splits
        self.trainer = self._build_trainer()
        self.console = Console(self.trainer.total_steps) if self.world.is_main else None
        self.tracking = Tracking(session.accelerator, config, self.directory, self.world.is_main)
        if self.console is not None:
            self.console.start(config, self.manifest, self.trainer.classifier, session.choices)

    def _describe(self) -> None:
        effective = {name: str(choice) for name, choice in self.session.choices.items()}
        atomic.write_json(self.directory / rundir.ENVIRONMENT, rundir.describe_environment(effective))
        write_vocabulary(self.directory / rundir.BUNDLE, Path(self.config.data))

    def _build_trainer(self) -> Trainer:
        config, split = self.config, self.splits[TRAIN]
        order = order_over(split, order_spec(config))
        loader = Loader(
            split,
            order,
            rank=self.world.rank,
            world_size=self.world.world_size,
            layout=self.session.layout,
            device=self.session.device,
            micro_batch=config.micro_batch,
            resident=self.data.rows,
            guard=self.data.guard.check_sizes,
        )
        torch.manual_seed(config.seed)
        classifier = Classifier(config.model, self.manifest.vocabulary_size, len(self.manifest.labels))
        objective = Objective(classifier.to(self.session.device))
        classifier.recurrent.flatten_parameters()
        return Trainer(
            config,
            objective,
            loader,
            self.session.accelerator,
            self.world,
            validate=self.validate,
            report=self.report,
        )

    def report(self, figures: dict[str, Any]) -> None:
        """A log line."""
        self.tracking.write("train", figures)
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

    def validate(self, epoch: int, step: int) -> None:
        """Exact validation; the weights are kept if they are the best so far."""
        with self.world.together("checking that the dataset is unchanged"):
            self.data.guard.check()
        classifier = self.trainer.classifier
        _, values = self.score(VALIDATION, classifier)
        selected = values["accuracy"] if self.config.select == "accuracy" else -values["log_loss"]
        better = self.best is None or selected > self.best or not np.isfinite(self.best)
        if better:
            self.best = selected
            if self.world.is_main:
                write_bundle(self.directory / rundir.BUNDLE, classifier, self.manifest, step)
        figures = {key: value for key, value in values.items() if key != "confusion"}
        self.tracking.write(VALIDATION, {"step": step, "epoch": epoch + 1, **figures, "best": better})
        if self.world.is_main:
            rundir.write_status(self.directory, "running", step=step)
        if self.console is not None:
            self.console.say(f"epoch {epoch + 1} validation: {describe(values)}{' (best so far)' if better else ''}")

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
        self.tracking.write(TEST, {"step": self.trainer.step, **figures})
        if self.console is not None:
            self.console.say(f"test, weights of step {bundle.info.step}: {describe(values)}")

    def __enter__(self) -> Run:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the trackers, then write how the run ended."""
        self.tracking.close()
        if not self.world.is_main:
            return
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
