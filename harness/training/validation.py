# SPDX-License-Identifier: Apache-2.0
"""Validation: the figures of a split during a training, which weights are the best so far, and how they decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.config import RunConfig
from harness.data.loader import Loader
from harness.distributed.world import World
from harness.inference.bundle import write_bundle
from harness.inference.scoring import measure_language_model, score
from harness.metrics.calibration import Decision, choose_share, fit_decision, log_loss_at_best_temperature
from harness.metrics.figures import CHOSEN_BY, Scores
from harness.metrics.metrics import classification_metrics
from harness.model.classifier import Objective
from harness.model.language import LanguageObjective
from harness.model.networks import AnyObjective, build_network, load_weights
from harness.rundir import checkpoint
from harness.rundir.bundle_files import INDEX, read_info
from harness.rundir.layout import BUNDLE, storage
from harness.rundir.metrics_log import jsonable
from preprocessing.dataset.shards import Manifest

EARLY_NATS = 4.0
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

    def compare(
        self,
        world: World,
        figures: dict[str, Any],
        step: int,
        choose_decision: Callable[[], Decision],
        remaining_share: float = 0.0,
    ) -> bool:
        """Whether the validation ``figures`` after ``step`` are the best so far. Rank 0 decides for all ranks, since
        figures may differ in the last bit between machines.

        ``choose_decision`` computes temperature and threshold for these weights; called only if they are the best.
        Later weights are better for most corpora, and on few rows chance decides, so calibrated losses, summed over the
        rows, count ``EARLY_NATS`` times the ``remaining_share`` of the training more.
        """
        is_better = False
        if world.is_main:
            value = figures[CHOSEN_BY[self.metric]] * (1 if self.metric == "accuracy" else -1)
            if self.metric == "calibrated":
                value -= EARLY_NATS * remaining_share / figures["rows"]
            is_better = self.best is None or value > self.best or not math.isfinite(self.best)
            self.epochs_since_best += 1
            if is_better:
                self.best, self.best_step, self.epochs_since_best = value, step, 0
                self.decision = choose_decision()
        is_better, state = world.broadcast_from_main(
            (is_better, self.state()), "whether these weights are the best so far"
        )
        self.load(state)
        return is_better

    def has_run_out(self, patience: int | None) -> bool:
        """Whether so many validations in a row were not better; never without a ``patience``."""
        return patience is not None and self.epochs_since_best >= patience

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self) | {"best": jsonable(self.best)}

    def load(self, state: dict[str, Any]) -> None:
        """Load a result of ``state``; if the metric has changed, forget the best so far."""
        if state["metric"] == self.metric:
            best = None if state["best"] is None else float(state["best"])
            vars(self).update(state, best=best, decision=Decision(**state["decision"]))


def measure_objective(
    config: RunConfig, objective: AnyObjective, loader: Loader, world: World, pause: Callable[[], None]
) -> tuple[dict[str, Any], Callable[[], Decision]]:
    """The figures of the validation split, of a language model its perplexity, and a function that computes temperature
    and threshold from them, on rank 0. Every rank calls it; with a linear part, rank 0 also chooses its share in the
    summed logits.
    """
    if isinstance(objective, LanguageObjective):
        return measure_language_model(objective.classifier, loader, world, pause), Decision
    scores = score_classifier(objective, loader, world, pause)
    if not world.is_main:
        return {}, Decision
    choose_decision = partial(fit_decision, scores.logits, scores.labels, config.evaluation)
    predicted = choose_decision().predictions(scores.logits)[0] if scores.labels.ndim > 1 else None
    figures = classification_metrics(scores.logits, scores.labels, predicted)
    if config.select == "calibrated":
        figures["calibrated_log_loss"] = log_loss_at_best_temperature(scores.logits, scores.labels)
    return figures, choose_decision


def score_classifier(objective: Objective, loader: Loader, world: World, pause: Callable[[], None]) -> Scores:
    """The logits of all rows; on a GPU in the dtype of the training."""
    classifier = objective.classifier
    dtype = objective.recurrent_dtype if loader.device.type == "cuda" else None
    scores = score(classifier, loader, world, pause, partial(classifier.read, recurrent_dtype=dtype))
    if classifier.wide is None:
        return scores
    wide_logits = score(classifier, loader, world, pause, classifier.look_up).logits
    share = choose_share(scores.logits, wide_logits, scores.labels) if world.is_main else 0.0
    share = np.float32(world.broadcast_from_main(share, "the share of the linear part"))
    classifier.wide.share.fill_(float(share))
    # In fp32 and in this order, as the model itself adds them.
    logits = scores.logits.astype(np.float32) + share * wide_logits.astype(np.float32)
    return replace(scores, logits=logits.astype(np.float64))


def restore_best_weights(config: RunConfig, manifest: Manifest, selection: Selection, origin: dict[str, Any]) -> None:
    """Restore the best weights from their checkpoint if the bundle is of a later epoch, which is trained again.

    Raises ``DataError`` if that checkpoint is missing, ``StorageError`` if the bundle cannot be written.
    """
    bundle, step = Path(config.run, BUNDLE), selection.best_step
    if step is None or ((bundle / INDEX).exists() and read_info(bundle).step == step):
        return
    best = checkpoint.verify_checkpoint(checkpoint.checkpoint_path(config.run, step))
    weights, optimizer = best.tensors(checkpoint.MODEL), best.tensors(checkpoint.OPTIMIZER)
    weights = {name: optimizer.get(f"{checkpoint.AVERAGE}.{name}", values) for name, values in weights.items()}
    network = build_network(config, manifest)
    load_weights(network, weights, best.path)
    with storage(bundle):
        write_bundle(bundle, network, manifest, step, selection.decision, **origin)
