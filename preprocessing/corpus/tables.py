# SPDX-License-Identifier: Apache-2.0
"""Reads rows of any format as Arrow tables of bounded size, for preprocessing and for prediction.

Errors name the file and the row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from pyarrow.types import is_struct

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import listed, one_line, shown
from preprocessing.corpus import addresses, parquet
from preprocessing.corpus.records import (
    BYTE_ORDER_MARK,
    JSON,
    SAMPLE_BYTES,
    check_width,
    csv_rows,
    raw,
    read_header,
    record_begins,
    runs,
    with_newline,
)
from preprocessing.corpus.sources import FILE, File, Part
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

MOST_ROWS, MOST_BYTES = parquet.BATCH_ROWS, parquet.BATCH_BYTES
"""Most rows and bytes of a table; a longer row is a table of its own."""
ENCODING = "set source.encoding, or correct the row"
POSITIONS, POSITION_BYTES = 8, 1 << 17
"""A sample reads so many bytes at so many positions after the beginning of a file."""
SAMPLE_ROWS = 4000
TEXT, BYTES = pa.large_string(), pa.large_binary()
ABSENT = object()
SEPARATOR = " xxsep "
"""The word between the columns of a text: a token for every tokenizer, which people can type too."""


@dataclass(frozen=True)
class Rows:
    """Rows of a part."""

    part: Part
    numbers: np.ndarray
    """int64: the number of each row in its file, from 1."""
    table: pa.Table
    """Columns: of bytes from CSV and text lines, of the file's own types from Parquet; of JSON also the texts inside
    objects.
    """
    lines: Sequence[bytes] = ()
    """CSV, JSON lines and text lines: each row as written, with its line end and the blank lines after it."""

    def __len__(self) -> int:
        return len(self.table)

    def only(self, kept: np.ndarray) -> Rows:
        """The rows where ``kept`` is true."""
        return Rows(self.part, self.numbers[kept], self.table.filter(pa.array(kept)))

    def fail(self, at: int | np.integer, what: str) -> DataError:
        """An error in one of these rows."""
        return fail(self.part, int(self.numbers[at]), what)

    def text(self, column: str | int) -> pa.Array:
        """A column, by its name or place, as large_string in valid UTF-8. Numbers become digits, but are refused in the
        text column.
        """
        values, name, file = self.table.column(column), self.table.field(column).name, self.part.file
        kind = parquet.value_type(values.type)
        is_text = any(word in str(kind) for word in ("string", "binary")) and not pa.types.is_nested(kind)
        if name in file.source.text_columns and not (is_text or values.null_count == len(values)):
            raise DataError(f"{file.name}: column {name!r} holds {kind}, not text; set source.text_column")
        try:
            array = values.cast(TEXT).combine_chunks()
            array.validate(full=True)
            return array
        except pa.ArrowNotImplementedError:
            raise DataError(f"{file.name}: column {name!r} holds {kind}, which is no text or number") from None
        except pa.ArrowInvalid:
            raise self.bad_utf8(column) from None

    def bad_utf8(self, column: str | int) -> DataError:
        """The error for the first row and byte of a column that are not UTF-8."""
        name = self.table.field(column).name
        for at, value in enumerate(self.table.column(column).cast(BYTES).to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                byte = error.object[error.start]
                return self.fail(at, f"byte {error.start} (0x{byte:02x}) of {name!r} is not UTF-8; {ENCODING}")
        raise AssertionError("Arrow refused a column in which every value is UTF-8")

    def texts(self) -> pa.Array:
        """The texts, large_string: of several columns, their texts with ``SEPARATOR`` between.

        Null where all are null, empty where all are empty. Raises ``DataError`` as ``text`` does.
        """
        names = self.part.file.source.text_columns
        rows = replace(self, table=parquet.chosen(self.table, names))
        columns = [rows.text(name) for name in names]
        separator = pa.scalar(SEPARATOR, TEXT)
        texts = pc.binary_join_element_wise(*columns, separator, null_handling="replace", null_replacement="")
        return pc.if_else(pc.equal(texts, SEPARATOR * (len(columns) - 1)), pc.coalesce(*columns), texts)


def consecutive(part: Part, first: int, table: pa.Table, lines: Sequence[bytes] = ()) -> Rows:
    """Rows that are numbered from ``first`` on."""
    return Rows(part, np.arange(first, first + len(table)), table, lines)


def iter_rows(part: Part, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """The rows of a part as tables of bounded size; all columns unless some are named, of JSON lines always all.

    A column of JSON lines is text, int64, double or bool if all its values in the table are, else JSON; ``schema``
    gives the types for the whole file (``common_schema``). Raises ``DataError`` for an invalid record, and for a value
    of the text column of JSON lines that is no text.
    """
    if part.file.kind == "parquet":
        yield from rows_of_parquet(part, part.columns if columns is None else columns)
        return
    row = part.cut.first_row
    for lines in runs(lines_of(part), len, MOST_BYTES, MOST_ROWS):
        wanted = None if part.file.kind == "jsonl" else columns
        yield consecutive(part, row, table_of(part, lines, row, wanted, schema), lines)
        row += len(lines)


def read_rows(part: Part, wanted: list[str]) -> Rows:
    """Some columns of a whole part, for preprocessing. Raises ``DataError`` as ``iter_rows`` does, and for a row of
    JSON lines that lacks one of them.
    """
    first, label = part.cut.first_row, part.file.source.label_column
    if part.file.kind == "parquet":
        table = pa.concat_tables(parquet.decoded(rows.table) for rows in iter_rows(part, wanted))
    else:
        table = table_of(part, lines_of(part), first, wanted)
    if part.file.format == "parquet" and part.file.source.labels == AUTO and label in wanted:
        with addresses.open_file(part.data) as opened:
            classes = parquet.class_names(pa.parquet.read_schema(opened), label)
        if classes:
            table = table.set_column(wanted.index(label), label, by_name(part, table[label], classes))
    return consecutive(part, first, table)


def table_of(
    part: Part, lines: Sequence[bytes], first: int, wanted: Sequence[str] | None, schema: pa.Schema | None = None
) -> pa.Table:
    """The ``wanted`` columns of some lines of a part, or all; ``first`` is the number of the first row."""
    if part.file.kind == "csv":
        return csv_table(part, b"".join(lines), len(lines), first, wanted)
    if part.file.kind == "jsonl":
        return json_table(part, lines, first, wanted, schema)
    return pa.table([pa.array([line.rstrip(b"\r\n") for line in lines], BYTES)], part.file.source.text_columns)


def fail(part: Part, row: int, what: str) -> DataError:
    """An error in one row."""
    return DataError(f"{row_in_words(part, row)}: {what}")


def row_in_words(part: Part, row: int) -> str:
    """``FILE: row N``; of a folder, the text file."""
    if part.file.format != "folder":
        return f"{part.file.name}: row {row}"
    inside = json_record(lines_of(part)[row - part.cut.first_row], part.file.name)[FILE]
    return f"{part.file.name.rstrip('/')}/{inside}"


def lines_of(part: Part) -> list[bytes]:
    """The records of a part of a text file, each with the blank lines after it."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    begins, _ = record_begins(data, part.file.dialect, last=True, blank=part.file.format == "txt")
    return [data[low:high] for low, high in itertools.pairwise([*begins.tolist(), len(data)])]


def csv_table(part: Part, data: bytes, rows: int, first_row: int, wanted: Sequence[str] | None) -> pa.Table:
    """Whole records of CSV as columns of bytes: the ``wanted`` ones, or all, also with repeated names.

    Arrow reads them. The csv module reads what Arrow refuses, to name the row, and data with lone carriage returns,
    which are text here but line ends for Arrow.
    """
    dialect, number = part.file.dialect, len(part.columns)
    names = list(part.columns if wanted is None else wanted)
    places = range(number) if wanted is None else [part.columns.index(name) for name in names]
    chosen = [str(place) for place in places]
    if data.count(b"\r") == data.count(b"\r\n"):
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(data),
                pa.csv.ReadOptions(
                    column_names=list(map(str, range(number))), use_threads=False, block_size=len(data) + 1
                ),
                pa.csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char=dialect.quote or False,
                    escape_char=dialect.escape or False,
                    newlines_in_values=bool(dialect.quote or dialect.escape),
                ),
                pa.csv.ConvertOptions(
                    include_columns=chosen, column_types=dict.fromkeys(chosen, BYTES), strings_can_be_null=False
                ),
            )
            if len(table) == rows:
                return table.rename_columns(names)
        except pa.ArrowInvalid:
            pass  # the csv module below names the row
    found = [fields for _, fields in csv_rows(with_newline(data), dialect) if fields]
    for row, fields in enumerate(found, first_row):
        if len(fields) != number:
            what = f"{len(fields)} fields, the header has {number}; correct the row"
            mend = f" (a text with {dialect.delimiter!r} stands in quotes), or set source.delimiter, quote or escape"
            raise fail(part, row, what + mend * (part.file.format != "xlsx"))
    return pa.table([pa.array([raw(fields[place]) for fields in found], BYTES) for place in places], names=names)


def json_record(line: bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSON; NaN and infinities are null. Raises ``DataError`` that begins with ``where``."""
    try:
        record = JSON.decode(line.strip(b"\r\n").decode())
    except (ValueError, RecursionError) as error:
        mend = ENCODING if isinstance(error, UnicodeDecodeError) else "one object per line"
        raise DataError(f"{where}: not a JSON value ({one_line(error)}); {mend}") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f'{where}: a {kind}, expected an object such as {{"text": "…"}}')
    return record


def json_table(
    part: Part, lines: Iterable[bytes], first: int, wanted: Sequence[str] | None, schema: pa.Schema | None
) -> pa.Table:
    """The ``wanted`` keys of the objects in some lines as columns, or those in the ``schema``, or all. Wanted ones must
    be there, except a label or a group that may be missing; a text must be a string or null.
    """
    source, splits, records = part.file.source, part.file.splits, list[dict[str, Any]]()
    optional = {splits.group_column if part.file.is_unlabelled else splits.time_column}
    optional |= {source.label_column} if source.missing_label != "error" else set()
    for row, line in enumerate(lines, first):
        record = json_record(line, f"{part.file.name}: row {row}")
        for name in wanted or source.text_columns:
            value = value_of(record, name, None if name in optional or not wanted else ABSENT)
            if value is ABSENT:
                mend = "add it" + ", or set source.missing_label" * (name == source.label_column)
                raise fail(part, row, f"has no key {name!r}; it has {listed(names_in(record))}; {mend}")
            if isinstance(value, dict | list) or (name in source.text_columns and not isinstance(value, str | None)):
                raise fail(part, row, f"{name!r} is {shown(value)}, expected a text")
        records.append(record)
    names = wanted or (schema.names if schema else [*keys_of(records, part.file.name), *source.text_columns])
    kinds = {name: schema.field(name).type if schema else None for name in names}
    columns = {name: [value_of(record, name) for record in records] for name in kinds}
    return pa.table({name: json_column(columns[name], kind) for name, kind in kinds.items()})


def json_column(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """JSON values as a column of this type, or of the common type of numbers or booleans; else as text."""
    if kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    try:
        found = pa.array(values, kind)
        if found.type in (pa.int64(), pa.float64(), pa.bool_(), pa.null()):
            return found
    except (ValueError, TypeError, OverflowError):
        pass
    texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    return pa.array([text if text is None or text.isascii() else encode(text).decode() for text in texts], TEXT)


def value_of(record: Mapping[str, Any], name: str, absent: Any = None) -> Any:
    """The value at a key, or at a dotted path of keys and places in lists; ``absent`` if there is none."""
    if name in record or "." not in name:
        return record.get(name, absent)
    value: Any = record
    try:
        for step in name.split("."):
            value = value[int(step) if isinstance(value, list) else step]
    except (LookupError, TypeError, ValueError):
        return absent
    return value


def names_in(record: Mapping[str, Any]) -> list[str]:
    """The keys of an object, and the dotted ones of the objects in it."""
    inner = [f"{key}.{one}" for key, value in record.items() if isinstance(value, dict) for one in value]
    return [*record, *inner]


def keys_of(records: Iterable[Mapping[str, Any]], name: str) -> list[str]:
    """All keys of some objects. Raises ``DataError`` if there are too many."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    check_width(name, len(keys))
    return keys


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all pieces of JSON lines, each of a type for the values of every piece."""
    found: dict[str, set[pa.DataType]] = {}
    for field in (field for schema in schemas for field in schema):
        found.setdefault(field.name, set()).update({field.type} - {pa.null()})
    kinds = {name: kinds if kinds != {pa.int64(), pa.float64()} else {pa.float64()} for name, kinds in found.items()}
    return pa.schema([(name, its.pop() if len(its) == 1 else TEXT) for name, its in kinds.items()])


def rows_of_parquet(part: Part, wanted: Sequence[str]) -> Iterator[Rows]:
    """A run of rows of a Parquet file."""
    row, stop = part.cut.first_row, part.cut.first_row + part.cut.rows
    with addresses.naming(part.data, f"{part.file.name}: from row {row}"), addresses.open_file(part.data) as opened:
        for table in parquet.pieces(opened, part.cut.start, part.cut.stop, wanted):
            yield consecutive(part, row, table)
            row += len(table)
    if row != stop:
        raise DataError(
            f"{part.file.name}: rows {row:,} to {stop - 1:,} are missing, although its footer counts them: damaged; "
            "restore it"
        )


def by_name(part: Part, column: pa.ChunkedArray, names: list[str]) -> pa.DictionaryArray:
    """A column of class numbers as class names, ordered by number; negative numbers mean no label."""
    numbers = [None if number is None or number < 0 else number for number in column.to_pylist()]
    for row, number in enumerate(numbers, part.cut.first_row):
        if number is not None and number >= len(names):
            what = f"label {number} has no name: the file's metadata names {len(names)} classes"
            raise fail(part, row, f"{what}; correct it, or say in source.labels what the numbers mean")
    return pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int64()), pa.array(names, TEXT))


@dataclass(frozen=True)
class Sample:
    """Some rows of a file with all their columns, from its beginning and, if the format allows it, from all over it:
    corpora are often sorted by label. The size of a sample is bounded.
    """

    file: File
    """With its form."""
    columns: list[str]
    lines: bytes = b""
    """CSV: whole lines at its beginning."""
    records: Sequence[dict[str, Any]] = ()
    """JSON lines; of Parquet, one without values."""

    def has(self, name: str) -> bool:
        """Whether there is such a column, or one that may hold such a value."""
        return name in self.columns or name.partition(".")[0] in self.columns

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """Column -> its values: texts (CSV) or the types of JSON and Parquet. All lists have the same length."""
        if self.file.format == "parquet":
            return parquet_values(self.file)
        if self.file.kind != "csv":
            names = [*self.columns, *self.file.wanted]
            return {name: [value_of(record, name) for record in self.records] for name in names}
        file, has_header = self.file, not self.file.source.columns
        found = [row for data in (self.lines, *elsewhere(file)) for _, row in csv_rows(data, file.dialect)]
        rows = spread([row for row in found if len(row) == len(self.columns)][has_header:])
        if not rows and len(list(filter(None, found))) > has_header:
            what = f"no row has the fields {listed(self.columns)}"
            raise DataError(f"{file.name}: {what}; remove what stands above the header, or set source.columns")
        texts = [[raw(field).decode("utf-8", "replace") for field in row] for row in rows]
        return {name: [row[place] for row in texts] for place, name in enumerate(self.columns)}


def sample(file: File) -> Sample:
    """Read some rows. Raises ``DataError`` for an unreadable file; invalid rows are left out."""
    if file.format == "parquet":
        _, schema = parquet.footer_of(file.address, file.name)
        structs = {field.name: {one.name: None for one in field.type} for field in schema if is_struct(field.type)}
        return Sample(file, schema.names, records=[dict.fromkeys(schema.names) | structs])
    file, _, pieces = file.opened()
    first = next(pieces, b"")
    head, whole = first.removeprefix(BYTE_ORDER_MARK), len(first) < min(addresses.READ_BYTES, SAMPLE_BYTES + 1)
    lines = with_newline(head) if whole else head[: head.rfind(b"\n", 0, SAMPLE_BYTES) + 1]
    if file.kind == "csv":
        return Sample(file, file.source.columns or list(read_header(head, file.name, file.dialect)), lines)
    if file.format == "txt":
        return Sample(file, file.source.text_columns)
    every = [line for piece in (lines or head, *elsewhere(file)) for line in piece.split(b"\n") if line.strip()]
    records = []
    for line in spread(every):
        with suppress(DataError):
            records.append(json_record(line, file.name))
    for line in () if records else every[:1]:
        json_record(line, f"{file.name}: row 1")
    return Sample(file, keys_of(records, file.name), records=records)


def elsewhere(file: File) -> Iterator[bytes]:
    """Whole lines from all over a large file; none if it is compressed or must be converted."""
    size = addresses.identity(file.address)["bytes"] or 0
    is_plain = file.form is not None and file.form.is_plain
    for place in range(1, POSITIONS + 1) if is_plain and size > 2 * SAMPLE_BYTES else ():
        start = size * place // (POSITIONS + 1)
        data = addresses.read_range(file.address, start, min(start + POSITION_BYTES, size))
        yield data[data.find(b"\n") + 1 : data.rfind(b"\n") + 1]


def spread(values: list[Any]) -> list[Any]:
    """At most ``SAMPLE_ROWS`` of the values, evenly spaced."""
    return values[:: 1 + len(values) // (SAMPLE_ROWS + 1)]


def parquet_values(file: File) -> dict[str, list[Any]]:
    """Values of the columns that may be text or label, from row groups all over a Parquet file."""
    footer, schema = parquet.footer_of(file.address, file.name)
    flat = [name for name, kind in parquet.columns_of(schema, file.wanted).items() if not is_heavy(kind)]
    rows = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    chosen = sorted({len(rows) * place // (POSITIONS + 1) for place in range(POSITIONS + 1)} if rows else ())
    found = [parquet.chosen(schema.empty_table(), flat)]
    with addresses.naming(file.address, file.name), addresses.open_file(file.address) as opened:
        for group in chosen:
            begin, number = sum(rows[:group]), min(rows[group], SAMPLE_ROWS // len(chosen))
            found += parquet.pieces(opened, begin, begin + number, flat)
    table = pa.concat_tables(found)
    values: dict[str, list[Any]] = dict.fromkeys(flat, [None] * len(table))
    for name in flat:
        with suppress(UnicodeDecodeError):  # the reader names the row
            values[name] = table[name].to_pylist()
    return values


def is_heavy(kind: pa.DataType) -> bool:
    """Whether a column is binary or nested: neither text nor label, and perhaps large."""
    kind = parquet.value_type(kind)
    return pa.types.is_nested(kind) or "binary" in str(kind)
