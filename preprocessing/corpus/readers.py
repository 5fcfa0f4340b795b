# SPDX-License-Identifier: Apache-2.0
"""Read one part of a corpus: texts, class numbers, splits and row numbers. Errors name the file and the row."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from preprocessing.base.arrow import one_chunk
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import SPELLINGS, split_number
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.delimited import parse
from preprocessing.corpus.detection import resolved
from preprocessing.corpus.encodings import UTF8, as_utf8, recognised
from preprocessing.corpus.forms import BYTE_ORDER_MARK
from preprocessing.corpus.scanning import scan
from preprocessing.corpus.sources import File, Part, files
from preprocessing.labels import AUTO, MAX_CLASSES, NEUTRAL, UNKNOWN, distinct, found_in, spelling
from preprocessing.text.words import encode

BATCH_ROWS = 1024
ENCODING = "set source.encoding, or mend the row"
NO_GROUP = 0
"""Stands for the hash of a group where a row has none."""


@dataclass(frozen=True)
class Piece:
    """The rows of a part that go into the dataset. All arrays have one entry per row."""

    texts: pa.Array
    """large_string without nulls."""
    label: np.ndarray
    """int32, each row's place in ``classes``."""
    classes: list[str]
    """Names of the classes: those of ``source.labels``, or those that were found in this part, sorted."""
    split: np.ndarray
    """int8, number of the split, or ``NO_SPLIT`` where the source names none."""
    row: np.ndarray
    """int64, the row's number in the source, from 1."""
    missing: np.ndarray
    """bool, whether there was no text at all (null)."""
    neutral: int
    """Rows left out because their label is neutral."""
    filtered: int
    """Rows left out by ``source.where``."""
    group: np.ndarray | None = None
    """uint64, a hash of each row's group, ``NO_GROUP`` where it has none; None without ``splits.group_column``."""
    groups: dict[int, str] = field(default_factory=dict)
    """Hash -> name of the groups in this part."""


def read(part: Part) -> Piece:
    """Read one part. Raises ``DataError`` naming the file and the row of whatever is wrong in it."""
    table = read_table(part, part.file.wanted)
    rows = np.arange(part.cut.first_row, part.cut.first_row + len(table), dtype=np.int64)
    source = part.file.source
    kept = np.ones(len(table), bool)
    for column, value in source.where.items():
        same = pc.equal(as_text(part, table[column], rows, column), value)
        kept &= pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    filtered = int((~kept).sum())
    table, rows = table.filter(pa.array(kept)), rows[kept]
    label, classes = class_numbers(part, one_chunk(table[source.label_column]), rows)
    kept = label != NEUTRAL
    neutral = int((~kept).sum())
    table, rows, label = table.filter(pa.array(kept)), rows[kept], label[kept]
    texts = as_text(part, table[source.text_column], rows, source.text_column)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    split = split_numbers(part, table, rows)
    group, groups = group_hashes(part, table, rows)
    texts = pc.fill_null(texts, "")
    return Piece(texts, label, classes, split, rows + part.offset, missing, neutral, filtered, group, groups)


def read_table(part: Part, wanted: list[str]) -> pa.Table:
    """Some columns of a part, as they are. Raises ``DataError`` for what is no record of the format."""
    kinds = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet, "folder": read_folder}
    return kinds[part.file.format](part, wanted)


def first_texts(source: SourceConfig, splits: SplitConfig, number: int) -> list[str]:
    """Some texts from the start of a source, for measurements."""
    texts: list[str] = []
    with tempfile.TemporaryDirectory() as stage:
        for file in resolved(list(files(source, splits))).files:
            for part in scan(file, Path(stage)).parts:
                texts += read(part).texts.slice(0, number - len(texts)).to_pylist()
                if len(texts) == number:
                    return texts
    return texts


def fail(part: Part, row: int, what: str) -> DataError:
    """The sentence of an error in one row."""
    if part.texts:
        return DataError(f"{part.texts[row - part.cut.first_row][0]}: {what}")
    return DataError(f"{part.file.name}: row {row}: {what}")


def class_numbers(part: Part, column: pa.Array, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """int32: the class of every row, or ``NEUTRAL``; and the names of the classes."""
    source = part.file.source
    labels = source.label_map()
    numbers, names = (labels.numbers_of(column), labels.names) if labels else found_in(column, source.neutral)
    if (numbers == UNKNOWN).any():
        at = int(np.argmax(numbers == UNKNOWN))
        value = column[at].as_py()
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if labels is None:
            raise fail(part, int(rows[at]), "there is no label; mend the row, or leave it out with source.where")
        what = "there is no label" if value is None or value == "" else f"label {str(value)[:60]!r} is not known"
        raise fail(part, int(rows[at]), f"{what}; known are {labels.expected()}; mend the row, or set source.labels")
    if labels is None:
        check_number(names, part.file)
    return numbers, names


def check_number(classes: Collection[str], file: File) -> None:
    """Ask whether a column is the label at all: ``DataError`` for more than ``MAX_CLASSES`` different values."""
    if len(classes) > MAX_CLASSES:
        some = ", ".join(repr(name[:40]) for name in sorted(classes)[:3])
        raise DataError(
            f"{file.name}: column {file.source.label_column!r} has more than {MAX_CLASSES:,} different values "
            f"({some}, …): is it the label? Name another source.label_column, or say in source.labels what they mean"
        )


def split_numbers(part: Part, table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """int8: the split that the source names for every row, or -1."""
    if part.texts:
        every = np.array([split_number(split) for _, _, split in part.texts], np.int8)
        return every[rows - part.cut.first_row]
    column = part.file.splits.column
    if column is None:
        return np.full(len(rows), split_number(part.file.split), np.int8)
    values, indices = distinct(as_text(part, table[column], rows, column))
    names = part.file.splits.names
    known: dict[str | None, str] = dict(SPELLINGS.items())
    known |= {spelling(value): split for split in names for value in names[split]}
    named = [known.get(spelling(value)) for value in values]
    empty = [not (value or "").strip() and name is None for value, name in zip(values, named, strict=True)]
    unknown = [value for value, name, none in zip(values, named, empty, strict=True) if name is None and not none]
    if unknown:
        row = int(rows[np.argmax(indices == values.index(unknown[0]))])
        also = f" (nor {', '.join(map(repr, unknown[1:6]))}{', …' if len(unknown) > 6 else ''})" if unknown[1:] else ""
        what = f"split {unknown[0]!r} is not known{also}; known are {', '.join(map(str, known))}"
        raise fail(part, row, f"{what}; say in splits.names which split it means")
    return np.array([split_number(name) for name in named], np.int8)[indices]


def group_hashes(part: Part, table: pa.Table, rows: np.ndarray) -> tuple[np.ndarray | None, dict[int, str]]:
    """uint64: a hash of every row's group, ``NO_GROUP`` for an empty cell; and the names of the hashes."""
    column = part.file.splits.group_column
    if column is None:
        return None, {}
    values, indices = distinct(as_text(part, table[column], rows, column))
    names = [(value or "").strip() for value in values]
    digests = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") or 1 for name in names]
    hashes = [digest if name else NO_GROUP for name, digest in zip(names, digests, strict=True)]
    return np.array(hashes, np.uint64)[indices], {key: name for key, name in zip(hashes, names, strict=True) if name}


def as_text(part: Part, column: pa.ChunkedArray, rows: np.ndarray, name: str) -> pa.Array:
    """A column as large_string, its UTF-8 checked. Numbers become their digits, but are refused as texts."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if name == part.file.source.text_column and not (is_text or is_bytes or column.null_count == len(column)):
        raise DataError(f"{part.file.name}: column {name!r} holds {kind}, not text; set source.text_column")
    try:
        texts = column.cast(pa.large_string())
        array = one_chunk(texts)
        array.validate(full=True)
        return array
    except pa.ArrowNotImplementedError:
        raise DataError(f"{part.file.name}: column {name!r} holds {kind}, which is no text or number") from None
    except pa.ArrowInvalid:
        raise bad_utf8(part, column, rows, name) from None


def bad_utf8(part: Part, column: pa.ChunkedArray, rows: np.ndarray, name: str) -> DataError:
    """Find the row and the byte that are not UTF-8."""
    for row, value in zip(rows.tolist(), column.cast(pa.large_binary()).to_pylist(), strict=True):
        try:
            (value or b"").decode()
        except UnicodeDecodeError as error:
            byte = f"byte {error.start} (0x{error.object[error.start]:02x}) of {name!r} is not UTF-8"
            return fail(part, row, f"{byte}; {ENCODING}")
    raise AssertionError("Arrow refused a column in which every value is UTF-8")


def read_csv(part: Part, wanted: list[str]) -> pa.Table:
    """The wanted columns as bytes."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    ragged: list[Any] = []
    try:
        table = parse(data, part.columns, wanted, part.file.dialect, ragged.append)
    except pa.ArrowInvalid as error:
        raise DataError(f"{part.file.name}: near row {part.cut.first_row}: {addresses.sentence(error)}") from None
    if ragged:
        first = ragged[0]
        what = f"{first.actual_columns} fields, the header has {first.expected_columns}"
        raise fail(
            part,
            part.cut.first_row + first.number - 1,
            f"{what}; mend the row, or set source.delimiter, quote or escape",
        )
    if len(table) != part.cut.rows:
        what = f"{len(table)} rows where {part.cut.rows} lines end"
        raise DataError(f"{part.file.name}: from row {part.cut.first_row}: {what}; line ends must be \\n or \\r\\n")
    return table


def read_jsonl(part: Part, wanted: list[str]) -> pa.Table:
    """One JSON object per line; the wanted keys of each."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    source = part.file.source
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line not in (b"", b"\r")]
    for row, line in enumerate(lines, part.cut.first_row):
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise fail(
                part, row, f"byte {error.start} of the line (0x{line[error.start]:02x}) is not UTF-8; {ENCODING}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise fail(part, row, f"not a JSON value ({addresses.sentence(error)}); one object per line") from None
        if not isinstance(record, dict):
            raise fail(part, row, f'a {type(record).__name__}, expected an object such as {{"text": …, "label": …}}')
        for name in wanted:
            if name not in record:
                raise fail(part, row, f"has no key {name!r}; it has {', '.join(map(repr, record))}")
            value = record[name]
            if name == source.label_column and isinstance(value, bool):
                value = int(value)
            values[name].append(scalar(part, row, name, value, name == source.text_column))
    return pa.table({name: pa.array(column, pa.large_string()) for name, column in values.items()})


def scalar(part: Part, row: int, name: str, value: Any, is_text: bool) -> str | None:
    """A JSON value as text; null and NaN are none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return encode(value).decode() if not value.isascii() else value
    if is_text or isinstance(value, (dict, list)):
        raise fail(part, row, f"{name!r} is {str(value)[:60]}, expected a text")
    return str(value)


def read_parquet(part: Part, wanted: list[str]) -> pa.Table:
    """A run of rows of one row group; the rows before it are skipped batch by batch."""
    batches, position = [], 0
    with (
        addresses.naming(part.data, f"{part.file.name}: row group {part.group}"),
        addresses.open_file(part.data) as opened,
        pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as file,
    ):
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[part.group], columns=wanted, use_threads=False):
            start, stop = part.cut.start - position, part.cut.stop - position
            position += len(batch)
            if stop > 0 and start < len(batch):
                batches.append(decoded(batch.slice(max(start, 0), min(stop, len(batch)) - max(start, 0))))
            if stop <= len(batch):
                break
    return pa.Table.from_batches(batches).select(wanted)


def plain(content: bytes, name: str, encoding: str) -> bytes:
    """A whole text file as UTF-8, without a byte order mark."""
    encoding = recognised(content, name) if encoding == AUTO else encoding
    return b"".join(as_utf8([content], encoding, name)) if encoding != UTF8 else content.removeprefix(BYTE_ORDER_MARK)


def decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose dictionary columns, as pandas writes categories, hold their values."""
    columns = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
    return pa.record_batch(
        {
            name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            for name, column in columns.items()
        }
    )


def read_folder(part: Part, wanted: list[str]) -> pa.Table:
    """Whole text files with their labels; a folder has no other columns."""
    system, _ = addresses.filesystem(part.data)
    source = part.file.source
    texts = []
    for address, _, _ in part.texts:
        with addresses.naming(address), addresses.raw(system, addresses.filesystem(address)[1]) as opened:
            texts.append(plain(opened.read(), address, source.encoding))
    labels = pa.array([label for _, label, _ in part.texts])
    columns = {source.text_column: pa.array(texts, pa.large_binary()), source.label_column: labels}
    return pa.table(columns)
