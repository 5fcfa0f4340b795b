# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on TF-IDF of words and pairs: learned from ``train``, measured where a network is measured.

The recipe is the one that people use without a second thought, and it is fixed: a yardstick that is tuned for each
corpus measures nothing. It says nothing of the splits that it does not measure, and chooses nothing on them but the
temperature of its probabilities, on ``validation``, as a network's are.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.baseline.ngrams import MIN_ROWS, Vectorizer, counted
from harness.config import EvaluationConfig
from harness.scores.calibration import Decision, decide
from harness.scores.figures import figures
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, Split
from preprocessing.text.vocabulary import UNK

RECIPE = {"version": 2, "ngrams": "words and pairs", "tf": "sublinear", "min_rows": MIN_ROWS, "C": 10.0}
"""What decides the figures beside the dataset; ``SPLIT.json`` carries it, and a result of another one is made anew."""
TOLERANCE = 1e-5
"""Largest slope of the mean log loss at the end. With scikit-learn's 1e-4 it stops some rows short of the optimum."""
FEWEST_STEPS, MOST_STEPS = 50, 1000
WORK = 5_000_000_000
"""Entries of the matrix times outputs times steps, about a minute of one core; beyond it steps are left out.

The last steps move few rows: on banking77, with 77 classes, 40 of 70 steps have the same validation accuracy.
"""
MOST_WEIGHTS = 5_000_000
"""Weights of all classes together. The solver takes about 300 bytes for each, so at most 1.5 GB."""
NEVER_SEEN = 10.0
"""How far below all others the logit of a class without training rows lies."""


def measured_splits(manifest: Manifest) -> list[str]:
    """The splits that the linear model is measured on."""
    return [name for name in (VALIDATION, TEST) if manifest.splits.get(name)]


def check(data: str | Path, manifest: Manifest) -> None:
    """Raise ``DataError`` where there is nothing to learn or nothing to measure it on."""
    path = Path(data, MANIFEST)
    for name in (TRAIN, VALIDATION):
        if not manifest.splits.get(name):
            raise DataError(f"{path}: has no {name} split, which the linear model needs; build the dataset with one")
    classes = {label for shard in manifest.splits[TRAIN] for label in shard.labels}
    if len(classes) < 2:
        only = manifest.labels[int(min(classes))]
        raise DataError(
            f"{path}: every training row is {only!r}, and there is nothing to tell apart; add another class"
        )


@dataclass(frozen=True)
class Linear:
    """The linear model of a dataset's training rows."""

    vectorizer: Vectorizer
    classifier: Any
    """scikit-learn's."""
    num_classes: int
    rows: int
    """Training rows."""
    limit: int
    """Most steps that the solver was given."""

    @classmethod
    def learn(cls, data: str | Path, manifest: Manifest) -> Linear:
        """Fit it; ``check`` has found nothing wrong."""
        train = Split(data, manifest, TRAIN).check()
        outputs = 1 if len(manifest.labels) == 2 else len(manifest.labels)
        vectorizer = Vectorizer.learn(train, manifest.vocabulary_size, MOST_WEIGHTS // outputs)
        matrix = vectorizer(train)
        limit = step_limit(matrix.nnz * outputs)
        return cls(vectorizer, fit(matrix, in_order(train, "label"), limit), len(manifest.labels), len(train), limit)

    @property
    def steps(self) -> int:
        """Steps that the solver took."""
        return int(np.max(self.classifier.n_iter_))

    def logits(self, split: Split) -> np.ndarray:
        """Logits of a split's rows as they lie in the shards, as ``logits_of`` gives them; a piece at a time."""
        pieces = counted(split, self.vectorizer.vocabulary_size)
        return np.concatenate(
            [logits_of(self.classifier, self.vectorizer.piece(counts), self.num_classes) for counts in pieces]
        )


@dataclass(frozen=True)
class OnSplit:
    """The linear model measured on a split."""

    figures: dict[str, Any]
    """As ``SPLIT.json`` holds them."""
    predictions: dict[str, Any]
    """As ``write_predictions`` takes them, in the order of the source."""


def measure(data: str | Path, manifest: Manifest) -> dict[str, OnSplit]:
    """Learn from the training split, and measure each split that ``measured_splits`` names.

    Raises ``DataError`` as ``check`` does, and for shards that are missing or damaged.
    """
    check(data, manifest)
    began = time.monotonic()
    linear = Linear.learn(data, manifest)
    splits = {name: Split(data, manifest, name).check() for name in measured_splits(manifest)}
    logits = {name: linear.logits(split)[by_source(split)] for name, split in splits.items()}
    took = time.monotonic() - began
    decision = decide(logits[VALIDATION], in_source(splits[VALIDATION], "label"), EvaluationConfig())
    about = {
        "dataset": manifest.fingerprint,
        "recipe": RECIPE,
        "features": len(linear.vectorizer.key),
        "train_rows": linear.rows,
        "steps": linear.steps,
        "converged": linear.steps < linear.limit,
        "seconds": took,
    }
    return {name: on_split(split, logits[name], manifest.labels, decision, about) for name, split in splits.items()}


def on_split(
    split: Split, logits: np.ndarray, names: Sequence[str], decision: Decision, about: dict[str, Any]
) -> OnSplit:
    """What these ``logits``, in the order of the source, make of a split; ``about`` goes into its figures."""
    labels, calibrated = in_source(split, "label"), decision.calibrated(logits)
    measured = figures(
        logits,
        labels,
        lengths=in_source(split, "length"),
        unknown=unknown_tokens(split)[by_source(split)],
        names=names,
        decision=decision,
    )
    predictions = {
        "rows": in_source(split, "row"),
        "labels": labels,
        "predicted": predicted_labels(calibrated, decision.threshold),
        "chances": probabilities(calibrated),
    }
    return OnSplit({"split": split.name, **about, **measured}, predictions)


def step_limit(work: int) -> int:
    """Most steps of the solver when one takes ``work`` multiplications."""
    return int(np.clip(WORK // max(work, 1), FEWEST_STEPS, MOST_STEPS))


def fit(matrix: Any, labels: np.ndarray, steps: int = MOST_STEPS) -> Any:
    """scikit-learn's logistic regression, fitted; more than two classes share one softmax.

    It stops after ``steps`` at the latest. It has one thread: products with a sparse matrix have no use for more, and
    threads that wait for each other between two products are many times slower on a busy machine.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its steps are counted, and said
        return LogisticRegression(C=RECIPE["C"], tol=TOLERANCE, max_iter=steps).fit(matrix, labels)


def logits_of(classifier: Any, matrix: Any, num_classes: int) -> np.ndarray:
    """Logits of each row, float64 ``[rows]`` for two classes, ``[rows, classes]`` for more.

    A class without a training row gets the least probable logit of all.
    """
    scores = classifier.decision_function(matrix)
    if num_classes == 2:
        return scores
    if scores.ndim == 1:
        scores = np.stack((np.zeros_like(scores), scores), axis=1)
    result = np.repeat(scores.min(axis=1, keepdims=True) - NEVER_SEEN, num_classes, axis=1)
    result[:, classifier.classes_] = scores
    return result


def in_order(split: Split, column: str) -> np.ndarray:
    """A column of a split's rows (``row``, ``label`` or ``length``), int64 ``[rows]``, as they lie in the shards."""
    return np.concatenate([getattr(block, column) for block in split.blocks]).astype(np.int64)


def by_source(split: Split) -> np.ndarray:
    """Places of a split's rows in the order of the source, in which an evaluation of a network has them."""
    return np.argsort(in_order(split, "row"), kind="stable")


def in_source(split: Split, column: str) -> np.ndarray:
    """``in_order``, in the order of the source."""
    return in_order(split, column)[by_source(split)]


def unknown_tokens(split: Split) -> np.ndarray:
    """int64 ``[rows]``: tokens of each row that are not in the vocabulary."""
    return np.concatenate([(block.ids == UNK).sum(axis=1) for block in split.blocks])
