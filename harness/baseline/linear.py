# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on TF-IDF of words and pairs: trained on ``train``, measured on the same splits as a network.

It is a common default, scikit-learn's ``TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)`` and
``LogisticRegression(C=10)``, and it is fixed: a baseline tuned for each corpus would not be comparable. Only the
temperature of its probabilities is fitted on ``validation``, as for a network.

Texts are not decoded: a word is its id, a pair is the number ``first * V + second`` for a vocabulary of size V. Memory
grows with the training split: about 50 bytes for each word and pair.
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

from harness.config import EvaluationConfig
from harness.scores.calibration import Decision, decide
from harness.scores.figures import figures
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Block, Manifest, Split
from preprocessing.text.vocabulary import UNK

RECIPE: dict[str, Any] = {"version": 3, "ngrams": "words and pairs", "tf": "sublinear", "min_rows": 2, "C": 10.0}
"""Settings of the model, stored in ``SPLIT.json``; results with other settings are computed again."""
TOLERANCE = 1e-5
"""Solver tolerance: largest gradient of the mean log loss. scikit-learn's 1e-4 stops too early for some rows."""
FEWEST_STEPS, MOST_STEPS = 50, 1000
WORK = 5_000_000_000
"""Maximum matrix entries times outputs times steps, about a minute on one core; it limits the number of steps.

The last steps change few predictions: on banking77, with 77 classes, 40 of 70 steps give the same accuracy.
"""
MOST_WEIGHTS = 5_000_000
"""Maximum weights of all classes together. The solver needs about 300 bytes per weight, so at most 1.5 GB."""
STEP_S, TOKEN_S, START_S = 60 / WORK, 1.0e-6, 3.0
"""Seconds of one core, estimated: of the solver for each entry, output and step; of a token; of the rest."""
NEVER_SEEN = 10.0
"""The logit of a class without training rows is this far below all others."""


def measured_splits(manifest: Manifest) -> list[str]:
    """The splits on which the linear model is measured."""
    return [name for name in (VALIDATION, TEST) if manifest.splits.get(name)]


def seconds(manifest: Manifest) -> float:
    """Estimated seconds of one core that fit and measurement take, with typical texts and a usual number of steps."""
    tokens, classes = sum(shard.tokens for shard in manifest.splits.get(TRAIN, ())), len(manifest.labels)
    return START_S + tokens * (TOKEN_S + STEP_S * FEWEST_STEPS * (1 if classes == 2 else classes))


def check(data: str | Path, manifest: Manifest) -> None:
    """Raise ``DataError`` if a needed split is missing or training rows have only one class."""
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


def ngrams_of(block: Block, vocabulary_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Words and pairs of a block, one row after the other, int64 ``[n-grams]``, and how many each row has."""
    ids, real = block.ids.astype(np.int64), np.arange(block.ids.shape[1]) < block.length[:, None]
    both = np.concatenate((real, real[:, 1:]), axis=1)
    return np.concatenate((ids, ids[:, :-1] * vocabulary_size + ids[:, 1:]), axis=1)[both], both.sum(axis=1)


def counted(found: np.ndarray, lengths: np.ndarray, columns: np.ndarray) -> Any:
    """How often each row of ``ngrams_of`` has the n-gram of each column, as scipy's CSR; ``columns`` are ascending."""
    from scipy.sparse import csr_matrix

    column = np.searchsorted(columns, found).clip(max=len(columns) - 1)
    ends = np.append(0, np.cumsum(lengths))
    matrix = csr_matrix((columns[column] == found, column, ends), (len(lengths), len(columns)), dtype=float)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


@dataclass(frozen=True)
class Linear:
    """The linear model, trained on a dataset's training rows."""

    vocabulary_size: int
    ngrams: np.ndarray
    """int64 ``[features]``, ascending: the n-gram of each column."""
    weighting: Any
    """scikit-learn's, from counts to TF-IDF."""
    classifier: Any
    """scikit-learn's."""
    num_classes: int
    facts: dict[str, Any]
    """Facts of the training: features, training rows, steps, whether it converged."""

    @classmethod
    def learn(cls, data: str | Path, manifest: Manifest) -> Linear:
        """Fit it, after ``check``. More than two classes share one softmax."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        train, num_classes = Split(data, manifest, TRAIN).check(), len(manifest.labels)
        outputs = 1 if num_classes == 2 else num_classes
        rows = zip(*(ngrams_of(block, manifest.vocabulary_size) for block in train.blocks), strict=True)
        found, lengths = map(np.concatenate, rows)
        ngrams, times = np.unique(found, return_counts=True)
        matrix = counted(found, lengths, ngrams)
        kept = np.flatnonzero(np.bincount(matrix.indices) >= RECIPE["min_rows"])
        if not len(kept):
            raise DataError(f"{Path(data, MANIFEST)}: no two training rows share a word: nothing to learn")
        if len(kept) > (most := MOST_WEIGHTS // outputs):
            kept = np.sort(kept[np.argsort(-times[kept])[:most]])
        weighting = TfidfTransformer(sublinear_tf=True)
        matrix = weighting.fit_transform(matrix[:, kept])
        limit = int(np.clip(WORK // max(matrix.nnz * outputs, 1), FEWEST_STEPS, MOST_STEPS))
        classifier = LogisticRegression(C=RECIPE["C"], tol=TOLERANCE, max_iter=limit)
        # Sparse matrix products use one thread only, and idle threads that synchronise between products make it many
        # times slower on a busy machine.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported as ``converged``
            classifier.fit(matrix, in_order(train, "label"))
        steps = int(np.max(classifier.n_iter_))
        facts = {"features": matrix.shape[1], "train_rows": len(train), "steps": steps, "converged": steps < limit}
        return cls(manifest.vocabulary_size, ngrams[kept], weighting, classifier, num_classes, facts)

    def logits(self, split: Split) -> np.ndarray:
        """Logits of a split's rows in shard order, float64 ``[rows]`` for two classes, ``[rows, classes]`` for more;
        classes without training rows have the lowest.
        """
        blocks = (counted(*ngrams_of(block, self.vocabulary_size), self.ngrams) for block in split.blocks)
        scores = np.concatenate([self.classifier.decision_function(self.weighting.transform(one)) for one in blocks])
        if self.num_classes == 2:
            return scores
        if scores.ndim == 1:
            scores = np.stack((np.zeros_like(scores), scores), axis=1)
        result = np.repeat(scores.min(axis=1, keepdims=True) - NEVER_SEEN, self.num_classes, axis=1)
        result[:, self.classifier.classes_] = scores
        return result


@dataclass(frozen=True)
class OnSplit:
    """The linear model measured on a split."""

    figures: dict[str, Any]
    """In the format of ``SPLIT.json``."""
    predictions: dict[str, Any]
    """In the format of ``write_predictions``, in source order."""


def measure(data: str | Path, manifest: Manifest) -> dict[str, OnSplit]:
    """Train on the training split, and measure each split of ``measured_splits``.

    Raises ``DataError`` as ``check`` does, and for shards that are missing or damaged.
    """
    check(data, manifest)
    began = time.process_time()
    linear = Linear.learn(data, manifest)
    splits = {name: Split(data, manifest, name).check() for name in measured_splits(manifest)}
    logits = {name: linear.logits(split)[by_source(split)] for name, split in splits.items()}
    about = {"dataset": manifest.fingerprint, "recipe": RECIPE, **linear.facts, "seconds": time.process_time() - began}
    labels = in_order(splits[VALIDATION], "label")[by_source(splits[VALIDATION])]
    decision = decide(logits[VALIDATION], labels, EvaluationConfig())
    return {name: on_split(split, logits[name], manifest.labels, decision, about) for name, split in splits.items()}


def on_split(
    split: Split, logits: np.ndarray, names: Sequence[str], decision: Decision, about: dict[str, Any]
) -> OnSplit:
    """Figures and predictions of a split for ``logits`` in source order; ``about`` is added to the figures."""
    order = by_source(split)
    rows, labels, lengths = (in_order(split, column)[order] for column in ("row", "label", "length"))
    unknown = np.concatenate([(block.ids == UNK).sum(axis=1) for block in split.blocks])[order]
    calibrated = decision.calibrated(logits)
    measured = figures(logits, labels, lengths=lengths, unknown=unknown, names=names, decision=decision)
    predicted = predicted_labels(calibrated, decision.threshold)
    predictions = {"rows": rows, "labels": labels, "predicted": predicted, "chances": probabilities(calibrated)}
    return OnSplit({"split": split.name, **about, **measured}, predictions)


def in_order(split: Split, column: str) -> np.ndarray:
    """A column of a split's rows (``row``, ``label`` or ``length``), int64 ``[rows]``, in shard order."""
    return np.concatenate([getattr(block, column) for block in split.blocks]).astype(np.int64)


def by_source(split: Split) -> np.ndarray:
    """Indices that sort a split's rows into source order, as in an evaluation of a network."""
    return np.argsort(in_order(split, "row"), kind="stable")
