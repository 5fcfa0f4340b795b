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
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from pyarrow.types import is_nested

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import one_line, shown
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
    with_newline,
)
from preprocessing.corpus.sources import FILE, File, Part
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

MOST_ROWS = parquet.BATCH_ROWS
"""Most rows of a table."""
ENCODING = "set source.encoding, or correct the row"
SAMPLE_ROWS = 4000
TEXT, BYTES = pa.large_string(), pa.large_binary()
Item = TypeVar("Item")
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
        """A column, by its name or place, as large_string in valid UTF-8; numbers become digits."""
        try:
            array = self.table.column(column).cast(TEXT).combine_chunks()
            array.validate(full=True)
            return array
        except pa.ArrowInvalid:
            raise self.bad_utf8(column) from None

    def bad_utf8(self, column: str | int) -> DataError:
        """The error for the first row and byte of a column that are not UTF-8."""
        name = self.table.field(column).name
        for at, value in enumerate(self.table.column(column).cast(BYTES).to_pylist()):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                return self.fail(at, f"{name!r} is not UTF-8 ({error}); {ENCODING}")
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
    """The rows of a part as tables of bounded size; all columns, of Parquet only those named, if some are.

    A column of JSON lines is text, int64, double or bool if all its values in the table are, else JSON; ``schema``
    gives the types for the whole file (``common_schema``). Raises ``DataError`` for an invalid record, and for a value
    of the text column of JSON lines that is no text.
    """
    name, row, stop = part.file.name, part.cut.first_row, part.cut.first_row + part.cut.rows
    if part.file.kind == "parquet":
        with addresses.naming(part.data, f"{name}: from row {row}"), addresses.open_file(part.data) as opened:
            for table in parquet.pieces(opened, part.cut.start, part.cut.stop, columns or part.columns):
                yield consecutive(part, row, table)
                row += len(table)
        if row != stop:
            what = f"rows {row:,} to {stop - 1:,} are missing, although its footer counts them: damaged; restore it"
            raise DataError(f"{name}: {what}")
        return
    lines = lines_of(part)
    for at in range(0, len(lines), MOST_ROWS):
        some = lines[at : at + MOST_ROWS]
        yield consecutive(part, row + at, table_of(part, some, row + at, schema=schema), some)


def read_rows(part: Part, wanted: list[str]) -> Rows:
    """Some columns of a whole part, for preprocessing. Raises ``DataError`` as ``iter_rows`` does."""
    first, label = part.cut.first_row, part.file.source.label_column
    if part.file.kind == "parquet":
        table = pa.concat_tables(parquet.decoded(rows.table) for rows in iter_rows(part, wanted))
    else:
        table = table_of(part, lines_of(part), first, wanted).select(wanted)
    if part.file.source.labels == AUTO and (names := parquet.class_names(table.schema, label)):
        with addresses.naming(part.data, f"{part.file.name}: the class names in its metadata"):
            numbers = pc.if_else(pc.less(table[label], 0), None, table[label]).cast(pa.int64())  # below 0: no label
            named = pa.DictionaryArray.from_arrays(numbers.combine_chunks(), pa.array(names, TEXT))
        table = table.set_column(wanted.index(label), label, named)
    return consecutive(part, first, table)


def table_of(
    part: Part, lines: Sequence[bytes], first: int, wanted: Sequence[str] = (), schema: pa.Schema | None = None
) -> pa.Table:
    """Some lines of a part, of JSON the ``wanted`` columns, or all; ``first`` is the number of the first row."""
    if part.file.kind == "csv":
        return csv_table(part, b"".join(lines), len(lines), first)
    if part.file.kind == "jsonl":
        return json_table(part, lines, first, wanted, schema)
    return pa.table([pa.array([line.rstrip(b"\r\n") for line in lines], BYTES)], part.file.source.text_columns)


def fail(part: Part, row: int, what: str) -> DataError:
    """An error in one row; of a folder, in one text file."""
    if part.file.format != "folder":
        return DataError(f"{part.file.name}: row {row}: {what}")
    inside = json_record(lines_of(part)[row - part.cut.first_row], part.file.name)[FILE]
    return DataError(f"{part.file.name.rstrip('/')}/{inside}: {what}")


def lines_of(part: Part) -> list[bytes]:
    """The records of a part of a text file, each with the blank lines after it."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    begins, _ = record_begins(data, part.file.form.dialect, last=True, blank=part.file.format == "txt")
    return [data[low:high] for low, high in itertools.pairwise([*begins.tolist(), len(data)])]


def csv_table(part: Part, data: bytes, rows: int, first_row: int) -> pa.Table:
    """Whole records of CSV as columns of bytes, perhaps with repeated names.

    Arrow reads them. The csv module reads what Arrow refuses, to name the row, and data with lone carriage returns,
    which are text here but line ends for Arrow.
    """
    dialect, number, names = part.file.form.dialect, len(part.columns), list(part.columns)
    numbers = list(map(str, range(number)))
    if data.count(b"\r") == data.count(b"\r\n"):
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(data),
                pa.csv.ReadOptions(column_names=numbers, use_threads=False, block_size=len(data) + 1),
                pa.csv.ParseOptions(
                    delimiter=dialect.delimiter,
                    quote_char=dialect.quote or False,
                    escape_char=dialect.escape or False,
                    newlines_in_values=bool(dialect.quote or dialect.escape),
                ),
                pa.csv.ConvertOptions(column_types=dict.fromkeys(numbers, BYTES), strings_can_be_null=False),
            )
            if len(table) == rows:
                return table.rename_columns(names)
        except pa.ArrowInvalid:
            pass  # the csv module below names the row
    found = [fields for _, fields in csv_rows(with_newline(data), dialect) if fields]
    for row, fields in enumerate(found, first_row):
        if len(fields) != number:
            what = f"{len(fields)} fields, the header has {number}; correct the row"
            mend = f"(a text with {dialect.delimiter!r} stands in quotes), or set source.delimiter, quote or escape"
            raise fail(part, row, f"{what} {mend}")
    return pa.table([pa.array([raw(fields[at]) for fields in found], BYTES) for at in range(number)], names=names)


def json_record(line: bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSON; NaN and infinities are null. Raises ``DataError`` that begins with ``where``."""
    try:
        record = JSON.decode(line.strip(b"\r\n").decode())
    except (ValueError, RecursionError) as error:
        mend = ENCODING if isinstance(error, UnicodeDecodeError) else "one object per line"
        raise DataError(f"{where}: not a JSON value ({one_line(error)}); {mend}") from None
    if not isinstance(record, dict):
        raise DataError(f'{where}: a {type(record).__name__}, expected an object such as {{"text": "…"}}')
    return record


def json_table(
    part: Part, lines: Iterable[bytes], first: int, wanted: Sequence[str], schema: pa.Schema | None
) -> pa.Table:
    """The ``wanted`` keys of the objects in some lines as columns, or those in the ``schema``, or all. An absent key is
    null; a text must be a string or null, another wanted value not a list or an object.
    """
    texts = part.file.source.text_columns
    records = [json_record(line, f"{part.file.name}: row {row}") for row, line in enumerate(lines, first)]
    names = schema.names if schema else wanted or [*keys_of(records, part.file.name), *texts]
    columns = {name: [value_of(record, name) for record in records] for name in names}
    for name in wanted or texts:
        for row, value in enumerate(columns[name], first):
            if isinstance(value, dict | list) or (name in texts and not isinstance(value, str | None)):
                raise fail(part, row, f"{name!r} is {shown(value)}, expected a text")
    table = pa.table({name: json_column(values) for name, values in columns.items()})
    return table.cast(schema, safe=False) if schema else table


def json_column(values: list[Any]) -> pa.Array:
    """JSON values as a column of numbers or booleans, if all are; else of texts."""
    try:
        found = pa.array(values)
        if found.type in (pa.int64(), pa.float64(), pa.bool_(), pa.null()):
            return found
    except (ValueError, TypeError, OverflowError):
        pass
    texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    return pa.array([None if text is None else encode(text).decode() for text in texts], TEXT)


def value_of(record: Mapping[str, Any], name: str) -> Any:
    """The value at a key, or at a dotted path of keys and places in lists; None if there is none."""
    if name in record or "." not in name:
        return record.get(name)
    value: Any = record
    try:
        for step in name.split("."):
            value = value[int(step) if isinstance(value, list) else step]
    except (LookupError, TypeError, ValueError):
        return None
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


def common_schema(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The columns of two pieces of JSON lines, each of a type for the values of both."""
    found = {field.name: field for field in one}
    for field in other:
        pair = [pa.schema([found.get(field.name, field)]), pa.schema([field])]
        try:
            found[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
        except pa.ArrowTypeError:
            found[field.name] = pa.field(field.name, TEXT)
    return pa.schema(found.values())


@dataclass(frozen=True)
class Sample:
    """Some rows of a file with all their columns."""

    file: File
    """With its form."""
    columns: list[str]
    names: list[str]
    """The columns for messages, and the dotted names of the texts inside them."""
    values: dict[str, list[Any]]
    """Column -> its values: texts (CSV) or the types of JSON and Parquet. All lists have the same length."""

    def has(self, name: str) -> bool:
        """Whether there is such a column, or one that may hold such a value."""
        return name in self.columns or name.partition(".")[0] in self.columns


def sample(file: File) -> Sample:
    """Read at most ``SAMPLE_ROWS`` rows from the beginning of a file. Raises ``DataError`` for an unreadable one."""
    source = file.source
    if file.format == "parquet":
        return sample_of_parquet(file)
    if file.format in ("folder", "txt"):
        columns = [name for name in ("text", "label", *source.text_columns, source.label_column) if name != AUTO]
        return Sample(file, columns, columns, {})
    file, pieces = file.opened()
    head = next(pieces, b"").removeprefix(BYTE_ORDER_MARK)
    lines = with_newline(head) if len(head) < SAMPLE_BYTES else head[: head.rfind(b"\n", 0, SAMPLE_BYTES) + 1] or head
    if file.kind == "csv":
        columns = source.columns or list(read_header(head, file.name, file.form.dialect))
        found = [row for _, row in csv_rows(lines, file.form.dialect) if len(row) >= len(columns)]
        rows = spread(found[0 if source.columns else 1 :])
        values = {name: [raw(row[at]).decode("utf-8", "replace") for row in rows] for at, name in enumerate(columns)}
        return Sample(file, columns, columns, values)
    every = list(enumerate(filter(bytes.strip, lines.split(b"\n")), 1))
    records = [json_record(line, f"{file.name}: row {row}") for row, line in spread(every)]
    columns = keys_of(records, file.name)
    values = {name: [value_of(record, name) for record in records] for name in [*columns, *file.wanted]}
    return Sample(file, columns, names_in(records[0]) if records else [], values)


def spread(values: list[Item]) -> list[Item]:
    """At most ``SAMPLE_ROWS`` of the values, evenly spaced."""
    return values[:: 1 + len(values) // (SAMPLE_ROWS + 1)]


def sample_of_parquet(file: File) -> Sample:
    """The first rows of the columns that may be text or label: neither binary nor nested, which may be large."""
    footer, schema = parquet.footer_of(file.address, file.name)
    kinds = parquet.columns_of(schema)
    light = {name for name, kind in kinds.items() if not (is_nested(kind) or "binary" in str(kind))}
    flat = [name for name in dict.fromkeys([*schema.names, *file.wanted]) if name in light]
    with addresses.naming(file.address, file.name), addresses.open_file(file.address) as opened:
        first = next(parquet.pieces(opened, 0, footer.num_rows, flat), parquet.chosen(schema.empty_table(), flat))
    values: dict[str, list[Any]] = {}
    for name in flat:
        with suppress(UnicodeDecodeError):  # the reader names the row
            values[name] = parquet.values_of(first[name])
    return Sample(file, schema.names, list(kinds), values)
