# SPDX-License-Identifier: Apache-2.0
"""Reads a source once and writes its rows as parts, Arrow files of one schema: the one door for rows, for datasets and
for predictions. All checks on rows are here; errors name file and row.

Columns of a part: ``row`` (int64, the number in its file, from 1), ``text`` (large_string, null if it is missing),
``label`` (string, the class name; null if there is none), ``split`` (int8, a number or ``NO_SPLIT``), perhaps ``group``
(uint64, a hash, or ``NO_GROUP``), and ``number`` and ``date`` (float64: the time, by its kind; null where it is of the
other kind or missing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from padless.core import arrays, atomic
from padless.core.errors import DataError
from padless.core.split_names import TEST_NUMBER, UNLABELLED_NUMBER, VALIDATION_NUMBER, split_number
from padless.core.untrusted import join_names, quote_value
from preprocessing.config import SourceConfig
from preprocessing.labels import (
    AUTO,
    LIST,
    LIST_AS_TEXT,
    MAX_CLASSES,
    MAX_LABEL_SETS,
    NAME_END,
    LabelType,
    check_label,
    distinct,
    is_list,
    join_label_set,
    name_label_value,
    normalize_label,
    split_label_set,
    split_labels,
    type_of,
)
from preprocessing.sources.batches import FOLDER_SPLIT, TEXT, SourceBatch
from preprocessing.sources.readers import open_reader
from preprocessing.sources.sources import File, fingerprint_of, identity_of

NO_GROUP = 0
"""In place of a group's hash for a row without a group."""
ROW_BYTES = 16
"""What a row counts for beside its text, where a part is cut."""


class ConvertedPart(msgspec.Struct, frozen=True):
    """Some rows of a source."""

    path: str
    """The name of the Arrow file in its folder."""
    rows: int
    sha256: str


class Converted(msgspec.Struct):
    """A source as parts, and what was found in it."""

    columns: list[str]
    """All columns of the source."""
    read_as: dict[str, Any]
    """What differs from the name and the configuration, for the manifest."""
    delimiter: str
    has_mark: bool
    """Whether the source begins with the byte order mark of UTF-8."""
    bytes: int = 0
    """Size of the source."""
    fingerprint: dict[str, str] = {}
    parts: list[ConvertedPart] = []
    rows_read: int = 0
    filtered: int = 0
    """Rows left out by ``source.where``."""
    without_label: int = 0
    """Rows left out because they have no label."""
    classes: list[str] = []
    """The class names that occur, sorted; those of ``source.labels``, if it is a map. With several labels to a text,
    the label sets that occur (``join_label_set``)."""
    label_types: list[LabelType] = []
    """Of the label column; several if batches differ."""


def convert(file: File, folder: Path, prefix: str = "", *, keep_columns: bool = False) -> Converted:
    """All of ``convert_parts``."""
    steps = convert_parts(file, folder, prefix, keep_columns=keep_columns)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            converted: Converted = end.value
            return converted


def convert_parts(
    file: File, folder: Path, prefix: str = "", *, keep_columns: bool = False
) -> Generator[ConvertedPart, None, Converted]:
    """Write the rows of a source below ``folder`` as ``PREFIX000000.arrow`` and so on, each of about
    ``source.part_mb``. Yields each part as soon as it is written; returns what was read.

    With ``keep_columns``, parts also hold the row as it was: of JSON ``line``, else ``column_0``, ``column_1``, … in
    the order of ``columns``. Raises ``DataError`` for a source or row that cannot be used, ``OSError`` if writing
    fails.
    """
    identity, reader = identity_of(file), open_reader(file)
    if file.is_unlabelled and file.splits.group_column not in reader.columns:
        file = replace(file, splits=replace(file.splits, group_column=None))
        reader.file = replace(reader.file, splits=file.splits)
    if file.format != "jsonl":  # rows may lack a key
        check_names(file, reader.columns)
    converted = Converted(reader.columns, reader.read_as, reader.delimiter, reader.has_mark)
    tables = (check_rows(batch, converted, keep_columns) for batch in reader.batches(keep_columns))
    for part in write_parts(tables, folder, prefix, max(1, int(file.source.part_mb * 1e6))):
        converted.parts.append(part)
        yield part
    labels = file.source.label_map
    if labels and not file.source.has_label_sets:
        converted.classes = labels.names
    converted.bytes, converted.fingerprint = identity["bytes"], fingerprint_of(file)
    if identity_of(file) != identity:
        raise DataError(f"{file.name}: it changed while it was read; start again when it is whole")
    return converted


def read_part(folder: Path, part: ConvertedPart) -> pa.Table:
    """The rows of a part."""
    return pa.Table.from_batches([arrays.read_batch(folder / part.path)])


def write_parts(tables: Iterable[pa.Table], folder: Path, prefix: str, part_bytes: int) -> Iterator[ConvertedPart]:
    """Write rows as parts of about ``part_bytes``."""
    for number, table in enumerate(filter(len, cut_parts(tables, part_bytes))):
        name = f"{prefix}{number:06d}.arrow"
        columns = {column: table[column].combine_chunks() for column in table.column_names}
        arrays.write_batch(folder / name, columns, lasting=False)
        pa.default_memory_pool().release_unused()  # or it grows with the number of parts
        yield ConvertedPart(name, len(table), atomic.sha256_file(folder / name))


def cut_parts(tables: Iterable[pa.Table], part_bytes: int) -> Iterator[pa.Table]:
    """The rows of each part; a part may be empty. The cuts depend on the rows alone. If all columns are kept, a row
    counts for its share of their bytes.
    """
    rows_of_part, num_bytes = list[pa.Table](), 0
    for table in tables:
        lengths = pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy() + ROW_BYTES
        originals = table.select([name for name in table.column_names if name.startswith(("column_", "line"))])
        lengths += originals.nbytes // max(1, len(table))
        ends = np.cumsum(np.append(num_bytes, lengths))
        num_bytes, start = int(ends[-1]), 0
        for stop in np.flatnonzero(np.diff(ends // part_bytes)).tolist():
            yield pa.concat_tables([*rows_of_part, table.slice(start, stop - start)])
            rows_of_part, start = [], stop
        rows_of_part.append(table.slice(start))
    if rows_of_part:
        yield pa.concat_tables(rows_of_part)


def check_names(file: File, names: Collection[str]) -> None:
    """Raise ``DataError`` for a file whose columns lack a name that is wanted, or repeat it."""
    for name, key in file.key_by_column.items():
        if name not in names:
            raise DataError(f"{file.name}: has no column {name!r}; it has {join_names([*names])}; set {key}")
        if list(names).count(name) > 1:
            raise DataError(f"{file.name}: has more than one column {name!r}; rename one, or set source.columns")


def check_rows(batch: SourceBatch, converted: Converted, keep_columns: bool) -> pa.Table:
    """The rows of a batch that are not left out, as a part stores them; adds to the counts of ``converted``.

    Raises ``DataError`` for a row that cannot be used.
    """
    source, splits = batch.file.source, batch.file.splits
    converted.rows_read += len(batch)
    for column, value in source.where.items():
        is_equal = pc.fill_null(pc.equal(batch.column(column), value), False).to_numpy(zero_copy_only=False)
        converted.filtered += int((~is_equal).sum())
        batch = batch.select(is_equal)
    split = read_splits(batch)
    labels = read_labels(batch, split == UNLABELLED_NUMBER, converted)
    has_label = labels.is_valid().to_numpy(zero_copy_only=False)
    if source.missing_label == "drop" and not batch.file.is_unlabelled:
        converted.without_label += int((~has_label).sum())
        batch, split, labels = batch.select(has_label), split[has_label], labels.drop_null()
        has_label = np.ones(len(batch), bool)
    is_measured = ~has_label & np.isin(split, (VALIDATION_NUMBER, TEST_NUMBER))
    if is_measured.any():
        problem = "there is no label, which rows of validation and test need; take the row out of its split"
        raise batch.error(np.argmax(is_measured), problem)
    split[~has_label] = UNLABELLED_NUMBER
    columns: dict[str, Any] = {"row": batch.numbers, "text": batch.texts(), "label": labels, "split": split}
    if splits.group_column is not None:
        hashes, indices = map_values(batch, batch.column(splits.group_column), hash_group)
        columns["group"] = np.array(hashes, np.uint64)[indices]
    if splits.time_column is not None:
        columns |= read_times(batch, splits.time_column)
    return pa.table(columns | (dict(batch.original_columns()) if keep_columns else {}))


def read_labels(batch: SourceBatch, is_hidden: np.ndarray, converted: Converted) -> pa.Array:
    """The class name of every row (string, null without a label). Values in hidden rows are not read.

    Raises ``DataError`` for a label that is not known, for a missing one unless ``source.missing_label`` allows it, and
    for too many classes.
    """
    source = batch.file.source
    if batch.file.is_unlabelled:
        return pa.nulls(len(batch), pa.string())
    column = batch.values(source.label_column)
    kind, is_joined = type_of(column.type), is_list(column.type) or batch.file.format == "jsonl"
    if is_list(column.type):
        column = pa.array(batch.join_lists(column.to_pylist()), TEXT)
    column = pc.if_else(pa.array(is_hidden), pa.scalar(None, column.type), column)
    names, indices = map_values(batch, column, partial(name_labels, source=source, is_joined=is_joined))
    labels = pa.array(names, pa.string()).take(pa.array(indices))
    converted.classes = sorted({*converted.classes, *pc.unique(labels).drop_null().to_pylist()})
    check_number(converted.classes, batch.file)
    if kind:
        converted.label_types = sorted({*converted.label_types, kind if isinstance(source.labels, str) else "text"})
    return labels


def map_values(batch: SourceBatch, column: pa.Array, map_value: Callable[[Any], Any]) -> tuple[list[Any], np.ndarray]:
    """``map_value`` of each distinct value of a column, and int32 ``[rows]``: each row's index into them. Raises
    ``DataError`` that names the first row for which it raises ``ValueError``.
    """
    values, indices = distinct(column)
    results = []
    for index, value in enumerate(values):
        try:
            results.append(map_value(value))
        except ValueError as error:
            raise batch.error(np.argmax(indices == index), str(error)) from None
    return results, indices


def name_label(value: Any, source: SourceConfig) -> str | None:
    """The class name of a raw label; None without one. Raises ``ValueError`` for an unknown label, and for a missing
    one unless ``source`` allows it.
    """
    text, labels = normalize_label(value), source.label_map
    if not text and source.missing_label == "error":
        raise ValueError("there is no label; fill it in, or leave such rows out with source.missing_label drop")
    if not text or labels is None:
        return name_label_value(value) or None
    if text not in labels.name_by_value:
        problem = f"label {quote_value(name_label_value(value))} is not known"
        problem += f"; known are {join_names([*labels.name_by_value])}"
        key = "source.labels or source.labels_separator" if source.has_label_sets else "source.labels"
        raise ValueError(f"{problem}; correct the row, or set {key}")
    return labels.name_by_value[text]


def name_labels(value: Any, source: SourceConfig, is_joined: bool) -> str | None:
    """The class name of a raw cell as ``name_label``; with several labels to a text, their label set as one text.
    ``is_joined``: lists have become label sets. Raises ``ValueError`` as ``name_label`` does, for a list where a name
    is expected, or the reverse, and as ``check_label``.
    """
    name, separator = name_label_value(value), source.labels_separator or AUTO
    text = name or ""
    if not is_joined:
        check_label(text)
    is_listed = text.endswith(NAME_END) or (separator == LIST and LIST_AS_TEXT.fullmatch(text) is not None)
    if text and is_listed != (separator == LIST):
        kind, label = "a list" if is_listed else "no list", quote_value(text.replace(NAME_END, ","))
        raise ValueError(f"the label {label} is {kind}, unlike source.labels_separator; write all as lists, or none")
    is_missing = name is None or (not text.strip() and source.missing_label != "error" and separator != LIST)
    if is_missing or not source.has_label_sets:
        return name_label(value, source)
    return join_label_set({name_label(label, source) for label in split_labels(text, separator)})


def check_number(classes: Collection[str], file: File) -> None:
    """Raise ``DataError`` for a label column of more than ``MAX_CLASSES`` distinct values that no map names, or
    ``MAX_LABEL_SETS`` sets of them.
    """
    if file.source.has_label_sets:
        if len(classes) > MAX_LABEL_SETS:
            problem = f"column {file.source.label_column!r} has more than {MAX_LABEL_SETS:,} different sets of labels"
            raise DataError(f"{file.name}: {problem}; leave rare labels out")
        classes = {name for label_set in classes for name in split_label_set(label_set)}
    if len(classes) > MAX_CLASSES and file.source.label_map is None:
        problem = (
            f"column {file.source.label_column!r} has more than {MAX_CLASSES:,} different values: is it the label?"
        )
        hint = "Name another source.label_column, or say in source.labels what they mean"
        raise DataError(f"{file.name}: {problem} {hint}")


def read_splits(batch: SourceBatch) -> np.ndarray:
    """int8: the split that the source names for every row, or ``NO_SPLIT``."""
    file = batch.file
    column = FOLDER_SPLIT if file.format == "folder" else file.splits.column
    if column is None or file.is_unlabelled:
        return np.full(len(batch), split_number(file.split), np.int8)
    numbers, indices = map_values(batch, batch.column(column), partial(number_split, file=file))
    return np.array(numbers, np.int8)[indices]


def number_split(value: str | None, file: File) -> int:
    """The number of the split that a cell names. Raises ``ValueError`` for an unknown name."""
    split = file.split_by_value.get(normalize_label(value))
    if split is None and normalize_label(value):
        spellings = ", ".join(map(str, file.split_by_value))
        problem = f"split {value!r} is not known; known are {spellings}"
        raise ValueError(f"{problem}; say in splits.names which split it means")
    return split_number(split)


def hash_group(name: str | None) -> int:
    """A hash of a group in 64 bits, ``NO_GROUP`` for an empty cell."""
    group = (name or "").strip()
    digest = hashlib.sha256(group.encode()).digest()[:8]
    return int.from_bytes(digest, "little") if group else NO_GROUP


def read_times(batch: SourceBatch, column: str) -> dict[str, pa.Array]:
    """float64: ``number``, each row's time if it is a number, and ``date``, its seconds since 1970 if it is a date.

    Raises ``DataError`` for a value that is neither an ISO date nor a finite number.
    """
    import pandas as pd

    values = [None] * len(batch) if batch.file.is_unlabelled else batch.column(column).to_pylist()
    texts = pd.Series(values, dtype=object).str.strip().replace("", None)
    number = pd.to_numeric(texts, errors="coerce").astype(float)
    date = pd.to_datetime(texts.where(number.isna()), format="ISO8601", utc=True, errors="coerce")
    is_wrong = texts.notna() & date.isna() & ~np.isfinite(number)
    if is_wrong.any():
        row = int(is_wrong.argmax())
        problem = f"{texts[row][:60]!r} in {column!r} is no date and no number"
        raise batch.error(row, f"{problem}; write dates as 2024-12-31, or name another splits.time_column")
    seconds = (date - pd.Timestamp(0, tz="UTC").as_unit("s")).dt.total_seconds()
    return {"number": pa.array(number), "date": pa.array(seconds)}
