# SPDX-License-Identifier: Apache-2.0
"""A logistic regression on the embeddings of a sentence encoder: trained on ``train``, measured on the same splits as a
network, and the teacher of one.

Its strength is chosen by folds of the training rows, by their log loss; out of these folds are the probabilities of the
training rows themselves, on which the temperature of all others is fitted. Folds keep the shares of the classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.baseline.encoder import Embeddings, Encoder, embed_rows
from harness.baseline.linear import NEVER_SEEN, OnSplit, check, describe_scores, names_of
from harness.scores.calibration import fit_temperature
from harness.scores.figures import Scores
from harness.scores.metrics import log_loss_per_row, probabilities
from preprocessing.base.randomness import permutation
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import open_split

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Values of scikit-learn's C for embeddings of length 1."""
NUM_FOLDS = 5
MIN_JUDGED_ROWS = 5000
"""Folds are held out until they have so many rows, on which strength and temperature are chosen."""
MAX_STEPS = 300
FOLDS_STREAM = 0x666F6C64
"""A separate random stream for the folds."""
VERSION = 1


def recipe_of(encoder: Encoder) -> dict[str, Any]:
    """Settings of the model, stored in ``SPLIT.json``; results with other settings are computed again."""
    return {"version": VERSION, "encoder": encoder.sha256, "strengths": list(STRENGTHS), "folds": NUM_FOLDS}


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a split with their embeddings, ascending by their number in the source."""

    rows: np.ndarray
    """int64 ``[rows]``."""
    labels: np.ndarray
    """int64 ``[rows]``; ``NO_LABEL`` for those without."""
    vectors: np.ndarray
    """float32 ``[rows, features]``."""


def read_rows(data: str, manifest: Manifest, name: str, embeddings: Embeddings) -> LabelledRows:
    """The rows of a split. Raises as ``embed_rows`` does."""
    split = open_split(data, manifest, name)
    rows, labels = split.column("row"), split.column("label")
    order = np.argsort(rows)
    return LabelledRows(rows[order], labels[order], embed_rows(embeddings, data, manifest, rows[order]))


def assign_folds(labels: np.ndarray) -> np.ndarray:
    """int64 ``[rows]``: the fold of each row, from 0; rows of each class are dealt to all folds."""
    order = permutation(len(labels), FOLDS_STREAM)
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[by_class] = np.arange(len(labels)) % NUM_FOLDS
    return folds


def fit(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """scikit-learn's logistic regression; more than two classes share one softmax."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=MAX_STEPS).fit(vectors, labels)


def logits_of(model: Any, vectors: np.ndarray, num_classes: int) -> np.ndarray:
    """float64 ``[rows]`` for two classes, ``[rows, classes]`` for more; classes without training rows are lowest."""
    scores = model.decision_function(vectors)
    if scores.ndim == 1:
        if num_classes == 2:
            return np.asarray(scores, np.float64)
        scores = np.stack((np.zeros_like(scores), scores), axis=1)
    result = np.repeat(scores.min(axis=1, keepdims=True) - NEVER_SEEN, num_classes, axis=1).astype(np.float64)
    result[:, model.classes_] = scores
    return result


@dataclass(frozen=True)
class Regression:
    """The model, trained on a dataset's training rows."""

    num_classes: int
    model: Any
    strength: float
    temperature: float
    folds: np.ndarray
    """int64 ``[training rows]``: the fold of each."""
    judged: list[int]
    """The folds that were held out in turn: so many that they have ``MIN_JUDGED_ROWS``, or all."""
    is_right: np.ndarray
    """Bool ``[training rows]``: whether a model of the other folds gives each row its label; False in other folds."""

    @classmethod
    def learn(cls, train: LabelledRows, num_classes: int) -> Regression:
        """Choose strength and temperature by folds, then fit all rows."""
        folds = assign_folds(train.labels)
        judged = list(range(min(NUM_FOLDS, max(1, -(-MIN_JUDGED_ROWS * NUM_FOLDS // len(folds))))))
        is_judged = np.isin(folds, judged)
        labels, logits_by_strength = train.labels[is_judged], {}
        with threadpool_limits(1):
            for strength in STRENGTHS:
                logits_by_strength[strength] = fit_folds(train, folds, judged, num_classes, strength)[is_judged]

            def cost(strength: float) -> float:
                logits = logits_by_strength[strength]
                return float(log_loss_per_row(logits / fit_temperature(logits, labels), labels).mean())

            strength = min(STRENGTHS, key=cost)
            model = fit(train.vectors, train.labels, strength)
        logits, is_right = logits_by_strength[strength], np.zeros(len(folds), bool)
        is_right[is_judged] = probabilities(logits).argmax(axis=1) == labels
        return cls(num_classes, model, strength, fit_temperature(logits, labels), folds, judged, is_right)

    def chances(self, vectors: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 ``[rows, classes]``."""
        return probabilities(logits_of(self.model, vectors, self.num_classes) / self.temperature)


def fit_folds(
    train: LabelledRows, folds: np.ndarray, judged: Sequence[int], num_classes: int, strength: float
) -> np.ndarray:
    """The logits of each row of the ``judged`` folds by a model of all other folds; 0 for rows of others."""
    labels = train.labels
    logits = np.zeros((len(labels),) if num_classes == 2 else (len(labels), num_classes))
    for fold in judged:
        is_held_out = folds == fold
        if is_held_out.any() and len({*labels[~is_held_out].tolist()}) > 1:
            model = fit(train.vectors[~is_held_out], labels[~is_held_out], strength)
            logits[is_held_out] = logits_of(model, train.vectors[is_held_out], num_classes)
    return logits


@dataclass(frozen=True)
class MeasuredEncoder:
    """The regression on an encoder's embeddings, and its figures."""

    train: LabelledRows
    regression: Regression
    results: Mapping[str, OnSplit]


def measure_encoder(data: str, manifest: Manifest, embeddings: Embeddings) -> MeasuredEncoder:
    """Train on the training split, and measure each split of ``names_of``.

    Raises ``DataError`` as ``check`` does, and as ``embed_rows`` does.
    """
    check(data, manifest)
    train, num_classes = read_rows(data, manifest, TRAIN, embeddings), len(manifest.labels)
    rows_by_split = {name: read_rows(data, manifest, name, embeddings) for name in names_of(manifest)}
    start_s = time.process_time()
    regression = Regression.learn(train, num_classes)
    measured = {
        name: Scores(split.rows, split.labels, logits_of(regression.model, split.vectors, num_classes))
        for name, split in rows_by_split.items()
    }
    facts: dict[str, Any] = {"dataset": manifest.fingerprint, "recipe": recipe_of(embeddings.encoder)}
    facts |= {"encoder": embeddings.encoder.name, "features": train.vectors.shape[1], "train_rows": len(train.rows)}
    facts |= {"C": regression.strength, "seconds": time.process_time() - start_s}
    facts["texts_per_s"] = embeddings.texts_per_s
    return MeasuredEncoder(train, regression, describe_scores(measured, facts, manifest))
