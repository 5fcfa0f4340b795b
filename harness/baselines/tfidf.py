# SPDX-License-Identifier: Apache-2.0
"""Logistic regression on TF-IDF of words and pairs: trained on ``train``, measured on the same splits as a network.

It is a common default, scikit-learn's ``TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)`` and
``LogisticRegression(C=10)``, and it is fixed: a baseline tuned for each corpus would not be comparable. Only the
temperature of its probabilities is fitted on ``validation``, as for a network.

Texts are not decoded: a word is its id, which is at least 1, a pair is the number ``first << 32 | second``. Memory
grows with the training split: about 50 bytes for each word and pair.

``predict_held_out`` gives predictions for labelled rows, each by a model that has not learned from it.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from harness.config import EvaluationConfig
from harness.metrics.calibration import fit_decision
from harness.metrics.figures import Scores, figures
from harness.model.registry import num_outputs
from harness.rundir.results import Predictions
from padless.core.arrays import segment_hashes, unpad_segments
from padless.core.errors import DataError
from padless.core.split_names import TEST, TRAIN, UNLABELLED, VALIDATION
from preprocessing.dataset.remote import join, open_split
from preprocessing.dataset.shards import MANIFEST, Block, Manifest, Split
from preprocessing.text.vocabulary import UNK

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

RECIPE: dict[str, Any] = {"version": 3, "ngrams": "words and pairs", "tf": "sublinear", "min_rows": 2, "C": 10.0}
"""Settings of the model, stored in ``SPLIT.json``; results with other settings are computed again."""
TOLERANCE = 1e-5
"""Solver tolerance: largest gradient of the mean log loss. scikit-learn's 1e-4 stops too early for some rows."""
MAX_STEPS = 200
"""The last steps change few predictions: on banking77, with 77 classes, 40 of 70 steps give the same accuracy."""
MAX_WEIGHTS = 5_000_000
"""Maximum weights of all classes together. The solver needs about 300 bytes per weight, so at most 1.5 GB."""
FOLDS = 5
"""Folds of ``predict_held_out``."""
NEVER_SEEN = 10.0
"""The logit of a class without training rows is this far below all others."""


def names_of(manifest: Manifest) -> list[str]:
    """The splits of a dataset on which the model is measured."""
    return [name for name in (VALIDATION, TEST) if manifest.splits.get(name)]


def estimate_seconds(manifest: Manifest) -> float:
    """Estimated seconds of one core that fit and measurement take: typical texts and 50 steps of the solver."""
    return 3 + manifest.tokens(TRAIN) * 1e-6 * (1 + 0.6 * num_outputs(manifest))


def check_labels(data: str | Path, manifest: Manifest) -> None:
    """Raise ``DataError`` if a needed split is missing or training rows have only one class."""
    path = join(data, MANIFEST)
    for name in (TRAIN, VALIDATION):
        if not manifest.splits.get(name):
            raise DataError(f"{path}: has no {name} split, which the TF-IDF baseline needs; build the dataset with one")
    classes = np.flatnonzero(manifest.class_rows(TRAIN))
    if len(classes) < 2:
        only = manifest.labels[classes.min(initial=0)]
        raise DataError(
            f"{path}: every training row is {only!r}, and there is nothing to tell apart; add another class"
        )


def ngrams_of(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Words and pairs of a block, int64 ``[n-grams]``, and before them the row of each in the block."""
    ids = block.ids.astype(np.int64)  # padding is 0
    ngrams = np.hstack((ids, (ids[:, :-1] << 32 | ids[:, 1:]) * (ids[:, 1:] > 0)))
    row, column = np.nonzero(ngrams)
    return row, ngrams[row, column]


def count_ngrams(block: Block, columns: np.ndarray) -> csr_matrix:
    """How often each row has the n-gram of each column, as scipy's CSR; ``columns`` are ascending."""
    from scipy.sparse import csr_matrix

    row, ngrams = ngrams_of(block)
    column = np.searchsorted(columns, ngrams).clip(max=len(columns) - 1)
    has_column = columns[column] == ngrams
    shape = len(block.row), len(columns)
    return csr_matrix((np.ones(has_column.sum()), (row[has_column], column[has_column])), shape)


def count_all_ngrams(blocks: Sequence[Block]) -> tuple[np.ndarray, csr_matrix]:
    """All n-grams of some blocks, int64, ascending, and how often each row has each."""
    from scipy.sparse import vstack

    ngrams = np.unique(np.concatenate([ngrams_of(block)[1] for block in blocks]))
    return ngrams, vstack([count_ngrams(block, ngrams) for block in blocks], "csr")


@dataclass(frozen=True)
class Linear:
    """A logistic regression of scikit-learn on features of rows: on counts of n-grams, or on embeddings."""

    model: Any
    num_classes: int
    offsets: np.ndarray | float = 0.0
    """With several labels to a text ``[classes]``: added to the logits, for classes that no training row has."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts of the training: features, training rows."""

    def logits(self, features: Any) -> np.ndarray:
        """Logits of rows by their features, float64 ``[rows]`` for two classes, ``[rows, classes]`` for more; classes
        that no training row has have the lowest.
        """
        scores = np.asarray(self.model.decision_function(features), np.float64)
        if self.num_classes == 2:
            return scores + self.offsets
        if scores.ndim == 1:
            scores = np.stack((np.zeros_like(scores), scores), axis=1)
        result = np.repeat(scores.min(axis=1, keepdims=True) - NEVER_SEEN, self.num_classes, axis=1)
        result[:, self.model.classes_] = scores
        return result + self.offsets


def fit_linear(counts: csr_matrix, labels: np.ndarray, data: str | Path, manifest: Manifest) -> Linear:
    """Fit the TF-IDF baseline to rows of a dataset: how often each has each n-gram, and their label numbers.

    More than two classes share one softmax; each has its own model, against the rest, where a text may have several
    labels. Raises ``DataError`` if no n-gram is in two rows.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    times = counts.sum(axis=0).A1 * (counts.getnnz(axis=0) >= RECIPE["min_rows"])
    columns = np.sort(np.argsort(-times)[: MAX_WEIGHTS // num_outputs(manifest)])
    columns = columns[times[columns] > 0]
    if not len(columns):
        raise DataError(f"{join(data, MANIFEST)}: no two training rows share a word: nothing to learn")
    classifier = LogisticRegression(C=RECIPE["C"], tol=TOLERANCE, max_iter=MAX_STEPS)
    members, offsets = manifest.members, np.array(0.0)
    if members is not None:
        classifier, labels = OneVsRestClassifier(classifier), members[labels].astype(np.int64)
        offsets = np.where(labels.any(axis=0), 0.0, -NEVER_SEEN)
    choose_columns = FunctionTransformer(lambda counts: counts[:, columns])
    model = make_pipeline(choose_columns, TfidfTransformer(sublinear_tf=True), classifier)
    # Sparse matrix products use one thread only, and idle threads that synchronise between products make it many
    # times slower on a busy machine.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")  # see ``offsets``
        model.fit(counts, labels)
    facts = {"features": len(columns), "train_rows": len(labels)}
    return Linear(model, len(manifest.labels), offsets, facts)


def learn_linear(
    data: str | Path, manifest: Manifest, splits: Sequence[Split]
) -> tuple[Mapping[str, Any], list[np.ndarray]]:
    """Fit a TF-IDF baseline to the training split: its facts, and its logits of some splits in shard order.

    Raises as ``fit_linear``.
    """
    train = open_split(data, manifest, TRAIN)
    ngrams, counts = count_all_ngrams([*train.blocks])
    linear = fit_linear(counts, train.column("label"), data, manifest)
    logits = []
    for split in splits:
        parts = [linear.logits(count_ngrams(block, ngrams)) for block in split.blocks]
        logits.append(np.concatenate(parts))
    return linear.facts, logits


def measure_linear(data: str | Path, manifest: Manifest) -> Iterator[tuple[dict[str, Any], Predictions]]:
    """Train on the training split, and measure each split of ``names_of``: its figures in the format of ``SPLIT.json``,
    and predictions in source order.

    ``check_labels`` has passed. Raises ``DataError`` for shards that are missing or damaged.
    """
    start_s = time.process_time()
    splits = [open_split(data, manifest, name) for name in names_of(manifest)]
    linear_facts, logits = learn_linear(data, manifest, splits)
    facts = {"dataset": manifest.fingerprint, "recipe": RECIPE, **linear_facts}
    facts["seconds"] = time.process_time() - start_s
    decision = None  # of validation, the first split
    for split, logits_of_split in zip(splits, logits, strict=True):
        order = np.argsort(split.column("row"), kind="stable")
        rows, labels = (split.column(name)[order] for name in ("row", "label"))
        if manifest.members is not None:
            labels = manifest.members[labels]
        scores = Scores(rows, labels, logits_of_split[order])
        decision = decision or fit_decision(scores.logits, labels, EvaluationConfig())
        predicted, chances = decision.predictions(scores.logits)
        values = {"split": split.name, **facts, **figures(scores, manifest.labels, decision)}
        yield values, Predictions(rows, labels, predicted, chances)


def read_labelled(data: str | Path, manifest: Manifest, names: Sequence[str] = ()) -> tuple[pd.DataFrame, list[Block]]:
    """All rows that have a label, or those of the splits ``names``, in the order of the shards, and their blocks.

    The columns are row (its number in the source), split, label (its class), and text, of ``hash_rows``. Raises
    ``DataError`` for shards that are missing or damaged.
    """
    import pandas as pd

    frames, blocks = [], list[Block]()
    for name in names or manifest.names:
        if name != UNLABELLED:
            split = open_split(data, manifest, name)
            columns = {"row": split.column("row"), "split": name, "label": split.column("label").astype(np.int64)}
            frames.append(pd.DataFrame(columns | {"text": np.concatenate([*map(hash_rows, split.blocks)])}))
            blocks += split.blocks
    if not frames:
        raise DataError(f"{join(data, MANIFEST)}: no row has a label")
    return pd.concat(frames, ignore_index=True), blocks


def hash_rows(block: Block) -> np.ndarray:
    """uint64 ``[rows]``: equal for rows with equal ids, unless a word is unknown, which may be another in each."""
    ids, starts = unpad_segments(block.ids, block.length)
    hashes = segment_hashes(ids.astype(np.uint64), starts)
    return np.where((block.ids == UNK).any(axis=1), block.row.astype(np.uint64), hashes)


def predict_held_out(
    fit: Callable[[Any, np.ndarray], Linear], features: Any, data: str | Path, rows: pd.DataFrame
) -> np.ndarray:
    """Logits of rows by models that have not learned from them, float64 ``[rows]`` for two classes, else ``[rows,
    classes]``.

    ``fit`` learns from the ``features`` and labels of rows, which have the columns text and label. Equal texts are in
    one fold, and each fold has its share of each label. Raises ``DataError`` if no row is predictable, or the rows
    outside a fold have fewer than two labels.
    """
    if not find_predictable(rows).any():
        raise DataError(f"{join(data, MANIFEST)}: each class has one text alone; label two or more of each")
    texts = rows.drop_duplicates("text").sort_values(["label", "text"]).set_index("text")
    folds = rows["text"].map(texts.assign(fold=np.arange(len(texts)) % FOLDS)["fold"]).to_numpy()
    labels, parts = rows["label"].to_numpy(), list[np.ndarray]()
    for fold in np.unique(folds):
        is_held_out = folds == fold
        if len(np.unique(labels[~is_held_out])) < 2:
            problem = f"outside of one of {FOLDS} folds, all rows have one label"
            raise DataError(f"{join(data, MANIFEST)}: {problem}; build it with more rows of each label")
        parts.append(fit(features[~is_held_out], labels[~is_held_out]).logits(features[is_held_out]))
    logits = np.concatenate(parts)
    logits[np.argsort(folds, kind="stable")] = logits.copy()
    return logits


def find_predictable(rows: pd.DataFrame) -> np.ndarray:
    """Whether rows of ``predict_held_out`` can be predicted, bool ``[rows]``: another text has their label."""
    is_predictable: np.ndarray = rows.groupby("label")["text"].transform("nunique").to_numpy() > 1
    return is_predictable


def predict_out_of_fold(
    data: str | Path, manifest: Manifest, rows: pd.DataFrame, blocks: Sequence[Block]
) -> np.ndarray:
    """Logits of the rows of ``read_labelled`` by TF-IDF baselines, as ``predict_held_out``.

    Raises ``DataError`` as ``predict_held_out`` does, and if rows have no word in common.
    """
    fit = partial(fit_linear, data=data, manifest=manifest)
    return predict_held_out(fit, count_all_ngrams(blocks)[1], data, rows)
