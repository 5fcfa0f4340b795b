# SPDX-License-Identifier: Apache-2.0
"""Exact metrics from the logits and labels of every row, each row once."""

from __future__ import annotations

from typing import Any

import numpy as np


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, float64 ``[rows, classes]``, from logits ``[rows]`` (two classes) or ``[rows, classes]``."""
    logits = logits.astype(np.float64)
    if logits.ndim == 1:
        positive = np.exp(-np.logaddexp(0.0, -logits))
        return np.stack((np.exp(-np.logaddexp(0.0, logits)), positive), axis=1)
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def log_loss_per_row(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row in float64, computed from logits so that no probability is rounded to 0."""
    logits = logits.astype(np.float64)
    if logits.ndim == 1:
        return np.logaddexp(0.0, np.where(labels == 1, -logits, logits))
    highest = logits.max(axis=1, keepdims=True)
    normalizer = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return normalizer - logits[np.arange(len(labels)), labels]


def predicted_labels(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """int64 ``[rows]``: the most probable class; with two classes, class 1 from ``threshold`` on."""
    if logits.ndim == 1:
        return (probabilities(logits)[:, 1] >= threshold).astype(np.int64)
    return logits.argmax(axis=1)


def classification_metrics(logits: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Accuracy, F1, ROC AUC, log loss and confusion counts (rows: true class, columns: predicted class).

    With two classes F1 is that of class 1; with more, F1 and ROC AUC (one against the rest) are macro averages. ROC AUC
    is None where a class has no row, since it is not defined there.
    """
    from sklearn.metrics import confusion_matrix, f1_score, roc_auc_score

    num_classes = 2 if logits.ndim == 1 else logits.shape[1]
    predicted = predicted_labels(logits, threshold)
    every_class = np.arange(num_classes)
    binary = num_classes == 2
    auc = None
    if len(np.unique(labels)) == num_classes:
        scores = logits if binary else probabilities(logits)
        auc = float(roc_auc_score(labels, scores, multi_class="ovr", labels=None if binary else every_class))
    average = "binary" if binary else "macro"
    return {
        "rows": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "f1": float(
            f1_score(labels, predicted, average=average, labels=None if binary else every_class, zero_division=0)
        ),
        "roc_auc": auc,
        "log_loss": float(log_loss_per_row(logits, labels).mean()),
        "confusion": confusion_matrix(labels, predicted, labels=every_class).tolist(),
    }
