# SPDX-License-Identifier: Apache-2.0
"""A logistic regression on the embeddings of a sentence encoder: trained on ``train``, measured on the same splits as a
network, and the teacher of one.

Its strength is chosen by folds of the training rows, by their log loss; out of these folds are the probabilities of the
training rows themselves, on which the temperature of all others is fitted. Folds keep the shares of the classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.baseline.encoder import Embeddings, Encoder, embed_rows
from harness.baseline.linear import OnSplit, check, describe_scores, logits_of, names_of, predict_held_out
from harness.scores.calibration import fit_temperature, log_loss_at_best_temperature
from harness.scores.figures import Scores
from harness.scores.metrics import probabilities
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import open_split

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Values of scikit-learn's C for embeddings of length 1."""
MAX_STEPS = 300
VERSION = 1


def recipe_of(encoder: Encoder) -> dict[str, Any]:
    """Settings of the model, stored in ``SPLIT.json``; results with other settings are computed again."""
    return {"version": VERSION, "encoder": encoder.sha256, "strengths": list(STRENGTHS)}


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


def fit(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Any:
    """scikit-learn's logistic regression; more than two classes share one softmax."""
    from sklearn.linear_model import LogisticRegression

    with threadpool_limits(1):
        return LogisticRegression(C=strength, max_iter=MAX_STEPS).fit(vectors, labels)


@dataclass(frozen=True)
class Regression:
    """The model, trained on a dataset's training rows."""

    num_classes: int
    model: Any
    strength: float
    temperature: float
    held_out: np.ndarray
    """Logits of the training rows as of ``predict_held_out``, before calibration."""

    @classmethod
    def learn(cls, vectors: np.ndarray, labels: np.ndarray, num_classes: int) -> Regression:
        """Choose strength and temperature by folds, then fit all rows."""
        held_out = {
            strength: predict_held_out(partial(fit, strength=strength), vectors, labels, num_classes)
            for strength in STRENGTHS
        }
        strength = min(STRENGTHS, key=lambda value: log_loss_at_best_temperature(held_out[value], labels))
        temperature = fit_temperature(held_out[strength], labels)
        return cls(num_classes, fit(vectors, labels, strength), strength, temperature, held_out[strength])

    def chances(self, vectors: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 ``[rows, classes]``."""
        return probabilities(logits_of(self.model, vectors, self.num_classes) / self.temperature)


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
    regression = Regression.learn(train.vectors, train.labels, num_classes)
    measured = {
        name: Scores(split.rows, split.labels, logits_of(regression.model, split.vectors, num_classes))
        for name, split in rows_by_split.items()
    }
    facts: dict[str, Any] = {"dataset": manifest.fingerprint, "recipe": recipe_of(embeddings.encoder)}
    facts |= {"encoder": embeddings.encoder.name, "features": train.vectors.shape[1], "train_rows": len(train.rows)}
    facts |= {"C": regression.strength, "seconds": time.process_time() - start_s}
    facts["texts_per_s"] = embeddings.texts_per_s
    return MeasuredEncoder(train, regression, describe_scores(measured, facts, manifest))
