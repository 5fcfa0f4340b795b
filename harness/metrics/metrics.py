# SPDX-License-Identifier: Apache-2.0
"""Exact metrics from the logits and labels of every row, each row once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
"""Equal-width bins of confidence, as in Guo et al. (2017), On Calibration of Modern Neural Networks."""


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Class probabilities, float64 ``[rows, classes]``, from logits ``[rows]`` (two classes) or ``[rows, classes]``."""
    logits = logits.astype(np.float64)
    if logits.ndim == 1:
        return set_probabilities(np.stack((-logits, logits), axis=1))
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def set_probabilities(logits: np.ndarray) -> np.ndarray:
    """The probability of each class, float64 ``[rows, classes]``, where a text may have several labels."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def log_loss_per_row(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row in float64, computed from logits so that no probability is rounded to 0.

    With several labels to a text (bool ``labels`` ``[rows, classes]``): the sum over the classes.
    """
    from scipy.special import log_softmax  # predictions need no scipy

    if labels.ndim > 1:
        return np.asarray((np.logaddexp(0.0, logits) - logits * labels).sum(axis=1))
    if logits.ndim == 1:  # class 0 has 0
        logits = np.stack((np.zeros_like(logits), logits), axis=1)
    losses: np.ndarray = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return losses


def predict_labels(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """int64 ``[rows]``: the most probable class; with two classes, class 1 from ``threshold`` on."""
    if logits.ndim == 1:
        return (probabilities(logits)[:, 1] >= threshold).astype(np.int64)
    return logits.argmax(axis=1)


def num_classes_of(logits: np.ndarray) -> int:
    """Number of classes for logits of this shape."""
    return 2 if logits.ndim == 1 else logits.shape[1]


def classification_metrics(
    logits: np.ndarray, labels: np.ndarray, predicted: np.ndarray | None = None
) -> dict[str, Any]:
    """Accuracy, F1, areas, log loss, calibration and the confusion (``confusion_of``).

    ``predicted``: as ``labels``, int64 ``[rows]``, or bool ``[rows, classes]`` if a text may have several labels; None:
    the most probable classes.

    With two classes F1 and the areas under the ROC and the precision-recall curve (average precision) are those of
    class 1; with more they are macro averages, one class against the rest, and F1 leaves out classes that neither occur
    nor are predicted. Balanced accuracy is the mean recall of the classes that have rows. An area is None if a class
    has no row, or a logit is no number. The calibration error (ECE) is that of the most probable class.

    With several labels to a text, accuracy is that of whole label sets, F1 and the areas are macro averages over the
    classes that have rows, the micro average of F1 is in place of balanced accuracy, and the calibration error is that
    of the probabilities of all classes.
    """
    predicted = predict_labels(logits) if predicted is None else predicted
    classes = num_classes_of(logits)
    entries = per_class(labels, predicted, [""] * classes)
    f1 = [entry["f1"] for entry in entries if entry["f1"] is not None] or [0.0]
    f1 = [entries[1]["f1"] or 0.0] if logits.ndim == 1 else f1
    if labels.ndim > 1:
        f1_micro = 2 * (labels & predicted).sum() / max(1, labels.sum() + predicted.sum())
        averages = {"f1": float(np.mean(f1)), "f1_micro": float(f1_micro)}
    else:
        recalls = [entry["recall"] for entry in entries if entry["rows"]]
        averages = {"balanced_accuracy": float(np.mean(recalls)), "f1": float(np.mean(f1))}
    return {
        "rows": len(labels),
        "accuracy": float(is_right(labels, predicted).mean()),
        **averages,
        **areas(logits, labels),
        "log_loss": float(log_loss_per_row(logits, labels).mean()),
        "ece": calibration_error(reliability(logits, labels)),
        "confusion": confusion_of(labels, predicted, classes),
    }


def is_right(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Bool ``[rows]``: whether the class of a row, or each of its labels and no other, is predicted."""
    return labels == predicted if labels.ndim == 1 else (labels == predicted).all(axis=1)


def areas(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``roc_auc`` and ``pr_auc`` (average precision): of class 1, or the mean over classes against the rest."""
    from sklearn.metrics import average_precision_score, roc_auc_score  # predictions need no scikit-learn

    is_ranked = len(np.unique(labels)) >= num_classes_of(logits)
    if labels.ndim > 1:
        is_mixed = labels.any(axis=0) & ~labels.all(axis=0)
        logits, labels, is_ranked = logits[:, is_mixed], labels[:, is_mixed], bool(is_mixed.any())
    if not is_ranked or not np.isfinite(logits).all():
        return {"roc_auc": None, "pr_auc": None}
    scores = logits if logits.ndim == 1 or labels.ndim > 1 else probabilities(logits)
    roc, precision = roc_auc_score(labels, scores, multi_class="ovr"), average_precision_score(labels, scores)
    return {"roc_auc": float(roc), "pr_auc": float(precision)}


def confusion_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> list[list[int]]:
    """True class, predicted class and rows of each pair that occurs, in the order of the classes.

    With several labels to a text: a class that rows have and do not get, one that they get and do not have, and rows.
    """
    if labels.ndim > 1:
        matrix = ((labels & ~predicted).T.astype(np.float32) @ (predicted & ~labels)).astype(np.int64)
        return np.column_stack((*np.nonzero(matrix), matrix[matrix > 0])).tolist()
    pairs, rows = np.unique(labels * classes + predicted, return_counts=True)
    cells: list[list[int]] = np.stack((pairs // classes, pairs % classes, rows), axis=1).tolist()
    return cells


def mistakes_to_show(
    labels: np.ndarray, predicted: np.ndarray, chances: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of wrong rows, and the wrong class of each, both int64: of each true class (with several labels to a
    text, of each wrong one) in turn the most confident mistake that is left.

    ``labels`` and ``predicted`` are as for ``Scores``, ``chances`` is ``[rows, classes]``. There are at most ``number``
    of them, or up to ten times as many if the first turn needs them. A row with several labels may be there more often.
    """
    if labels.ndim > 1:
        wrong, classes = np.nonzero(predicted & ~labels)
        groups = classes
    else:
        wrong = np.flatnonzero(predicted != labels)
        classes, groups = predicted[wrong], labels[wrong]
    most_confident_first = np.lexsort((-chances[wrong, classes], groups))
    sorted_groups = groups[most_confident_first]
    turns = np.arange(len(groups)) - np.searchsorted(sorted_groups, sorted_groups)
    number = int(np.clip((turns == 0).sum(), number, 10 * number))
    chosen = most_confident_first[np.argsort(turns, kind="stable")[:number]]
    return wrong[chosen], classes[chosen]


def per_class(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, precision, recall and F1 of each class; None where undefined."""

    def share(part: int, total: int) -> float | None:
        return part / total if total else None

    def count_rows(classes: np.ndarray) -> list[int]:
        counts = classes.sum(axis=0) if classes.ndim > 1 else np.bincount(classes, minlength=len(names))
        return list(counts.tolist())

    hits = labels & predicted if labels.ndim > 1 else labels[labels == predicted]
    columns = map(count_rows, (hits, labels, predicted))
    return [
        {
            "label": name,
            "rows": rows,
            "predicted": predicted,
            "precision": share(hits, predicted),
            "recall": share(hits, rows),
            "f1": share(2 * hits, rows + predicted),
        }
        for name, hits, rows, predicted in zip(names, *columns, strict=True)
    ]


def worst_first(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes by rising F1, of equals the larger first; those without rows at the end."""
    return sorted(per_class, key=lambda entry: (not entry["rows"], entry["f1"] or 0.0, -entry["rows"]))


def reliability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy of the most probable class by its predicted probability (Guo et al., 2017); with several labels to a
    text the share of rows that have a class by its probability, over all classes.

    float64 ``[3, bins]``: rows whose confidence is in ((b - 1) / bins, b / bins], their mean confidence, and their
    accuracy; 0 for an empty bin.
    """
    if labels.ndim > 1:
        confidence, hits = set_probabilities(logits).ravel(), labels.ravel()
    else:
        chances = probabilities(logits)
        confidence, hits = chances.max(axis=1), chances.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    rows, *sums = (np.bincount(bins, weights, CALIBRATION_BINS) for weights in (None, confidence, hits))
    return np.stack((rows, *(sums / np.maximum(rows, 1))))


def calibration_error(bins: np.ndarray) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy of ``reliability``, weighted by rows."""
    rows, confidence, accuracy = bins
    return float((np.abs(confidence - accuracy) * rows).sum() / rows.sum())
