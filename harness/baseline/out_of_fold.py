# SPDX-License-Identifier: Apache-2.0
"""Predictions for all labelled rows of a dataset, each by a linear model that has not learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.baseline.linear import Linear, count_all_ngrams
from harness.config import EvaluationConfig
from harness.scores.calibration import fit_decision
from preprocessing.base.arrays import segment_hashes, unpad_segments
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.dataset.shards import MANIFEST, Block, Manifest
from preprocessing.dataset.views import open_split
from preprocessing.text.vocabulary import UNK

FOLDS = 5


@dataclass(frozen=True)
class LabelledRows:
    """All rows of a dataset that have a label, in the order of its shards."""

    blocks: Sequence[Block]
    splits: np.ndarray
    """Names, object ``[rows]``."""
    numbers: np.ndarray
    """int64 ``[rows]``: their numbers in the source."""
    labels: np.ndarray
    """int64 ``[rows]``."""
    text_hashes: np.ndarray
    """uint64 ``[rows]``, of ``hash_texts``."""

    @classmethod
    def read(cls, data: str | Path, manifest: Manifest) -> LabelledRows:
        """Raises ``DataError`` for shards that are missing or damaged."""
        names = [name for name in manifest.names if name != UNLABELLED]
        blocks = [block for name in names for block in open_split(data, manifest, name).blocks]
        return cls(
            blocks,
            np.repeat(np.array(names, object), [manifest.rows(name) for name in names]),
            np.concatenate([block.row for block in blocks]),
            np.concatenate([block.label for block in blocks]).astype(np.int64),
            np.concatenate([hash_texts(block) for block in blocks]),
        )

    def folds(self) -> np.ndarray:
        """int64 ``[rows]``: the fold of each row. Equal texts are in one fold, and each has its share of each label."""
        _, first_row, text = np.unique(self.text_hashes, return_index=True, return_inverse=True)
        fold_by_text = np.empty(len(first_row), np.int64)
        fold_by_text[np.argsort(self.labels[first_row], kind="stable")] = np.arange(len(first_row)) % FOLDS
        return fold_by_text[text]

    def predict_out_of_fold(self, data: str | Path, manifest: Manifest) -> np.ndarray:
        """Calibrated probabilities, float64 ``[rows, classes]``.

        Raises ``DataError`` if the rows outside a fold have fewer than two labels, or no word in common.
        """
        ngrams, matrix = count_all_ngrams(self.blocks)
        folds, logits = self.folds(), np.zeros((len(self.labels), len(manifest.labels)))
        logits = logits[:, 0] if len(manifest.labels) == 2 else logits
        for fold in np.unique(folds):
            is_held_out = folds == fold
            labels = self.labels[~is_held_out]
            if len(np.unique(labels)) < 2:
                problem = f"outside of a fold of {FOLDS} there are fewer than two labels"
                raise DataError(f"{Path(data, MANIFEST)}: {problem}; build it with more rows of each label")
            linear = Linear.fit(ngrams, matrix[~is_held_out], labels, data, manifest)
            columns = np.searchsorted(ngrams, linear.ngrams)
            logits[is_held_out] = linear.logits_of_counts(matrix[is_held_out][:, columns])
        return fit_decision(logits, self.labels, EvaluationConfig()).predictions(logits)[1]


def hash_texts(block: Block) -> np.ndarray:
    """uint64 ``[rows]``: equal for rows with equal ids, unless a word is unknown, which may be another in each."""
    ids, starts = unpad_segments(block.ids, block.length)
    return np.where((block.ids == UNK).any(axis=1), block.row, segment_hashes(ids.astype(np.uint64), starts))
