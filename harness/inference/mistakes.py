# SPDX-License-Identifier: Apache-2.0
"""The most confident mistakes, read back into words, with how much each word added to the wrong answer.

Occlusion (Zeiler and Fergus, 2014; leave-one-out in Li et al., 2016, Understanding Neural Networks through
Representation Erasure): a word's weight is how much the log-odds of the predicted label fall when the word is replaced
by ``<unk>``. That takes one forward pass for each word, many in a batch, and no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.inference.logits import logits_of
from harness.model.classifier import Classifier
from harness.scores.calibration import Decision
from harness.scores.metrics import blocks, predicted_labels, probabilities
from preprocessing.dataset.shards import Split
from preprocessing.text.vocabulary import UNK, Vocabulary

LISTED = 10
METHOD = "occlusion: fall of the predicted label's log-odds when the word is replaced by <unk>"
TOKENS_PER_TEXT = 100_000
"""Most tokens computed to explain one text; in longer texts neighbouring words are replaced together."""
BATCH_TOKENS = 16_384


def most_confident_mistakes(
    model: Classifier,
    split: Split,
    vocabulary: Vocabulary,
    rows: np.ndarray,
    labels: np.ndarray,
    logits: np.ndarray,
    names: Sequence[str],
    decision: Decision,
) -> list[dict[str, Any]]:
    """Row number, labels, probability, tokens and their weights of the mistakes with the highest probability.

    ``rows`` and ``labels`` are int64 ``[rows]`` and ``logits`` the model's own, as ``Scores`` holds them.
    """
    calibrated = decision.calibrated(logits)
    predicted = predicted_labels(calibrated, decision.threshold)
    said = np.empty(len(rows), np.float64)
    for some in blocks(calibrated):
        said[some] = probabilities(calibrated[some])[np.arange(len(rows[some])), predicted[some]]
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-said[wrong], kind="stable")][:LISTED]
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
