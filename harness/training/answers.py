# SPDX-License-Identifier: Apache-2.0
"""The predictions of another program as a teacher: a file of rows by number or by text, with a column for each class,
or a label alone, as ``padless predict`` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.data.views import read_row_hashes, row_hashes
from harness.rundir.results import probability_column
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import UNLABELLED
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


@dataclass(frozen=True)
class Columns:
    """Where a file of predictions has what."""

    rows: str | list[str]
    """The column of row numbers, or those of the texts."""
    classes: list[str]
    """The columns of the probabilities, in the order of the dataset's classes; none where there are labels alone."""
    label: str
    """The column of the label; empty where there are probabilities."""

    @property
    def names(self) -> list[str]:
        """All of them."""
        rows = [self.rows] if isinstance(self.rows, str) else self.rows
        return [*rows, *(self.classes or [self.label])]


def read_answers(name: str, data: str, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all rows without labels, int64 ascending, and what the file says of them: probabilities, float64
    ``[rows, classes]``.

    Raises ``DataError`` for a file that cannot be read or used, and if it says nothing of a row.
    """
    if not Path(name).is_file():
        raise DataError(f"teacher: {name}: no such file; name a file of predictions, or an encoder")
    (file,) = list_files(SourceConfig(unlabelled_path=[name]), SplitConfig(column=None))
    columns = find_columns(open_reader(file), manifest)
    source = replace(file.source, text_column=columns.names)  # the columns that are read
    encoder = None
    if columns.rows != ROW:
        encoder = Encoder(TextPipeline.from_json(manifest.text), Vocabulary.read(home_of(data) / VOCABULARY))
    keys, answers = [np.empty(0, np.uint64)], [np.empty((0, len(manifest.labels)))]
    for batch in open_reader(replace(file, source=source)).batches():
        keys.append(read_keys(batch, columns, encoder))
        answers.append(read_chances(batch, columns, manifest.labels))
    split = open_split(data, manifest, UNLABELLED)
    rows = split.column("row")
    wanted = rows.astype(np.uint64) if encoder is None else read_row_hashes(split)
    file_keys, first = np.unique(np.concatenate(keys), return_index=True)
    places = file_keys.searchsorted(wanted).clip(max=max(0, len(file_keys) - 1))
    is_missing = file_keys[places] != wanted if len(file_keys) else np.ones(len(wanted), bool)
    if is_missing.any():
        key = "rows by number" if encoder is None else "texts"
        raise DataError(
            f"{name}: says nothing of {int(is_missing.sum()):,} of the {len(rows):,} rows without labels, such as row "
            f"{rows[is_missing].min()} (it has {key}); add them, or build the dataset without these texts"
        )
    order = np.argsort(rows)
    return rows[order], np.concatenate(answers)[first[places[order]]]


def find_columns(reader: Reader, manifest: Manifest) -> Columns:
    """The columns of a file of predictions. Raises ``DataError`` if some are missing, or are of other classes."""
    names, file, labels = reader.columns, reader.file.name, manifest.labels
    texts = manifest.provenance.get("config", {}).get("source", {}).get("text_column", "text")
    text_columns = [texts] if isinstance(texts, str) else list(texts)
    rows: str | list[str] = ROW if ROW in names else text_columns
    if rows != ROW and not {*text_columns} <= {*names}:
        raise DataError(
            f"{file}: has neither a column {ROW!r} of row numbers nor the texts in {join_names(text_columns)}; it has "
            f"{join_names(names)}; add one of them"
        )
    for of_class in (probability_column, str):
        wanted = [of_class(label) for label in labels]
        if {*wanted} <= {*names}:
            return Columns(rows, wanted, "")
    other = [name for name in names if name.startswith(probability_column(""))]
    if other:
        problem = f"has {join_names(other)}, and the dataset the classes {join_names(labels)}"
        raise DataError(f"{file}: {problem}; name a column probability_CLASS for each of these")
    label = next((name for name in LABEL_COLUMNS if name in names), None)
    if label is None:
        raise DataError(
            f"{file}: has no predictions: a column probability_CLASS for each of {join_names(labels)}, or a column "
            f"'predicted' of labels; it has {join_names(names)}"
        )
    return Columns(rows, [], label)


def read_keys(batch: SourceBatch, columns: Columns, encoder: Encoder | None) -> np.ndarray:
    """uint64 ``[rows]``: by which the rows of a dataset are found, their numbers or the hashes of their ids."""
    if encoder is None:
        return read_numbers(batch, ROW, "a row number").astype(np.uint64)
    texts = batch.texts_of(columns.rows)
    encoded = encoder(pc.fill_null(texts, ""))
    return row_hashes(encoded.ids, encoded.offsets)


def read_numbers(batch: SourceBatch, column: str, what: str) -> np.ndarray:
    """A column as float64. Raises ``DataError`` for a value that is no number."""
    texts = batch.column(column)
    try:
        numbers = pc.cast(pc.utf8_trim_whitespace(texts), pa.float64())
    except pa.ArrowInvalid:
        numbers = pa.array([parse_number(text) for text in texts.to_pylist()], pa.float64())
    values = pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False)
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values)))
        raise batch.error(row, f"{column!r} is {texts[row].as_py()!r}, expected {what}; correct it")
    return np.asarray(values, np.float64)


def parse_number(text: Any) -> float:
    """A text as a number; not a number if it is none."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def read_chances(batch: SourceBatch, columns: Columns, labels: Sequence[str]) -> np.ndarray:
    """float64 ``[rows, classes]``: the probabilities of a batch, or 1 for the class that it names.

    Raises ``DataError`` for the first row that has none.
    """
    if not columns.classes:
        return np.eye(len(labels))[read_label_numbers(batch, columns.label, labels)]
    chances = np.stack([read_numbers(batch, name, "a probability") for name in columns.classes], axis=1)
    is_outside = ((chances < 0) | (chances > 1)).any(axis=1)
    if is_outside.any():
        row = int(is_outside.argmax())
        value = chances[row][(chances[row] < 0) | (chances[row] > 1)][0]
        raise batch.error(row, f"a probability is {value:g}: are these logits? A softmax makes probabilities of them")
    sums = chances.sum(axis=1)
    is_wrong = np.abs(sums - 1) > MAX_SUM_ERROR
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise batch.error(row, f"its probabilities add up to {sums[row]:.3f}, not to 1; one class is right for a row")
    return np.asarray(chances / sums[:, None])


def read_label_numbers(batch: SourceBatch, column: str, labels: Sequence[str]) -> np.ndarray:
    """int64 ``[rows]``: the class that each row names. Raises ``DataError`` for one that the dataset does not have."""
    number_by_name = {normalize_label(label): number for number, label in enumerate(labels)}
    number_by_name |= {label: number for number, label in enumerate(labels)}
    numbers = np.empty(len(batch), np.int64)
    for row, value in enumerate(batch.column(column).to_pylist()):
        number = number_by_name.get(value, number_by_name.get(normalize_label(value)))
        if number is None:
            problem = f"{column!r} is {value!r}, and the dataset has the classes {join_names([*labels])}"
            raise batch.error(row, f"{problem}; give one of them")
        numbers[row] = number
    return numbers
