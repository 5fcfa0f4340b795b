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
from harness.inference.bundle import read_bundle
from harness.inference.evaluation import assess, write_results
from harness.inference.scoring import Scores, loader_over, score
from harness.model.classifier import Classifier
from harness.ranks.distributed import World
from harness.ranks.session import Session
from harness.rundir.layout import BUNDLE, EVALUATION, storage
from harness.scores.calibration import Decision, choose_share
from harness.scores.figures import CHOSEN_BY, numbers_of
from harness.training.writer import Sink


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
        world, guard = self.session.world, self.data.guard.check_sizes
        loader = loader_over(self.data.splits[split], world, self.batch_rows, self.layout, self.session.device, guard)
        return score(classifier, loader, world, pause, read)

    def measure_best(
        self, directory: Path, step: int, sinks: Sink, pause: Callable[[], None]
    ) -> dict[str, dict[str, Any]]:
        """Load the best weights of a run and measure them, once, on the test split if the dataset has one.

        Where it has none, they are measured on validation, for the report has nothing else to show; and on a fold that
        was held out, since all folds together are predictions of every row. ``step`` is the run's last one. Every rank
        calls it; rank 0 writes, and is given all figures of each split.
        """
        world, data, measured = self.session.world, self.data, {}
        with world.together("loading the best weights"):
            bundle = read_bundle(directory / BUNDLE)
        world.handshake({"weights": bundle.info.weights_sha256})
        classifier = bundle.model.to(self.session.device)
        classifier.recurrent.flatten_parameters()
        places = {VALIDATION: directory / EVALUATION, TEST: directory}
        if TEST not in data.splits:
            sinks.say(f"no test: {data.data} has no test split")
            del places[TEST]
        elif fold_of(data.manifest) is None:
            del places[VALIDATION]
        for split, place in places.items():
            scores = self(split, classifier, pause)
            with world.together(f"writing the results of {split}"), storage(directory):
                if world.is_main:
                    measured[split] = assess(scores, bundle, data.splits[split])
                    write_results(place, split, scores, data.manifest.label_type, measured[split])
        if TEST in measured:
            sinks.log(TEST, {"step": step, **numbers_of(measured[TEST])})
        return measured


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
