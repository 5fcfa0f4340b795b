# SPDX-License-Identifier: Apache-2.0
"""Exact metrics from the logits and labels of every row, each row once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
"""Equal-width bins of confidence, as in Guo et al. (2017), On Calibration of Modern Neural Networks."""
BLOCK = 1 << 22
"""Logits that are worked on at once, 32 MB in float64; their probabilities take a few times that."""
WHOLE_CLASSES = 1000
"""Up to so many classes figures hold the whole confusion matrix, a list for each true class; of more, the cells that
hold rows: the matrix of 10,000 classes would take 300 MB of JSON."""
MATRIX, CELLS = "confusion", "confusion_cells"


def blocks(logits: np.ndarray) -> Iterator[slice]:
    """Rows, so many at a time that what is computed of them takes little beside the logits of all."""
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


def most_probable(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most probable class of each row, int64 ``[rows]``, and its probability, float64 ``[rows]``."""
    classes, highest = np.empty(len(logits), np.int64), np.empty(len(logits), np.float64)
    for rows in blocks(logits):
        chances = probabilities(logits[rows])
        classes[rows], highest[rows] = chances.argmax(axis=1), chances.max(axis=1)
    return classes, highest


def predicted_labels(logits: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """int64 ``[rows]``: the most probable class; with two classes, class 1 from ``threshold`` on."""
    if logits.ndim == 1:
        return (probabilities(logits)[:, 1] >= threshold).astype(np.int64)
    return logits.argmax(axis=1)


def num_classes_of(logits: np.ndarray) -> int:
    """How many classes logits of this shape are about."""
    return 2 if logits.ndim == 1 else logits.shape[1]


def classification_metrics(logits: np.ndarray, labels: np.ndarray, threshold: float = 0.5) -> dict[str, Any]:
    """Accuracy, F1, areas, log loss, calibration and the confusion, in one of its two forms (``confusion_to_json``).

    With two classes F1 and the areas under the ROC and the precision-recall curve (average precision) are those of
    class 1; with more they are macro averages, one class against the rest, and F1 leaves out classes that are nowhere.
    Balanced accuracy is the mean recall of the classes that have rows. An area is None where a class has no row, since
    it is not defined there. The calibration error (ECE) is that of the more probable class, whatever the threshold.
    """
    predicted = predicted_labels(logits, threshold)
    confusion = confusion_of(labels, predicted, num_classes_of(logits))
    support = confusion.sum(axis=1)
    recall = confusion.diagonal()[support > 0] / support[support > 0]
    return {
        "rows": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall.mean()),
        "f1": f1(labels, predicted, num_classes_of(logits)),
        **areas(logits, labels),
        "log_loss": float(log_loss_per_row(logits, labels).mean()),
        "ece": Reliability.of(logits, labels).error,
        **confusion_to_json(confusion),
    }


def f1(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    """F1 of class 1 for two classes; for more the mean over those that have rows or predictions, as scikit-learn's."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="binary" if num_classes == 2 else "macro", zero_division=0))


def areas(logits: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``roc_auc`` and ``pr_auc`` (average precision): of class 1, or the mean over classes against the rest."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    num_classes = num_classes_of(logits)
    if len(np.unique(labels)) < num_classes:
        return {"roc_auc": None, "pr_auc": None}
    if num_classes == 2:
        return {
            "roc_auc": float(roc_auc_score(labels, logits)),
            "pr_auc": min(1.0, float(average_precision_score(labels, logits))),  # a sum, so a last bit above 1
        }
    chances = probabilities(logits)
    roc_auc, pr_auc = np.mean([Ranking(chances[:, one], labels == one).areas for one in range(num_classes)], axis=0)
    return {"roc_auc": float(roc_auc), "pr_auc": float(pr_auc)}


class Ranking:
    """Rows of one class against the rest, by falling score; rows of equal scores are taken together."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        """``scores`` float ``[rows]``, ``positive`` bool ``[rows]``, with both kinds of rows."""
        self.order = np.argsort(-scores, kind="stable")
        ordered = scores[self.order]
        last = np.append(ordered[1:] < ordered[:-1], True)  # the last row of each run of equal scores
        self.positive, self.last = positive[self.order], last
        self.found, self.taken = np.cumsum(self.positive)[last], np.flatnonzero(last) + 1
        self.gained = np.diff(self.found, prepend=0)
        wrong = self.taken - self.found
        missed = np.diff(wrong, prepend=0)
        self.positives, self.negatives = int(self.found[-1]), int(wrong[-1])
        self.below = wrong[-1] - wrong + missed / 2
        """Negative rows below each run, one of its own counting half."""
        self.above = self.found - self.gained / 2
        """Positive rows above each run, likewise."""

    @property
    def areas(self) -> tuple[float, float]:
        """ROC AUC and average precision, as scikit-learn's functions have them, which take ten times as long."""
        gained, positives = self.gained, self.positives
        roc_auc = (gained * self.below).sum() / (positives * self.negatives)
        return float(roc_auc), min(1.0, float((gained * self.found / self.taken).sum() / positives))

    def changes(self, means: tuple[float, float]) -> np.ndarray:
        """The derivatives of both areas by the weight of each row, float64 ``[2, rows]``, about ``means``."""
        run = np.cumsum(self.last) - self.last  # of each row
        roc = np.where(
            self.positive,
            (self.below[run] / self.negatives - means[0]) / self.positives,
            (self.above[run] / self.positives - means[0]) / self.negatives,
        )
        precision = self.found / self.taken
        # what a row that is taken does to the precision of all runs from its own on
        more, less = (
            np.cumsum((self.gained * part)[::-1])[::-1][run] for part in (1 / self.taken, precision / self.taken)
        )
        pr = (np.where(self.positive, precision[run] - means[1] + more, 0.0) - less) / self.positives
        result = np.empty((2, len(run)))
        result[:, self.order] = roc, pr
        return result


def confusion_of(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Any:
    """Rows of each true class by predicted class: a sparse int64 ``[classes, classes]`` (``scipy.sparse.csr_array``).

    Its row sums are the classes' rows, its column sums their predictions, its diagonal those predicted rightly.
    """
    from scipy.sparse import coo_array

    return coo_array((np.ones(len(labels), np.int64), (labels, predicted)), shape=(classes, classes)).tocsr()


def confusion_to_json(confusion: Any) -> dict[str, Any]:
    """For figures: ``confusion``, or ``confusion_cells`` of triples (true class, predicted class, rows)."""
    if confusion.shape[0] <= WHOLE_CLASSES:
        return {MATRIX: confusion.toarray().tolist()}
    cells = confusion.tocoo()
    return {CELLS: np.stack((*cells.coords, cells.data), axis=1).tolist()}


def confusion_from_json(values: Mapping[str, Any], classes: int) -> Any:
    """What ``confusion_of`` gave, from figures that hold either of its two forms."""
    from scipy.sparse import coo_array, csr_array

    if CELLS not in values:
        return csr_array(np.array(values[MATRIX], np.int64))
    true, said, rows = np.array(values[CELLS], np.int64).reshape(-1, 3).T
    return coo_array((rows, (true, said)), shape=(classes, classes)).tocsr()


def largest_confusions(confusion: Any, most: int | None = None) -> list[tuple[int, int, int]]:
    """True class, another predicted class and rows, those with the most rows first."""
    cells = confusion.tocoo()
    (true, said), rows = cells.coords, cells.data
    wrong = np.flatnonzero(true != said)
    order = wrong[np.argsort(-rows[wrong], kind="stable")][:most]
    return list(zip(true[order].tolist(), said[order].tolist(), rows[order].tolist(), strict=True))


def per_class(confusion: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, precision, recall and F1 of each class; None where there is nothing to divide by."""
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)

    def shares(top: np.ndarray, bottom: np.ndarray) -> list[float | None]:
        return [
            one / all_of_it if all_of_it else None for one, all_of_it in zip(top.tolist(), bottom.tolist(), strict=True)
        ]

    columns = {
        "label": names,
        "rows": support.tolist(),
        "predicted": predicted.tolist(),
        "precision": shares(hits, predicted),
        "recall": shares(hits, support),
        "f1": shares(2 * hits, support + predicted),
    }
    return [dict(zip(columns, entry, strict=True)) for entry in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Reliability:
    """How often the most probable class is the true one, by how probable it is said to be (Guo et al., 2017)."""

    rows: np.ndarray
    """int64 ``[bins]``: rows whose confidence lies in ((b - 1) / bins, b / bins]."""
    confidence: np.ndarray
    """float64 ``[bins]``: mean confidence in each bin, 0 where it is empty."""
    accuracy: np.ndarray
    """float64 ``[bins]``: share of the bin's rows whose most probable class is the true one, 0 where it is empty."""

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray) -> Reliability:
        """Sort every row into its bin."""
        said, confidence = most_probable(logits)
        right = said == labels
        places = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
        rows = np.bincount(places, minlength=CALIBRATION_BINS)
        some = np.maximum(rows, 1)
        sums = (np.bincount(places, weights, CALIBRATION_BINS) / some for weights in (confidence, right))
        return cls(rows, *sums)

    @property
    def error(self) -> float:
        """Expected calibration error: the mean gap between confidence and accuracy, weighted by rows."""
        return float((np.abs(self.confidence - self.accuracy) * self.rows).sum() / self.rows.sum())

    def to_json(self) -> list[dict[str, Any]]:
        """The bins that hold rows, as plain values."""
        columns = zip(self.rows.tolist(), self.confidence.tolist(), self.accuracy.tolist(), strict=True)
        return [{"rows": rows, "confidence": said, "accuracy": true} for rows, said, true in columns if rows]
