# SPDX-License-Identifier: Apache-2.0
"""The predictions of another program as a teacher: a file of rows by number or by text, with a column for each class,
or a label alone, as ``padless predict`` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from harness.baseline.encoder import read_texts
from harness.rundir.results import probability_column
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED
from preprocessing.base.untrusted import join_names
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus.batches import Reader, SourceBatch
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import FORMAT_BY_SUFFIX, list_files, suffix_of
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import open_split
from preprocessing.labels import normalize_label

ROW = "row"
LABEL_COLUMNS = ("predicted", "label")
MAX_SUM_ERROR = 0.02
"""Of the probabilities of a row, which may be rounded."""


def is_answers(name: str) -> bool:
    """Whether a teacher is a file of predictions."""
    return Path(name).is_file() or suffix_of(name) in FORMAT_BY_SUFFIX


def hash_answers(name: str) -> str:
    """The sha256 of a file of predictions. Raises ``DataError`` if there is none."""
    if not Path(name).is_file():
        raise DataError(f"teacher: {name}: no such file; name a file of predictions, or an encoder")
    return atomic.sha256_file(name)


def read_answers(name: str, data: str, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all rows without labels, int64, and what the file says of them: probabilities, float64
    ``[rows, classes]``.

    Raises ``DataError`` for a file that cannot be read or used, and if it says nothing of a row.
    """
    import pandas as pd

    (file,) = list_files(SourceConfig(unlabelled_path=[name]), SplitConfig(column=None))
    key_columns, answer_columns = find_columns(open_reader(file), manifest)
    reader = open_reader(replace(file, source=replace(file.source, text_column=[*key_columns, *answer_columns])))
    split = open_split(data, manifest, UNLABELLED)
    rows = split.column("row")
    keys = rows.astype(str) if key_columns == [ROW] else read_texts(split)
    parts = []
    for batch in reader.batches():
        batch_keys = pc.fill_null(batch.texts_of(key_columns), "").to_pylist()
        parts.append(pd.DataFrame(read_chances(batch, answer_columns, manifest.labels), batch_keys))
    table = pd.concat(parts)
    chances = table[~table.index.duplicated()].reindex(keys).to_numpy()
    is_missing = np.isnan(chances[:, 0])
    if is_missing.any():
        raise DataError(
            f"{name}: says nothing of {int(is_missing.sum()):,} of the {len(rows):,} rows without labels, such as row "
            f"{rows[is_missing].min()} (by {join_names(key_columns)}); add them, or build the dataset without them"
        )
    return rows, chances


def find_columns(reader: Reader, manifest: Manifest) -> tuple[list[str], list[str]]:
    """The columns of a file of predictions: those that tell the row, its number or its text, and those of the
    probabilities, in the order of the dataset's classes, or that of the label alone.

    Raises ``DataError`` if some are missing, or are of other classes.
    """
    names, file, labels = reader.columns, reader.file.name, manifest.labels
    texts = manifest.provenance.get("config", {}).get("source", {}).get("text_column", "text")
    text_columns = [texts] if isinstance(texts, str) else list(texts)
    keys = [ROW] if ROW in names else text_columns
    for candidates in (list(map(probability_column, labels)), labels, *([name] for name in LABEL_COLUMNS)):
        if {*keys, *candidates} <= {*names}:
            return keys, candidates
    rows_by = f"a column {ROW!r} of row numbers, or the texts in {join_names(text_columns)}"
    raise DataError(
        f"{file}: has no predictions: {rows_by}, and a column probability_CLASS for each of {join_names(labels)}, or a "
        f"column 'predicted' of labels; it has {join_names(names)}"
    )


def read_chances(batch: SourceBatch, columns: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """float64 ``[rows, classes]``: the probabilities of a batch, or 1 for the class that it names.

    Raises ``DataError`` for the first row that has none.
    """
    import pandas as pd

    texts = pd.DataFrame({name: batch.column(name).to_pylist() for name in columns}, dtype=object)
    if len(columns) == 1:
        names, classes = texts[columns[0]].map(normalize_label), [*map(normalize_label, labels)]
        chances, problem = (names.to_numpy()[:, None] == classes).astype(np.float64), f"one of {join_names(labels)}"
    else:
        chances = texts.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        problem = "numbers from 0 to 1 that add up to 1; a softmax makes them of logits"
    sums: np.ndarray = chances.sum(axis=1)
    is_right = (chances >= 0).all(axis=1) & (np.abs(sums - 1) <= MAX_SUM_ERROR)
    if not is_right.all():
        row = int(is_right.argmin())
        raise batch.error(row, f"{join_names(columns)}: {join_names(texts.iloc[row])}, expected {problem}")
    return chances / sums[:, None]
