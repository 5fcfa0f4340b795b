# SPDX-License-Identifier: Apache-2.0
"""Reads a source once and writes its rows as Parquet parts of one schema: the one door for rows, for datasets and for
predictions. All checks on rows are here; errors name file and row.

Columns of a part: ``row`` (int64, the number in its file, from 1), ``text`` (large_string, null if it is missing),
``label`` (string, the class name; null if there is none), ``split`` (int8, a number or ``NO_SPLIT``), perhaps ``group``
(uint64, a hash, or ``NO_GROUP``), and ``number`` and ``date`` (float64: the time, by its kind; NaN where it is of the
other kind or missing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST_NUMBER, UNLABELLED_NUMBER, VALIDATION_NUMBER, split_number
from preprocessing.base.untrusted import listed, one_line
from preprocessing.config import SourceConfig
from preprocessing.corpus.readers import FOLDER_SPLIT, TEXT, Batch, Reader, open_reader
from preprocessing.corpus.sources import QUICK_LOOK_BYTES, File, bytes_of, fingerprint_of, identity_of
from preprocessing.labels import MAX_CLASSES, NEUTRAL, LabelType, as_found, distinct, spelling, type_of

NO_GROUP = 0
"""In place of a group's hash for a row without a group."""
ROW_BYTES = 16
"""What a row counts for beside its text, where a part is cut."""


class ConvertedPart(msgspec.Struct, frozen=True):
    """Some rows of a source."""

    path: str
    """The name of the Parquet file in its folder."""
    first_row: int
    rows: int
    text_bytes: int
    sha256: str


class Converted(msgspec.Struct, frozen=True):
    """A source as Parquet parts."""

    parts: list[ConvertedPart]
    rows_read: int
    neutral: int
    """Rows left out because their label is neutral."""
    filtered: int
    """Rows left out by ``source.where``."""
    without_label: int
    """Rows left out because they have no label."""
    first_without_text: int | None
    """The number of the first row whose text is missing or empty."""
    classes: list[str]
    """The class names that occur, sorted; those of ``source.labels``, if it is a map."""
    label_types: list[LabelType]
    """Of the label column; several if batches differ."""
    class_names: list[str]
    """All class names in the file's metadata, in the order of their numbers; mostly none."""
    columns: list[str]
    """All columns of the source."""
    read_as: dict[str, Any]
    """What differs from the name and the configuration, for the manifest."""
    delimiter: str
    has_mark: bool
    """Whether the source begins with the byte order mark of UTF-8."""
    bytes: int
    """Size of the source."""
    fingerprint: dict[str, str]


@dataclass
class Counts:
    """What is counted while the rows of a source are read."""

    rows_read: int = 0
    neutral: int = 0
    filtered: int = 0
    without_label: int = 0
    first_without_text: int | None = None
    classes: set[str] = field(default_factory=set)
    label_types: set[LabelType] = field(default_factory=set)


def convert(
    file: File,
    folder: Path,
    prefix: str = "",
    *,
    keep_columns: bool = False,
    is_quick_look: bool = False,
    on_rows: Callable[[int], object] = int,
) -> Converted:
    """Write the rows of a source below ``folder`` as ``PREFIX000000.parquet`` and so on, each of about
    ``source.part_mb``; returns what was read.

    With ``keep_columns``, parts also hold the row as it was: of JSON ``line``, else ``column_0``, ``column_1``, … in
    the order of ``columns``. A quick look reads about ``QUICK_LOOK_BYTES``. ``on_rows`` is called with the number of
    rows that were read. Raises ``DataError`` for a source or row that cannot be used, ``OSError`` if writing fails.
    """
    identity, reader = identity_of(file), open_reader(file)
    reader.file = file = drop_missing_group(file, reader)
    check_columns(file, reader)
    counts, num_bytes = Counts(), 0
    if labels := file.source.label_map():
        counts.classes.update(labels.names)
    writer = PartWriter(folder, prefix, int(file.source.part_mb * 1e6))
    keeps_all = keep_columns and file.format != "jsonl"
    for batch in reader.batches(None if keeps_all else [*file.key_by_column]):
        counts.rows_read += len(batch)
        on_rows(len(batch))
        writer.write(check_rows(batch, reader, counts, keep_columns))
        num_bytes += batch.table.nbytes
        if is_quick_look and num_bytes >= QUICK_LOOK_BYTES:
            break
    writer.flush()
    if identity_of(file) != identity:
        raise DataError(f"{file.name}: it changed while it was read; start again when it is whole")
    sha256 = None if is_quick_look else reader.sha256()
    return Converted(
        parts=writer.parts,
        rows_read=counts.rows_read,
        neutral=counts.neutral,
        filtered=counts.filtered,
        without_label=counts.without_label,
        first_without_text=counts.first_without_text,
        classes=labels.names if labels else sorted(counts.classes),
        label_types=sorted(counts.label_types),
        class_names=list(reader.class_names),
        columns=reader.columns,
        read_as=reader.form.recorded,
        delimiter=reader.form.delimiter,
        has_mark=reader.form.has_mark,
        bytes=bytes_of(file),
        fingerprint=fingerprint_of(file, is_quick_look=is_quick_look, sha256=sha256),
    )


def read_part(folder: Path, part: ConvertedPart) -> pa.Table:
    """The rows of a part."""
    return pq.read_table(folder / part.path, use_threads=False)


class PartWriter:
    """Writes rows as parts of about ``part_bytes``. The cuts depend on the rows alone."""

    def __init__(self, folder: Path, prefix: str, part_bytes: int) -> None:
        self.folder, self.prefix, self.part_bytes = folder, prefix, max(1, part_bytes)
        self.parts: list[ConvertedPart] = []
        self.tables: list[pa.Table] = []
        self.num_bytes = 0
        """Of the rows before."""

    def write(self, table: pa.Table) -> None:
        """Add rows; complete parts are written."""
        lengths = pc.fill_null(pc.binary_length(table["text"]), 0).to_numpy() + ROW_BYTES
        ends = self.num_bytes + np.cumsum(lengths)
        numbers = ends // self.part_bytes
        start = 0
        for stop in [*(np.flatnonzero(np.diff(numbers, prepend=self.num_bytes // self.part_bytes))).tolist(), None]:
            if stop is None or stop > start:
                self.tables.append(table.slice(start, None if stop is None else stop - start))
            if stop is not None:
                self.flush()
                start = stop
        self.num_bytes = int(ends[-1]) if len(ends) else self.num_bytes

    def flush(self) -> None:
        """Write the rows that are held as a part."""
        tables, self.tables = [table for table in self.tables if len(table)], []
        if not tables:
            return
        table = pa.concat_tables(tables)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="lz4", use_dictionary=["label"])
        data = sink.getvalue()
        path = f"{self.prefix}{len(self.parts):06d}.parquet"
        atomic.write_bytes(self.folder / path, data, lasting=False)
        text_bytes = pc.sum(pc.binary_length(table["text"])).as_py() or 0
        sha256 = hashlib.sha256(data).hexdigest()
        self.parts.append(ConvertedPart(path, table["row"][0].as_py(), len(table), text_bytes, sha256))


def drop_missing_group(file: File, reader: Reader) -> File:
    """The file, without its group column if it is unlabelled and does not have it."""
    if not file.is_unlabelled or file.splits.group_column in (None, *reader.names):
        return file
    return replace(file, splits=replace(file.splits, group_column=None))


def check_columns(file: File, reader: Reader) -> None:
    """Raise ``DataError`` for a file that lacks a column, has it twice, or holds no texts in it.

    Rows of JSON may lack a key, and those of folders have no columns.
    """
    if file.format not in ("jsonl", "folder", "txt"):
        check_names(file, reader.names)
        reader.check_types(file)


def check_names(file: File, names: Collection[str]) -> None:
    """Raise ``DataError`` for a file whose columns lack a name that is wanted, or repeat it."""
    for name, key in file.key_by_column.items():
        if name not in names:
            raise DataError(f"{file.name}: has no column {name!r}; it has {listed([*names])}; set {key}")
        if list(names).count(name) > 1:
            raise DataError(f"{file.name}: has more than one column {name!r}; rename one, or set source.columns")


def check_rows(batch: Batch, reader: Reader, counts: Counts, keep_columns: bool) -> pa.Table:
    """The rows of a batch that are not left out, as a part stores them. Raises ``DataError`` for a row that cannot be
    used.
    """
    source, splits = batch.file.source, batch.file.splits
    for column, value in source.where.items():
        is_equal = pc.fill_null(pc.equal(batch.column(column), value), False).to_numpy(zero_copy_only=False)
        counts.filtered += int((~is_equal).sum())
        batch = batch.select(is_equal)
    split = read_splits(batch)
    labels, has_label, is_neutral = read_labels(batch, reader, split == UNLABELLED_NUMBER, counts)
    is_dropped = ~has_label & ~is_neutral & (source.missing_label == "drop") & (not batch.file.is_unlabelled)
    counts.neutral += int(is_neutral.sum())
    counts.without_label += int(is_dropped.sum())
    is_used = ~is_neutral & ~is_dropped
    batch, split, has_label = batch.select(is_used), split[is_used], has_label[is_used]
    labels = labels.filter(pa.array(is_used))
    texts = batch.texts()
    check_texts(batch, texts, counts)
    is_measured = ~has_label & np.isin(split, (VALIDATION_NUMBER, TEST_NUMBER))
    if is_measured.any():
        what = "there is no label, which rows of validation and test need; take the row out of its split"
        raise batch.error(np.argmax(is_measured), what)
    split[~has_label] = UNLABELLED_NUMBER
    columns: dict[str, Any] = {"row": batch.numbers, "text": texts, "label": labels, "split": split}
    if splits.group_column is not None:
        columns["group"] = hash_groups(batch.column(splits.group_column))
    if splits.time_column is not None:
        columns |= read_times(batch, splits.time_column)
    if keep_columns:
        columns |= dict(original_columns(batch))
    return pa.table(columns)


def original_columns(batch: Batch) -> Iterator[tuple[str, Any]]:
    """The rows of a batch as they are in the source."""
    if batch.lines:
        yield "line", pa.array(batch.lines, pa.large_binary())
        return
    for position in range(batch.table.num_columns):
        is_typed = batch.file.format == "parquet"
        yield f"column_{position}", batch.table.column(position) if is_typed else batch.column(position)


def check_texts(batch: Batch, texts: pa.Array, counts: Counts) -> None:
    """Find the first row without a text. Raises ``DataError`` if such rows are refused."""
    is_missing = texts.is_null().to_numpy(zero_copy_only=False)
    source = batch.file.source
    if source.missing_text == "error" and is_missing.any():
        what = (
            f"column {source.text_column!r} holds no text; fill or remove the row, or set source.missing_text to keep"
        )
        raise batch.error(np.argmax(is_missing), what)
    is_empty = pc.fill_null(pc.equal(pc.binary_length(texts), 0), True).to_numpy(zero_copy_only=False)
    if counts.first_without_text is None and is_empty.any():
        counts.first_without_text = int(batch.numbers[np.argmax(is_empty)])


def read_labels(
    batch: Batch, reader: Reader, is_hidden: np.ndarray, counts: Counts
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The class name of every row (string, null without a label), whether it has a label, and whether that is neutral
    (bool). Values in hidden rows are not read.

    Raises ``DataError`` for a label that is not known, for a missing one unless ``source.missing_label`` allows it, and
    for too many classes.
    """
    source = batch.file.source
    if batch.file.is_unlabelled:
        none = np.zeros(len(batch), bool)
        return pa.nulls(len(batch), pa.string()), none, none
    column = batch.values(source.label_column)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = batch.column(source.label_column)
    if reader.class_names:
        column = name_classes(column, reader)
    column = pc.if_else(pa.array(is_hidden), pa.scalar(None, column.type), column) if is_hidden.any() else column
    values, indices = distinct(column)
    names, is_neutral = name_labels(values, source)
    is_missing = np.array([name is None and not spelling(value) for name, value in zip(names, values, strict=True)])
    has_label = np.array([name is not None for name in names], bool)
    is_wrong = ~has_label & ~is_neutral & ~(is_missing & (source.missing_label != "error"))
    if is_wrong[indices].any():
        row = int(np.argmax(is_wrong[indices]))
        raise batch.error(row, label_sentence(as_found(values[indices[row]]), source))
    counts.classes.update(name for name in names if name is not None)
    check_number(counts.classes, batch.file)
    kind = type_of(column.type) if isinstance(source.labels, str) else "text"
    if kind is not None:
        counts.label_types.add(kind)
    return pa.array(names, pa.string()).take(pa.array(indices)), has_label[indices], is_neutral[indices]


def name_classes(column: pa.Array, reader: Reader) -> pa.Array:
    """The class names for numbers of classes; below 0 is no label. Raises ``DataError`` for a number without a name."""
    numbers = pc.if_else(pc.less(column, 0), None, column).cast(pa.int64())
    try:
        return pa.array(reader.class_names, TEXT).take(numbers)
    except pa.ArrowIndexError as error:
        raise DataError(f"{reader.file.name}: the class names in its metadata: {one_line(error)}") from None


def name_labels(values: list[Any], source: SourceConfig) -> tuple[list[str | None], np.ndarray]:
    """The class name of each raw label, None without one, and whether it is neutral (bool)."""
    labels = source.label_map()
    if labels:
        numbers = labels.numbers_of(values)
        return [labels.names[number] if number >= 0 else None for number in numbers], np.array(numbers) == NEUTRAL
    neutral = {spelling(value) for value in source.neutral}
    names = [as_found(value) if spelling(value) else None for value in values]
    is_neutral = np.array([name is not None and spelling(name) in neutral for name in names], bool)
    return [None if hidden else name for name, hidden in zip(names, is_neutral, strict=True)], is_neutral


def label_sentence(value: str | None, source: SourceConfig) -> str:
    """What is wrong with a label that has no meaning."""
    labels = source.label_map()
    if labels and value and value.strip():
        known = ", ".join(labels.numbers)
        return f"label {value[:60]!r} is not known; known are {known}; correct the row, or set source.labels"
    return "there is no label; fill it in, or leave such rows out with source.missing_label drop"


def check_number(classes: Collection[str], file: File) -> None:
    """Raise ``DataError`` for a label column of more than ``MAX_CLASSES`` distinct values."""
    if len(classes) > MAX_CLASSES:
        what = f"column {file.source.label_column!r} has more than {MAX_CLASSES:,} different values: is it the label?"
        hint = "Name another source.label_column, or say in source.labels what they mean"
        raise DataError(f"{file.name}: {what} {hint}")


def read_splits(batch: Batch) -> np.ndarray:
    """int8: the split that the source names for every row, or ``NO_SPLIT``."""
    file = batch.file
    column = FOLDER_SPLIT if file.format == "folder" else file.splits.column
    if column is None or file.is_unlabelled:
        return np.full(len(batch), split_number(file.split), np.int8)
    values, indices = distinct(batch.column(column))
    names = [file.split_by_value.get(spelling(value)) for value in values]
    for index, (value, name) in enumerate(zip(values, names, strict=True)):
        if name is None and (value or "").strip():
            what = f"split {value!r} is not known; known are {', '.join(map(str, file.split_by_value))}"
            raise batch.error(np.argmax(indices == index), f"{what}; say in splits.names which split it means")
    return np.array([split_number(name) for name in names], np.int8)[indices]


def hash_groups(column: pa.Array) -> np.ndarray:
    """uint64: a hash of every row's group, ``NO_GROUP`` for an empty cell."""
    values, indices = distinct(column)
    hashes = []
    for name in ((value or "").strip() for value in values):
        digest = hashlib.sha256(name.encode()).digest()[:8]
        hashes.append(int.from_bytes(digest, "little") if name else NO_GROUP)
    return np.array(hashes, np.uint64)[indices]


def read_times(batch: Batch, column: str) -> dict[str, np.ndarray]:
    """float64: ``number``, each row's time if it is a number, and ``date``, its seconds since 1970 if it is a date.

    Raises ``DataError`` for a value that is neither an ISO date nor a finite number.
    """
    import pandas as pd

    values = [""] * len(batch) if batch.file.is_unlabelled else batch.column(column).to_pylist()
    texts = pd.Series(values, dtype=object).fillna("").str.strip()
    number = pd.to_numeric(texts, errors="coerce").astype(float)
    dates = pd.to_datetime(texts.where(number.isna()), format="ISO8601", utc=True, errors="coerce")
    is_wrong = ((number.isna() & dates.isna()) | np.isinf(number)) & (texts != "")
    if is_wrong.any():
        row = int(is_wrong.argmax())
        what = f"{texts[row][:60]!r} in {column!r} is no date and no number"
        raise batch.error(row, f"{what}; write dates as 2024-12-31, or name another splits.time_column")
    seconds = (dates - pd.Timestamp(0, tz="UTC").as_unit("s")).dt.total_seconds()
    return {"number": number.to_numpy(float), "date": seconds.to_numpy(float)}
