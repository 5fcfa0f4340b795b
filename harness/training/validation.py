# SPDX-License-Identifier: Apache-2.0
"""Scores of a run's own splits: at each validation, and once on the test split when training is over."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from harness.batch import Batch, Layout
from harness.data.checks import TEST, VALIDATION
from harness.data.placement import OpenData
from harness.data.views import fold_of
from harness.inference.bundle import Bundle, read_bundle
from harness.inference.evaluation import assess, write_results
from harness.inference.scoring import Scores, score
from harness.model.classifier import Classifier
from harness.ranks.distributed import World
from harness.ranks.session import Session
from harness.rundir.layout import BUNDLE, EVALUATION, storage
from harness.scores.calibration import Decision, choose_share
from harness.scores.figures import CHOSEN_BY, numbers_of
from harness.training.sinks import Sink


@dataclass(frozen=True)
class Scorer:
    """What scoring needs beside a model and a split's name."""

    session: Session
    data: OpenData
    layout: Layout
    batch_rows: int
    """Rows per batch and process."""

    def validate(self, split: str, classifier: Classifier, pause: Callable[[], None]) -> Scores:
        """Scores of a split by which the parts of the model are weighed: the share of the wide part is chosen here."""
        if classifier.wide is None:
            return self(split, classifier, pause)
        scores = self(split, classifier, pause, classifier.read)
        network, wide = scores.logits, self(split, classifier, pause, classifier.look_up).logits
        # In fp32 and in this order, as the model itself adds them.
        share = np.float32(choose_share(network, wide, scores.labels))
        classifier.wide.share.fill_(float(share))
        summed = network.astype(np.float32) + share * wide.astype(np.float32)
        return replace(scores, logits=summed.astype(np.float64))

    def __call__(
        self,
        split: str,
        classifier: Classifier,
        pause: Callable[[], None],
        read: Callable[[Batch], torch.Tensor] | None = None,
    ) -> Scores:
        """Scores of a split, on every rank; ``pause`` is called on all ranks every few batches and may raise.

        ``read`` gives the logits where they are not to be the whole model's.
        """
        return score(
            classifier,
            self.data.splits[split],
            self.session.world,
            batch_rows=self.batch_rows,
            layout=self.layout,
            device=self.session.device,
            pause=pause,
            guard=self.data.guard.check_sizes,
            read=read,
        )

    def test(self, directory: Path, step: int, sinks: Sink, pause: Callable[[], None]) -> dict[str, Any]:
        """Load the best weights of a run and measure them, once, on the test split if the dataset has one; and on a
        fold that was held out.

        ``step`` is the run's last one. Every rank calls it; rank 0 writes, and is given all figures.
        """
        world, data = self.session.world, self.data
        with world.together("loading the best weights"):
            bundle = read_bundle(directory / BUNDLE)
        world.handshake({"weights": bundle.info.weights_sha256})
        if TEST not in data.splits or fold_of(data.manifest) is not None:
            self.last_validation(directory, bundle, pause)
        if TEST not in data.splits:
            sinks.say(f"no test: {data.data} has no test split")
            return {}
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        scores = self(TEST, classifier, pause)
        values: dict[str, Any] = {}
        with world.together("writing the test's results"), storage(directory):
            if world.is_main:
                values = assess(scores, bundle, data.splits[TEST])
                write_results(directory, TEST, scores, data.manifest.label_type, values)
        if world.is_main:
            sinks.log(TEST, {"step": step, **numbers_of(values)})
        return values

    def last_validation(self, directory: Path, bundle: Bundle, pause: Callable[[], None]) -> None:
        """Measure the best weights on validation, where there is no test split, for the report has nothing else to
        show; and on a fold that was held out, since all folds together are predictions of every row.

        The figures go to the place of an evaluation's. Every rank calls it; rank 0 writes.
        """
        world, data = self.session.world, self.data
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        scores = self(VALIDATION, classifier, pause)
        with world.together("writing the results on validation"), storage(directory):
            if world.is_main:
                values = assess(scores, bundle, data.splits[VALIDATION])
                write_results(directory / EVALUATION, VALIDATION, scores, data.manifest.label_type, values)


@dataclass
class Selection:
    """The best validation so far."""

    metric: Literal["accuracy", "loss", "calibrated"]
    """What is compared: the highest accuracy, the lowest log loss, or the lowest once probabilities are calibrated."""
    patience: int | None = None
    """Validations in a row without a better one after which training stops; None: never."""
    best: float | None = None
    """The best value so far; a loss counts negative, so higher is always better."""
    best_step: int | None = None
    epochs_since_best: int = 0
    decision: Decision = field(default_factory=Decision)
    """How the logits of the best weights become probabilities and labels."""

    def agree(self, world: World, values: dict[str, Any], step: int, decide: Callable[[], Decision] = Decision) -> bool:
        """What ``consider`` says on rank 0, on every rank: figures of other machines may differ in the last bit.

        ``decide`` gives the decision that belongs to the weights if they are the best.
        """
        better = False
        if world.is_main:
            better = self.consider(values, step)
            self.decision = decide() if better else self.decision
        better, state = world.from_main((better, self.state()), "whether these weights are the best so far")
        self.load(state)
        return better

    def consider(self, values: dict[str, Any], step: int) -> bool:
        """Whether the validation ``values`` after ``step`` are the best so far; remembers them."""
        value = values[CHOSEN_BY[self.metric]] * (1 if self.metric == "accuracy" else -1)
        better = self.best is None or value > self.best or not math.isfinite(self.best)
        self.epochs_since_best = 0 if better else self.epochs_since_best + 1
        if better:
            self.best, self.best_step = value, step
        return better

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.epochs_since_best >= self.patience

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {key: value for key, value in asdict(self).items() if key != "patience"}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what ``state`` gave; with another metric the best so far counts no more."""
        if state["metric"] == self.metric:
            self.best, self.best_step = state["best"], state["best_step"]
            self.epochs_since_best, self.decision = state["epochs_since_best"], Decision(**state["decision"])
