# SPDX-License-Identifier: Apache-2.0
"""What is known of weights after an evaluation: figures, intervals, calibration, subgroups, the worst mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.data.placement import open_data
from harness.data.seen import hashes_of, training_texts
from harness.data.views import as_trained
from harness.inference.bundle import Bundle, read_bundle, same_text
from harness.inference.config import EvaluateConfig
from harness.inference.mistakes import METHOD, most_confident_mistakes
from harness.inference.scoring import Scores, score
from harness.ranks.precision import layout_on
from harness.ranks.session import Session
from harness.rundir.layout import BUNDLE, EVALUATION
from harness.rundir.results import figures_name, predictions_name, write_figures, write_predictions
from harness.scores.figures import describe_texts, figures, numbers_of, texts_of
from harness.scores.metrics import predicted_labels, probabilities
from harness.scores.tables import show_figures
from preprocessing.base.errors import DataError
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.storage import storing
from preprocessing.dataset.shards import Manifest, Split, read_manifest

__all__ = ["assess", "evaluate", "numbers_of", "write_results"]


def evaluate(config: EvaluateConfig, session: Session) -> None:
    """Score one split with the best weights of a run; rank 0 writes what was found and says it.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    world, device = session.world, session.device
    with world.together("loading weights and dataset"):
        bundle = read_bundle(Path(config.run, BUNDLE))
        manifest = as_trained(read_manifest(config.data), bundle.info.fold, bundle.info.dataset, config.data)
        same_text(bundle.info, manifest, config.data)
        if config.split == UNLABELLED:
            raise DataError(
                f"{config.data}: the rows of split {UNLABELLED} have no labels to compare with; `python -m harness "
                f"label` writes what a run makes of them"
            )
    world.handshake({"weights": bundle.info.weights_sha256, "dataset": manifest.fingerprint})
    wanted = (config.data, manifest, config.split, world)
    data = open_data(*wanted, timeout_s=config.timeout_s, stage_dir=config.stage_dir, only=True)
    screen = Screen(quiet=config.quiet or not world.is_main)
    for name, choice in data.choices.items():
        screen.fact(name, str(choice))
    split = data.splits[config.split]
    model = bundle.model.to(device)
    model.recurrent.flatten_parameters()
    scores = score(
        model,
        split,
        world,
        batch_rows=config.batch,
        layout=layout_on(device, bundle.model.config.hidden_size)[0],
        device=device,
        guard=data.guard.check_sizes,
    )
    directory = Path(config.output) if config.output else Path(config.run, EVALUATION)
    values: dict[str, Any] = {}
    with world.together("writing the results"), storing(directory, otherwise="name another --output"):
        if world.is_main:
            values = assess(scores, bundle, split) | {"dataset": manifest.fingerprint}
            readable = scores.unknown < scores.lengths  # of others the ids say nothing
            order = np.argsort(np.concatenate([block.row for block in split.blocks]))
            trained = training_texts(hashes_of(split)[order][readable], config.run, bundle.info.dataset)
            values["texts"] = texts_of(scores.lengths, scores.unknown, trained)
            write_results(directory, config.split, scores, manifest, values)
    if world.is_main:
        show_figures(screen, {config.split: values})
        for sentence in describe_texts(values["texts"], values["rows"]):
            screen.say(f"note: {sentence}", "warn")
        screen.say(f"written to {directory / figures_name(config.split)} and {predictions_name(config.split)}")


def assess(scores: Scores, bundle: Bundle, split: Split) -> dict[str, Any]:
    """All figures of ``SPLIT.json``: metrics after calibration with intervals, calibration, subgroups and mistakes.

    Rank 0 alone calls this; it needs no other rank. The model of ``bundle`` lies on its device.
    """
    found = (scores.rows, scores.labels, scores.logits)
    names, decision = bundle.info.labels, bundle.decision
    bundle.model.eval()
    return {
        "split": split.name,
        "dataset": bundle.info.dataset,
        "step": bundle.info.step,
        **figures(
            scores.logits,
            scores.labels,
            lengths=scores.lengths,
            unknown=scores.unknown,
            names=names,
            decision=decision,
        ),
        "mistakes": most_confident_mistakes(bundle.model, split, bundle.vocabulary, *found, names, decision),
        "mistakes_method": METHOD,
    }


def write_results(directory: Path, split: str, scores: Scores, manifest: Manifest, values: dict[str, Any]) -> None:
    """Write what ``assess`` found, and the prediction for every row of the split. Raises ``OSError``."""
    logits = scores.logits / values["temperature"]
    write_predictions(
        directory,
        split,
        manifest.labels,
        manifest.label_type,
        rows=scores.rows,
        labels=scores.labels,
        predicted=predicted_labels(logits, values["threshold"]),
        chances=probabilities(logits),
    )
    write_figures(directory, split, values)
