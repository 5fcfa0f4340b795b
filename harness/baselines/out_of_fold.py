# SPDX-License-Identifier: Apache-2.0
"""Predictions for labelled rows of a dataset, each by a model that has not learned from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.baselines.tfidf import Linear, count_all_ngrams
from padless.core.arrays import segment_hashes, unpad_segments
from padless.core.errors import DataError
from padless.core.split_names import UNLABELLED
from preprocessing.dataset.remote import join
from preprocessing.dataset.shards import MANIFEST, Block, Manifest
from preprocessing.dataset.views import open_split
from preprocessing.text.vocabulary import UNK

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5


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
    predict: Callable[[np.ndarray], np.ndarray], data: str | Path, rows: pd.DataFrame, num_classes: int
) -> np.ndarray:
    """Logits of rows with the columns text and label, float64 ``[rows]`` for two classes, else ``[rows, classes]``.

    ``predict`` takes which rows are held out, bool ``[rows]``, and returns their logits by a model of all others. Equal
    texts are in one fold, and each fold has its share of each label. Raises ``DataError`` if no row is predictable, or
    the rows outside a fold have fewer than two labels.
    """
    if not find_predictable(rows).any():
        raise DataError(f"{join(data, MANIFEST)}: each class has one text alone; label two or more of each")
    texts = rows.drop_duplicates("text").sort_values(["label", "text"]).set_index("text")
    folds = rows["text"].map(texts.assign(fold=np.arange(len(texts)) % FOLDS)["fold"]).to_numpy()
    labels, logits = rows["label"].to_numpy(), np.zeros((len(rows), num_classes))
    logits = logits[:, 0] if num_classes == 2 else logits
    for fold in np.unique(folds):
        is_held_out = folds == fold
        if len(np.unique(labels[~is_held_out])) < 2:
            problem = f"outside of one of {FOLDS} folds, all rows have one label"
            raise DataError(f"{join(data, MANIFEST)}: {problem}; build it with more rows of each label")
        logits[is_held_out] = predict(is_held_out)
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
    ngrams, matrix = count_all_ngrams(blocks)
    labels = rows["label"].to_numpy()

    def predict(is_held_out: np.ndarray) -> np.ndarray:
        linear = Linear.fit(ngrams, matrix[~is_held_out], labels[~is_held_out], data, manifest)
        columns = np.searchsorted(ngrams, linear.ngrams)
        return linear.logits_of_counts(matrix[is_held_out][:, columns])

    return predict_held_out(predict, data, rows, len(manifest.labels))
