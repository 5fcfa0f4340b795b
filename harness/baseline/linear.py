# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on TF-IDF of words and pairs: learned from ``train``, measured where a network is measured.

The recipe is the one that people use without a second thought, scikit-learn's ``TfidfVectorizer(ngram_range=(1, 2),
sublinear_tf=True, min_df=2)`` and ``LogisticRegression(C=10)``, and it is fixed: a yardstick that is tuned for each
corpus measures nothing. It chooses nothing on the splits that it measures but the temperature of its probabilities, on
``validation``, as a network's is.

No text is read back: a word is its id, a pair is the number ``first * V + second`` for a vocabulary of V. Rows are
counted in pieces, so only two things grow with a split: its matrix takes 12 bytes for each n-gram that a row holds, and
twice that while its pieces are joined; the table of distinct n-grams, from which those of the matrix are chosen, takes
at most 32 MB per million tokens, and twice that while it is merged.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from harness.config import EvaluationConfig
from harness.scores.calibration import Decision, decide
from harness.scores.figures import figures
from harness.scores.metrics import predicted_labels, probabilities
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, Split
from preprocessing.text.vocabulary import UNK

MIN_ROWS = 2
"""Rows of the training split that an n-gram must be in."""
PIECE_TOKENS = 1 << 20
"""Places of padded rows that are counted at once; that takes about 60 MB."""
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


def entries_of(split: Split, vocabulary_size: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Every word and pair of a split in the order of its rows, piece after piece: how many rows a piece has, the row's
    place in it and the n-gram, int64 ``[entries]`` each.
    """
    most = np.iinfo(np.int64).max // (vocabulary_size * (vocabulary_size + 1))  # so that n-gram and row fit one number
    for block in split.blocks:
        size = int(max(1, min(PIECE_TOKENS // block.ids.shape[1], most)))
        for start in range(0, len(block.row), size):
            lengths = block.length[start : start + size]
            ids = block.ids[start : start + size, : lengths.max()].astype(np.int64)
            real = np.arange(ids.shape[1]) < lengths[:, None]
            row, both = np.nonzero(real)[0], real[:, 1:]
            pairs = (ids[:, :-1] * vocabulary_size + ids[:, 1:])[both]
            yield len(ids), np.concatenate((row, np.nonzero(both)[0])), np.concatenate((ids[real], pairs))


def frequencies(split: Split, vocabulary_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct n-grams of a split, ascending, and in how many rows each of them is."""
    table = pa.table({"key": pa.array([], pa.int64()), "rows": pa.array([], pa.int64())})
    waiting: list[pa.Table] = []

    def merged() -> pa.Table:
        found = pa.concat_tables([table, *waiting]).group_by("key").aggregate([("rows", "sum")])
        return found.rename_columns({"key": "key", "rows_sum": "rows"})

    for rows, row, key in entries_of(split, vocabulary_size):
        each, count = np.unique(np.unique(key * rows + row) // rows, return_counts=True)
        waiting.append(pa.table({"key": each, "rows": count}))
        if sum(map(len, waiting)) >= max(len(table), PIECE_TOKENS):
            table, waiting = merged(), []
    table = merged().sort_by("key")
    return table["key"].to_numpy(), table["rows"].to_numpy()


class Vectorizer:
    """The n-grams of a training split and their weights: turns splits into TF-IDF matrices."""

    def __init__(self, split: Split, vocabulary_size: int, most: int) -> None:
        """The n-grams in at least ``MIN_ROWS`` rows of ``split``; of more than ``most`` those in the most rows."""
        from sklearn.feature_extraction.text import TfidfTransformer

        self.vocabulary_size = vocabulary_size
        key, rows = frequencies(split, vocabulary_size)
        kept = np.flatnonzero(rows >= MIN_ROWS)
        if len(kept) > most:
            kept = np.sort(kept[np.argsort(-rows[kept], kind="stable")[:most]])
        self.key = key[kept]
        """int64 ``[features]``, ascending: the n-gram of each column."""
        self.weights = TfidfTransformer(sublinear_tf=True)
        self.weights.idf_ = 1 + np.log((1 + len(split)) / (1 + rows[kept]))

    def __call__(self, split: Split) -> Any:
        """The split's rows as scipy's CSR matrix, float64 ``[rows, features]``, each of length 1 or, with none, 0."""
        from scipy import sparse

        return sparse.vstack(list(self.pieces(split)), format="csr")

    def pieces(self, split: Split) -> Iterator[Any]:
        """The same, piece after piece."""
        from scipy import sparse

        for rows, row, key in entries_of(split, self.vocabulary_size):
            column = np.searchsorted(self.key, key)
            known = column < len(self.key)
            known[known] = self.key[column[known]] == key[known]
            places = (row[known].astype(np.int32), column[known].astype(np.int32))
            counts = sparse.csr_matrix((np.ones(len(places[0])), places), shape=(rows, len(self.key)))
            yield self.weights.transform(counts, copy=False)


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
        vectorizer = Vectorizer(train, manifest.vocabulary_size, MOST_WEIGHTS // outputs)
        matrix = vectorizer(train)
        limit = int(np.clip(WORK // max(matrix.nnz * outputs, 1), FEWEST_STEPS, MOST_STEPS))
        return cls(vectorizer, fit(matrix, in_order(train, "label"), limit), len(manifest.labels), len(train), limit)

    @property
    def steps(self) -> int:
        """Steps that the solver took."""
        return int(np.max(self.classifier.n_iter_))

    def logits(self, split: Split) -> np.ndarray:
        """Logits of a split's rows as they lie in the shards, float64 ``[rows]`` for two classes, ``[rows, classes]``
        for more; a class without a training row gets the least probable one of all.
        """
        pieces = self.vectorizer.pieces(split)
        return np.concatenate([logits_of(self.classifier, piece, self.num_classes) for piece in pieces])


def fit(matrix: Any, labels: np.ndarray, steps: int = MOST_STEPS) -> Any:
    """scikit-learn's logistic regression, fitted; more than two classes share one softmax.

    It has one thread: products with a sparse matrix have no use for more, and threads that wait for each other between
    two products are many times slower on a busy machine.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its steps are counted, and said
        return LogisticRegression(C=RECIPE["C"], tol=TOLERANCE, max_iter=steps).fit(matrix, labels)


def logits_of(classifier: Any, matrix: Any, num_classes: int) -> np.ndarray:
    """See ``Linear.logits``."""
    scores = classifier.decision_function(matrix)
    if num_classes == 2:
        return scores
    if scores.ndim == 1:
        scores = np.stack((np.zeros_like(scores), scores), axis=1)
    result = np.repeat(scores.min(axis=1, keepdims=True) - NEVER_SEEN, num_classes, axis=1)
    result[:, classifier.classes_] = scores
    return result


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
    about = {
        "dataset": manifest.fingerprint,
        "recipe": RECIPE,
        "features": len(linear.vectorizer.key),
        "train_rows": linear.rows,
        "steps": linear.steps,
        "converged": linear.steps < linear.limit,
        "seconds": time.monotonic() - began,
    }
    labels = in_order(splits[VALIDATION], "label")[by_source(splits[VALIDATION])]
    decision = decide(logits[VALIDATION], labels, EvaluationConfig())
    return {name: on_split(split, logits[name], manifest.labels, decision, about) for name, split in splits.items()}


def on_split(
    split: Split, logits: np.ndarray, names: Sequence[str], decision: Decision, about: dict[str, Any]
) -> OnSplit:
    """What these ``logits``, in the order of the source, make of a split; ``about`` goes into its figures."""
    order = by_source(split)
    rows, labels, lengths = (in_order(split, column)[order] for column in ("row", "label", "length"))
    unknown = np.concatenate([(block.ids == UNK).sum(axis=1) for block in split.blocks])[order]
    calibrated = decision.calibrated(logits)
    measured = figures(logits, labels, lengths=lengths, unknown=unknown, names=names, decision=decision)
    predicted = predicted_labels(calibrated, decision.threshold)
    predictions = {"rows": rows, "labels": labels, "predicted": predicted, "chances": probabilities(calibrated)}
    return OnSplit({"split": split.name, **about, **measured}, predictions)


def in_order(split: Split, column: str) -> np.ndarray:
    """A column of a split's rows (``row``, ``label`` or ``length``), int64 ``[rows]``, as they lie in the shards."""
    return np.concatenate([getattr(block, column) for block in split.blocks]).astype(np.int64)


def by_source(split: Split) -> np.ndarray:
    """Places of a split's rows in the order of the source, in which an evaluation of a network has them."""
    return np.argsort(in_order(split, "row"), kind="stable")
