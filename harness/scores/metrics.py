# SPDX-License-Identifier: Apache-2.0
"""Exact metrics from the logits and labels of every row, each row once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
"""Equal-width bins of confidence, as in Guo et al. (2017), On Calibration of Modern Neural Networks."""
BLOCK = 1 << 22
"""Logits per block, 32 MB in float64; their probabilities take a few times that."""
WHOLE_CLASSES = 1000
"""Maximum classes for a whole confusion matrix in the figures, else they have non-empty cells: the matrix of 10,000
classes would take 300 MB of JSON.
"""
MATRIX, CELLS = "confusion", "confusion_cells"


def blocks(logits: np.ndarray) -> Iterator[slice]:
    """Slices of rows, small enough that intermediate results take little memory compared with ``logits``."""
    step = max(1, BLOCK // max(1, logits[:1].size))
    yield from (slice(start, start + step) for start in range(0, len(logits), step))


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
    if logits.ndim == 1:
        logits = logits.astype(np.float64)
        return np.logaddexp(0.0, np.where(labels == 1, -logits, logits))
    losses = np.empty(len(labels), np.float64)
    for rows in blocks(logits):
        some = logits[rows].astype(np.float64)
        highest = some.max(axis=1, keepdims=True)
        normalizer = np.log(np.exp(some - highest).sum(axis=1)) + highest[:, 0]
        losses[rows] = normalizer - some[np.arange(len(some)), labels[rows]]
    return losses


def predicted_labels(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
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
    """Accuracy, F1, areas, log loss, calibration and the confusion, in one of its two forms (``confusion_to_json``).

    ``predicted``: int64 ``[rows]``; None: the most probable classes.

    With two classes F1 and the areas under the ROC and the precision-recall curve (average precision) are those of
    class 1; with more they are macro averages, one class against the rest, and F1 leaves out classes that neither occur
    nor are predicted. Balanced accuracy is the mean recall of the classes that have rows. An area is None if a class
    has no row. The calibration error (ECE) is that of the most probable class.
    """
    predicted, classes = predicted_labels(logits) if predicted is None else predicted, num_classes_of(logits)
    confusion = confusion_of(labels, predicted, classes)
    support = confusion.sum(axis=1)
    recall = confusion.diagonal()[support > 0] / support[support > 0]
    f1 = [entry["f1"] for entry in per_class(confusion, [""] * classes)]
    f1 = [f1[1] or 0.0] if classes == 2 else [each for each in f1 if each is not None]
    return {
        "rows": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall.mean()),
        "f1": float(np.mean(f1)),
        **areas(logits, labels),
        "log_loss": float(log_loss_per_row(logits, labels).mean()),
        "ece": calibration_error(reliability(logits, labels)),
        **confusion_to_json(confusion),
    }


def areas(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``roc_auc`` and ``pr_auc`` (average precision): of class 1, or the mean over classes against the rest."""
    if len(np.unique(labels)) < num_classes_of(logits):
        return {"roc_auc": None, "pr_auc": None}
    roc_auc, pr_auc = np.mean([one.areas for one in rankings(logits, labels)], axis=0)
    return {"roc_auc": float(roc_auc), "pr_auc": min(1.0, float(pr_auc))}  # rounding may exceed 1


def rankings(logits: np.ndarray, labels: np.ndarray) -> Iterator[Ranking]:
    """The ranking of class 1 of two classes, or that of each of more."""
    for number, scores in [(1, logits)] if logits.ndim == 1 else enumerate(probabilities(logits).T):
        yield Ranking(scores, labels == number)


class Ranking:
    """Rows of one class against the rest, by falling score; rows with equal scores form one run."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        """``scores`` float ``[rows]``, ``positive`` bool ``[rows]``."""
        self.order = np.argsort(-scores, kind="stable")
        self.scores, self.positive = scores[self.order], positive[self.order]
        self.last = np.append(self.scores[1:] < self.scores[:-1], True)  # the last row of each run of equal scores
        self.found, self.taken = np.cumsum(self.positive)[self.last], np.flatnonzero(self.last) + 1
        self.gained = np.diff(self.found, prepend=0)
        wrong = self.taken - self.found
        self.positives, self.negatives = int(self.found[-1]), int(wrong[-1])
        self.below = wrong[-1] - wrong + np.diff(wrong, prepend=0) / 2
        """Negative rows below each run, plus half of those in it."""
        self.above = self.found - self.gained / 2
        """Positive rows above each run, likewise."""

    @property
    def areas(self) -> tuple[float, float]:
        """ROC AUC and average precision, equal to scikit-learn's, which take ten times as long."""
        roc_auc = (self.gained * self.below).sum() / (self.positives * self.negatives)
        return float(roc_auc), min(1.0, float((self.gained * self.found / self.taken).sum() / self.positives))

    def changes(self) -> np.ndarray:
        """The derivative of the ROC AUC by the weight of each row, float64 ``[rows]``."""
        run, area = np.cumsum(self.last) - self.last, self.areas[0]  # run: of each row
        result = np.empty(len(run))
        result[self.order] = np.where(
            self.positive,
            (self.below[run] / self.negatives - area) / self.positives,
            (self.above[run] / self.positives - area) / self.negatives,
        )
        return result


def confusion_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Any:
    """Rows of each true class by predicted class: a sparse int64 ``[classes, classes]`` (``scipy.sparse.csr_array``).

    Its row sums are the classes' rows, its column sums their predictions, its diagonal the correct predictions.
    """
    from scipy.sparse import coo_array

    return coo_array((np.ones(len(labels), np.int64), (labels, predicted)), shape=(classes, classes)).tocsr()


def cells_of(confusion: Any) -> np.ndarray:
    """int64 ``[cells, 3]``: true class, predicted class and rows of each non-empty cell."""
    cells = confusion.tocoo()
    return np.stack((*cells.coords, cells.data), axis=1)


def confusion_to_json(confusion: Any) -> dict[str, Any]:
    """For JSON: ``confusion``, or ``confusion_cells`` with triples (true class, predicted class, rows)."""
    if confusion.shape[0] <= WHOLE_CLASSES:
        return {MATRIX: confusion.toarray().tolist()}
    return {CELLS: cells_of(confusion).tolist()}


def confusion_from_json(values: Mapping[str, Any], classes: int) -> Any:
    """The matrix of ``confusion_of``, from either of its two JSON forms."""
    from scipy.sparse import coo_array, csr_array

    if CELLS not in values:
        return csr_array(np.array(values[MATRIX], np.int64))
    true, said, rows = np.array(values[CELLS], np.int64).reshape(-1, 3).T
    return coo_array((rows, (true, said)), shape=(classes, classes)).tocsr()


def largest_confusions(confusion: Any, most: int) -> list[list[int]]:
    """True class, another predicted class and rows, those with the most rows first."""
    cells = cells_of(confusion)
    wrong = cells[cells[:, 0] != cells[:, 1]]
    found: list[list[int]] = wrong[np.argsort(-wrong[:, 2], kind="stable")][:most].tolist()
    return found


def per_class(confusion: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, precision, recall and F1 of each class; None where undefined."""

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    counts = (counted.tolist() for counted in (confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)))
    return [
        {
            "label": name,
            "rows": rows,
            "predicted": predicted,
            "precision": share(hits, predicted),
            "recall": share(hits, rows),
            "f1": share(2 * hits, rows + predicted),
        }
        for name, hits, rows, predicted in zip(names, *counts, strict=True)
    ]


def worst_first(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes by rising F1, of equals the larger first; those without rows at the end."""
    return sorted(per_class, key=lambda entry: (not entry["rows"], entry["f1"] or 0.0, -entry["rows"]))


def reliability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy of the most probable class by its predicted probability (Guo et al., 2017).

    float64 ``[3, bins]``: rows whose confidence is in ((b - 1) / bins, b / bins], their mean confidence, and their
    accuracy; 0 for an empty bin.
    """
    said, confidence = np.empty(len(logits), np.int64), np.empty(len(logits), np.float64)
    for rows in blocks(logits):
        chances = probabilities(logits[rows])
        said[rows], confidence[rows] = chances.argmax(axis=1), chances.max(axis=1)
    places = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    sums = [np.bincount(places, weights, CALIBRATION_BINS) for weights in (None, confidence, said == labels)]
    return np.stack((sums[0], *(of_bin / np.maximum(sums[0], 1) for of_bin in sums[1:])))


def calibration_error(bins: np.ndarray) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy of ``reliability``, weighted by rows."""
    rows, confidence, accuracy = bins
    return float((np.abs(confidence - accuracy) * rows).sum() / rows.sum())
