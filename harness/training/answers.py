# SPDX-License-Identifier: Apache-2.0
"""The predictions of another program as a teacher: a file of rows by number or by text, with a column for each class,
or a label alone, as ``padless predict`` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from harness.data.views import read_row_hashes, row_hashes
from harness.rundir.results import probability_column
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import NO_LABEL, UNLABELLED
from preprocessing.base.untrusted import join_names
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus.batches import Reader, SourceBatch
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import FORMAT_BY_SUFFIX, list_files, suffix_of
from preprocessing.dataset.shards import VOCABULARY, Manifest
from preprocessing.dataset.views import home_of, open_split
from preprocessing.labels import normalize_label
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary

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
    """The numbers of all rows without labels, int64 ascending, and what the file says of them: probabilities, float64
    ``[rows, classes]``.

    Raises ``DataError`` for a file that cannot be read or used, and if it says nothing of a row.
    """
    (file,) = list_files(SourceConfig(unlabelled_path=[name]), SplitConfig(column=None))
    key_columns, answer_columns = find_columns(open_reader(file), manifest)
    reader = open_reader(replace(file, source=replace(file.source, text_column=[*key_columns, *answer_columns])))
    split = open_split(data, manifest, UNLABELLED)
    rows, read_keys = split.column("row"), read_row_numbers
    keys = rows.astype(np.uint64)
    if key_columns != [ROW]:
        encoder = Encoder(TextPipeline.from_json(manifest.text), Vocabulary.read(home_of(data) / VOCABULARY))
        keys, read_keys = read_row_hashes(split), partial(hash_texts, encoder, key_columns)
    parts = [(read_keys(batch), read_chances(batch, answer_columns, manifest.labels)) for batch in reader.batches()]
    if not parts:
        raise DataError(f"{name}: holds no rows; give a row for each text without a label")
    file_keys, chances = (np.concatenate(column) for column in zip(*parts, strict=True))
    file_keys, first = np.unique(file_keys, return_index=True)
    places = file_keys.searchsorted(keys).clip(max=len(file_keys) - 1)
    is_missing = file_keys[places] != keys
    if is_missing.any():
        raise DataError(
            f"{name}: says nothing of {int(is_missing.sum()):,} of the {len(rows):,} rows without labels, such as row "
            f"{rows[is_missing].min()} (by {join_names(key_columns)}); add them, or build the dataset without them"
        )
    order = np.argsort(rows)
    return rows[order], chances[first[places[order]]]


def find_columns(reader: Reader, manifest: Manifest) -> tuple[list[str], list[str]]:
    """The columns of a file of predictions: those that tell the row, its number or its text, and those of the
    probabilities, in the order of the dataset's classes, or that of the label alone.

    Raises ``DataError`` if some are missing, or are of other classes.
    """
    names, file, labels = reader.columns, reader.file.name, manifest.labels
    texts = manifest.provenance.get("config", {}).get("source", {}).get("text_column", "text")
    text_columns = [texts] if isinstance(texts, str) else list(texts)
    keys = [ROW] if ROW in names else text_columns
    if not {*keys} <= {*names}:
        problem = f"has neither a column {ROW!r} of row numbers nor the texts in {join_names(keys)}"
        raise DataError(f"{file}: {problem}; it has {join_names(names)}; add one of them")
    for candidates in (list(map(probability_column, labels)), labels, *([name] for name in LABEL_COLUMNS)):
        if {*candidates} <= {*names}:
            return keys, candidates
    raise DataError(
        f"{file}: has no predictions: a column probability_CLASS for each of {join_names(labels)}, or a column "
        f"'predicted' of labels; it has {join_names(names)}"
    )


def read_row_numbers(batch: SourceBatch) -> np.ndarray:
    """uint64 ``[rows]``: the numbers of the rows."""
    return read_numbers(batch, ROW).astype(np.uint64)


def hash_texts(encoder: Encoder, columns: Sequence[str], batch: SourceBatch) -> np.ndarray:
    """uint64 ``[rows]``: ``row_hashes`` of the ids of the texts, by which the rows of a dataset are found."""
    encoded = encoder(pc.fill_null(batch.texts_of(columns), ""))
    return row_hashes(encoded.ids, encoded.offsets)


def read_numbers(batch: SourceBatch, column: str) -> np.ndarray:
    """A column as float64. Raises ``DataError`` for a value that is no number."""
    import pandas as pd

    texts = batch.column(column).to_pylist()
    values = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(np.float64)
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        raise batch.error(row, f"{column!r} is {texts[row]!r}, expected a number; correct it")
    return values


def read_chances(batch: SourceBatch, columns: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """float64 ``[rows, classes]``: the probabilities of a batch, or 1 for the class that it names.

    Raises ``DataError`` for the first row that has none.
    """
    if len(columns) == 1:
        return np.eye(len(labels))[read_label_numbers(batch, columns[0], labels)]
    chances = np.stack([read_numbers(batch, name) for name in columns], axis=1)
    sums: np.ndarray = chances.sum(axis=1)
    is_outside = np.asarray(((chances < 0) | (chances > 1)).any(axis=1))
    is_wrong = is_outside | (np.abs(sums - 1) > MAX_SUM_ERROR)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        values = ", ".join(f"{value:.4g}" for value in chances[row])
        problem = "logits? A softmax makes probabilities of them" if is_outside[row] else "they do not add up to 1"
        raise batch.error(row, f"its probabilities are {values}: {problem}")
    return np.asarray(chances / sums[:, None])


def read_label_numbers(batch: SourceBatch, column: str, labels: Sequence[str]) -> list[int]:
    """The class that each row names. Raises ``DataError`` for one that the dataset does not have."""
    number_by_name = {normalize_label(label): number for number, label in enumerate(labels)}
    names = batch.column(column).to_pylist()
    numbers = [number_by_name.get(normalize_label(name), NO_LABEL) for name in names]
    if NO_LABEL in numbers:
        row = numbers.index(NO_LABEL)
        problem = f"{column!r} is {names[row]!r}, and the dataset has the classes {join_names(labels)}"
        raise batch.error(row, f"{problem}; give one of them")
    return numbers
