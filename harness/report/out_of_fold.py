# SPDX-License-Identifier: Apache-2.0
"""Predictions for every row of a dataset with folds, each by the run that did not learn from it, and their figures.

A run's temperature and threshold were fitted on the fold that it held out, and so was the epoch chosen whose weights it
kept: the figures are those of a validation, not of a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.rundir.layout import EVALUATION, OUT_OF_FOLD, Member, storage
from harness.rundir.results import predictions_name, probability_column
from harness.scores.intervals import intervals
from harness.scores.metrics import CELLS, MATRIX, classification_metrics, confusion_from_json, per_class
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import VALIDATION
from preprocessing.labels import as_found

DECIDED = ("accuracy", "balanced_accuracy", "f1", MATRIX, CELLS)
"""Figures of predicted labels; all others are of probabilities."""
SMALLEST = np.finfo(np.float64).tiny


def gather(folder: Path, runs: Sequence[Member], rows: int) -> pa.Table:
    """The predictions of all folds in the order of the source, with the fold of each row.

    ``rows`` is how many the dataset has in its folds. Raises ``DataError`` unless each of them is there exactly once.
    """
    tables = []
    for run in runs:
        path = run.path / EVALUATION / predictions_name(VALIDATION)
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(
                f"{path}: not readable ({error}); remove {run.path}, and the same launch trains it anew"
            ) from None
        fold = pa.array(np.full(len(table), run.number, np.int32))
        tables.append(table.add_column(1, "fold", fold))
    whole = pa.concat_tables(tables).sort_by("row").combine_chunks()
    numbers = whole["row"].to_numpy()
    if len(numbers) != rows or len(np.unique(numbers)) != rows:
        raise DataError(
            f"{folder}: its folds predict {len(np.unique(numbers)):,} different rows by {len(numbers):,} predictions, "
            f"the dataset has {rows:,} in folds: a run there is of another dataset; remove it, and launch again"
        )
    return whole


def write(folder: Path, table: pa.Table) -> None:
    """Write ``out-of-fold.parquet``. Raises ``StorageError``."""
    path = folder / OUT_OF_FOLD
    with storage(path), atomic.replacing(path) as temporary:
        pq.write_table(table, temporary)


def figures(table: pa.Table, names: Sequence[str], thresholds: dict[int, float]) -> dict[str, Any]:
    """Metrics over all rows of ``gather``, each once, with intervals, and each class.

    ``names`` are the classes, ``thresholds`` has that of each fold, from which on class 1 of two is predicted.
    """
    places = {name: number for number, name in enumerate(names)}
    labels = np.array([places[str(as_found(label))] for label in table["label"].to_pylist()], np.int64)
    chances = np.stack([table[probability_column(name)].to_numpy() for name in names], axis=1)
    logits = np.log(np.maximum(chances, SMALLEST))
    decided = logits
    if len(names) == 2:
        logits = logits[:, 1] - logits[:, 0]
        limits = np.array([thresholds[int(fold)] for fold in table["fold"].to_numpy()])
        decided = logits - np.log(limits / (1 - limits))  # each fold's own threshold is then the common 0.5
    values, by_label = classification_metrics(logits, labels), classification_metrics(decided, labels)
    found, of_labels = intervals(logits, labels, values), intervals(decided, labels, by_label)
    found |= {name: of_labels[name] for name in DECIDED if name in of_labels}
    values |= {name: by_label[name] for name in DECIDED if name in by_label}
    by_class = per_class(confusion_from_json(values, len(names)), names)
    return {**values, "intervals": found, "per_class": by_class}
