# SPDX-License-Identifier: Apache-2.0
"""A logistic regression on the embeddings of a sentence encoder: trained on ``train``, measured on the same splits as a
network, and the teacher of one.

Its strength is chosen by folds of the training rows, by their log loss; out of these folds are the probabilities of the
training rows themselves, on which the temperature of all others is fitted. Folds keep the shares of the classes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.baseline.encoder import Embeddings, read_texts
from harness.baseline.linear import OnSplit, check, describe_scores, logits_of, names_of, sort_scores
from harness.baseline.out_of_fold import predict_held_out, read_labelled
from harness.scores.calibration import fit_temperature, log_loss_at_best_temperature
from harness.scores.metrics import probabilities
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import MANIFEST, Manifest
from preprocessing.dataset.views import open_split

if TYPE_CHECKING:
    import pandas as pd

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Values of scikit-learn's C for embeddings of length 1."""
MAX_STEPS = 300


def recipe_of(sha256: str) -> dict[str, Any]:
    """Settings of the model on the encoder with this sha256, stored in ``SPLIT.json``; results with other settings are
    computed again. ``encoder`` is the folder of the figures.
    """
    return {"version": 1, "encoder": f"encoder-{sha256[:12]}", "strengths": list(STRENGTHS)}


def fit_regression(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Any:
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
    """Calibrated probabilities of the training rows by models that have not learned from them."""

    @classmethod
    def learn(cls, data: str | Path, vectors: np.ndarray, rows: pd.DataFrame, num_classes: int) -> Regression:
        """Choose strength and temperature by folds, then fit all ``rows``, which have the columns text and label.

        Raises ``DataError`` as ``predict_held_out`` does.
        """
        labels = rows["label"].to_numpy()

        def predict_by_folds(strength: float) -> np.ndarray:
            def predict(is_held_out: np.ndarray) -> np.ndarray:
                model = fit_regression(vectors[~is_held_out], labels[~is_held_out], strength)
                return logits_of(model, vectors[is_held_out], num_classes)

            return predict_held_out(predict, data, rows, num_classes)

        logits = {strength: predict_by_folds(strength) for strength in STRENGTHS}
        strength = min(STRENGTHS, key=lambda value: log_loss_at_best_temperature(logits[value], labels))
        temperature = fit_temperature(logits[strength], labels)
        held_out = probabilities(logits[strength] / temperature)
        return cls(num_classes, fit_regression(vectors, labels, strength), strength, temperature, held_out)

    def logits(self, vectors: np.ndarray) -> np.ndarray:
        """``logits_of`` embeddings, before calibration."""
        return logits_of(self.model, vectors, self.num_classes)

    def chances(self, vectors: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 ``[rows, classes]``."""
        return probabilities(self.logits(vectors) / self.temperature)


def measure_encoder(data: str, manifest: Manifest, embeddings: Embeddings) -> tuple[Regression, dict[str, OnSplit]]:
    """Train on the training split, and measure each split of ``names_of``.

    Raises ``DataError`` as ``check``, ``read_texts``, ``Embeddings.look_up`` and ``predict_held_out`` do.
    """
    check(data, manifest)
    if manifest.has_label_sets:
        problem = "a text may have several labels, which a regression on an encoder does not learn"
        raise DataError(f"{Path(data, MANIFEST)}: {problem}; leave the encoder out")
    splits = [open_split(data, manifest, name) for name in (TRAIN, *names_of(manifest))]
    vectors = [embeddings.look_up(read_texts(split)) for split in splits]
    start_s = time.process_time()
    rows, _ = read_labelled(data, manifest, [TRAIN])
    regression = Regression.learn(data, vectors[0], rows, len(manifest.labels))
    facts: dict[str, Any] = {
        "dataset": manifest.fingerprint,
        "recipe": recipe_of(embeddings.encoder.sha256),
        "encoder": embeddings.encoder.name,
        "features": vectors[0].shape[1],
        "train_rows": len(rows),
        "C": regression.strength,
        "seconds": time.process_time() - start_s,
    }
    measured = {
        split.name: sort_scores(split, regression.logits(features))
        for split, features in zip(splits[1:], vectors[1:], strict=True)
    }
    return regression, describe_scores(measured, facts, manifest)
