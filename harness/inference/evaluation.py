# SPDX-License-Identifier: Apache-2.0
"""How good the best weights of a run are on a split of a dataset, and its most confident mistakes.

Occlusion (Zeiler and Fergus, 2014; leave-one-out in Li et al., 2016, Understanding Neural Networks through
Representation Erasure): a word's weight is how much the log-odds of the predicted label fall when the word is replaced
by ``<unk>``. That takes one forward pass for each word, many in a batch, and no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.views import hashes_of, training_texts
from harness.inference.bundle import Bundle
from harness.inference.config import EvaluateConfig
from harness.inference.scoring import Scores, score_split, weights_and_dataset
from harness.inference.torch_scorer import logits_of
from harness.model.classifier import Classifier
from harness.ranks.session import Session
from harness.rundir.bundle_files import bundle_directory
from harness.rundir.layout import EVALUATION
from harness.rundir.results import figures_name, predictions_name, write_figures, write_predictions
from harness.scores.calibration import Decision
from harness.scores.figures import figures, texts_of
from harness.scores.metrics import blocks, predicted_labels, probabilities
from harness.scores.tables import describe_texts, show_figures
from preprocessing.base.atomic import storing
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.terminal import Screen
from preprocessing.dataset.shards import Manifest, Split
from preprocessing.labels import LabelType
from preprocessing.text.vocabulary import UNK, Vocabulary

LISTED = 10
METHOD = "occlusion: fall of the predicted label's log-odds when the word is replaced by <unk>"
TOKENS_PER_TEXT = 100_000
"""Most tokens computed to explain one text; in longer texts neighbouring words are replaced together."""
BATCH_TOKENS = 16_384


def evaluate(config: EvaluateConfig, session: Session) -> None:
    """Score one split with the best weights of a run; rank 0 writes what was found and says it.

    Every rank calls this. Raises the same ``UserError`` on all of them.
    """
    assert config.data is not None
    world = session.world

    def check(_: Manifest) -> None:
        if config.split == UNLABELLED:
            raise DataError(
                f"{config.data}: the rows of split {UNLABELLED} have no labels to compare with; `python -m harness "
                f"label` writes what a run makes of them"
            )

    bundle, manifest = weights_and_dataset(bundle_directory(config.run), config.data, session, check)
    scores, split = score_split(bundle, manifest, config.split, config.data, config, session)
    screen = Screen(quiet=config.quiet or not world.is_main)
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
    names, decision = bundle.info.labels, bundle.decision
    bundle.model.eval()
    facts: dict[str, Any] = {"lengths": scores.lengths, "unknown": scores.unknown, "names": names}
    return {
        "split": split.name,
        "dataset": bundle.info.dataset,
        "step": bundle.info.step,
        **figures(scores.logits, scores.labels, **facts, decision=decision),
        "mistakes": most_confident_mistakes(bundle.model, split, bundle.vocabulary, scores, names, decision),
        "mistakes_method": METHOD,
    }


def write_results(directory: Path, split: str, scores: Scores, manifest: Manifest, values: dict[str, Any]) -> None:
    """Write what ``assess`` found, and the prediction for every row of the split. Raises ``OSError``."""
    decision = Decision(values["temperature"], values["threshold"])
    write_scored(
        directory, split, scores.rows, scores.labels, scores.logits, manifest.labels, manifest.label_type, decision
    )
    write_figures(directory, split, values)


def write_scored(
    directory: Path,
    split: str,
    rows: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
    label_type: LabelType,
    decision: Decision,
) -> None:
    """Write the prediction for every row: number, label (int64 ``[rows]`` each) and logits before calibration."""
    calibrated = decision.calibrated(logits)
    said = {"predicted": predicted_labels(calibrated, decision.threshold), "chances": probabilities(calibrated)}
    write_predictions(directory, split, names, label_type, rows=rows, labels=labels, **said)


def worst_mistakes(
    logits: np.ndarray, labels: np.ndarray, decision: Decision, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the wrong predictions with the highest probability, the highest first, at most so many; of all rows
    the predicted labels, int64, and their probabilities, float64 ``[rows]``.
    """
    calibrated = decision.calibrated(logits)
    predicted = predicted_labels(calibrated, decision.threshold)
    said = np.empty(len(labels), np.float64)
    for some in blocks(calibrated):
        said[some] = probabilities(calibrated[some])[np.arange(len(labels[some])), predicted[some]]
    wrong = np.flatnonzero(predicted != labels)
    return wrong[np.argsort(-said[wrong], kind="stable")][:most], predicted, said


def most_confident_mistakes(
    model: Classifier, split: Split, vocabulary: Vocabulary, scores: Scores, names: Sequence[str], decision: Decision
) -> list[dict[str, Any]]:
    """Row number, labels, probability, tokens and their weights of the mistakes with the highest probability."""
    rows, labels = scores.rows, scores.labels
    worst, predicted, said = worst_mistakes(scores.logits, labels, decision, LISTED)
    texts = read_ids(split, rows[worst])
    result = []
    for place in worst:
        ids = texts[int(rows[place])]
        weights = occlusion(model, ids, int(predicted[place]))
        result.append(
            {
                "row": int(rows[place]),
                "label": names[labels[place]],
                "predicted": names[predicted[place]],
                "probability": float(said[place]),
                "tokens": vocabulary.tokens.take(ids).to_pylist(),
                "weights": [round(float(weight), 4) for weight in weights],
            }
        )
    return result


def read_ids(split: Split, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Token ids, int64 ``[length]``, of the rows with these numbers in the source."""
    found = {}
    for block in split.blocks:
        for place in np.flatnonzero(np.isin(block.row, rows)):
            found[int(block.row[place])] = block.ids[place, : block.length[place]].astype(np.int64)
    return found


def occlusion(model: Classifier, ids: np.ndarray, label: int) -> np.ndarray:
    """float64 ``[length]``: how much the log-odds of ``label`` fall without each token; the sum means nothing."""
    length = len(ids)
    together = -(-length * length // TOKENS_PER_TEXT)
    starts = np.arange(0, length, together)
    texts = [ids]
    for start in starts:
        without = ids.copy()
        without[start : start + together] = UNK
        texts.append(without)
    odds = log_odds(logits_of(model, texts, max(1, BATCH_TOKENS // length)), label)
    return np.repeat(odds[0] - odds[1:], together)[:length]


def log_odds(logits: np.ndarray, label: int) -> np.ndarray:
    """float64 ``[rows]``: the logarithm of the odds of ``label`` against all others."""
    if logits.ndim == 1:
        return logits if label == 1 else -logits
    others = np.delete(logits, label, axis=1)
    highest = others.max(axis=1)
    return logits[:, label] - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))
