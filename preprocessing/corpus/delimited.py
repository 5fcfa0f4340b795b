# SPDX-License-Identifier: Apache-2.0
"""CSV by Arrow: a header, and runs of whole records as columns of bytes.

Arrow ends a line at a carriage return alone too; here that is text. Such returns are hidden from Arrow behind a byte
that the data does not hold, and put back into the columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses
from preprocessing.corpus.records import Dialect, field_ends, record_ends

RETURNS = re.compile(rb"(\r+)(\n?)")
STAND_INS = bytes([*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
"""Control characters, one of which hides a carriage return."""
MAX_COLUMNS = 1 << 14
"""More of them are no table of texts, and Arrow needs gigabytes to name them."""


MAX_HEADER_BYTES = 4 << 20


def check_width(name: str, columns: int) -> None:
    """Raise ``DataError`` for a table of more than ``MAX_COLUMNS`` columns."""
    if columns > MAX_COLUMNS:
        raise DataError(f"{name}: has more than {MAX_COLUMNS:,} columns; leave out those that are not needed")


def options_of(dialect: Dialect, **more: Any) -> pa.csv.ParseOptions:
    """Arrow's name for a dialect."""
    return pa.csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        escape_char=dialect.escape or False,
        newlines_in_values=bool(dialect.quote or dialect.escape),
        **more,
    )


def parse(
    data: bytes, columns: Sequence[str], wanted: Sequence[str], dialect: Dialect, ragged: Callable[[Any], None]
) -> pa.Table:
    """The wanted columns as large_binary, of records without a header.

    ``ragged`` is told of each record with another number of fields than ``columns``; it is left out, and bytes of the
    others that are not UTF-8 are then read as Latin-1. Raises ``pyarrow.ArrowInvalid`` for what is no CSV.
    """
    data, hidden = without_lone_returns(data)
    options = options_of(dialect)
    conversion = pa.csv.ConvertOptions(
        include_columns=list(wanted),
        column_types={name: pa.large_binary() for name in wanted},
        strings_can_be_null=False,
    )
    table = read_records(data, columns, options, conversion, ragged)
    if hidden is None:
        return table
    return pa.table({name: pc.replace_substring(table[name], hidden, b"\r") for name in wanted})


def read_records(
    data: bytes,
    columns: Sequence[str],
    options: pa.csv.ParseOptions,
    conversion: pa.csv.ConvertOptions,
    ragged: Callable[[Any], None],
) -> pa.Table:
    """Arrow's table of records; ``ragged`` is told of each that has another number of fields, and it is left out.

    Arrow decodes such a record before it tells of it, and may not be given one that is not UTF-8.
    """
    found: list[Any] = []

    def read(content: bytes, handler: Callable[[Any], str] | None) -> pa.Table:
        options.invalid_row_handler = handler
        size = pa.csv.ReadOptions(column_names=list(columns), use_threads=False, block_size=len(content) + 1)
        return pa.csv.read_csv(pa.BufferReader(content), size, options, conversion)

    def remember(row: Any) -> str:
        found.append(row)
        return "skip"

    plain = is_utf8(data)
    table = read(data if plain else data.decode("latin-1").encode(), remember)
    for row in found:
        ragged(row)
    return table if plain or found else read(data, None)


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def without_lone_returns(data: bytes) -> tuple[bytes, bytes | None]:
    """The data with each carriage return that ends no line replaced, and by which byte; the last byte ends a line."""
    if data.count(b"\r") == data.count(b"\r\n"):
        return data, None
    end = len(data) - 1 if data.endswith(b"\r") else len(data)
    free = next((bytes([code]) for code in STAND_INS if code not in data), None)
    if free is None or all(found[2] for found in RETURNS.finditer(data, 0, end)):
        return data, None
    return RETURNS.sub(lambda found: found[0] if found[2] else free * len(found[1]), data[:end]) + data[end:], free


def read_header(first: bytes, name: str, dialect: Dialect) -> tuple[str, ...]:
    """The column names in the first line of a CSV file. Raises ``DataError`` where there are none."""
    lines = first.lstrip(b"\r\n")
    if not lines:
        raise DataError(f"{name}: the file is empty; it needs a header line and a row for each text")
    ends, _ = record_ends(lines, dialect, last=False)
    if b"\n" not in lines and len(lines) > MAX_HEADER_BYTES:
        raise DataError(f"{name}: row 0: no line ends within the first {len(lines):,} bytes: no table of texts")
    line = lines[: int(ends[0])] if len(ends) else lines
    if line.count(dialect.delimiter.encode()) >= MAX_COLUMNS:
        check_width(name, sum(1 for _ in itertools.islice(field_ends(line, dialect), MAX_COLUMNS)) + 1)
    line, hidden = without_lone_returns(line)
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(line),
            pa.csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=len(line) + 1),
            options_of(dialect),
            pa.csv.ConvertOptions(strings_can_be_null=False, check_utf8=False),
        )
        names = [str(column[0].as_py()) for column in table.columns]
    except (pa.ArrowException, UnicodeDecodeError, IndexError) as error:
        raise DataError(f"{name}: row 0: the header cannot be read ({addresses.sentence(error)})") from None
    return tuple(name.replace(hidden.decode(), "\r") if hidden else name for name in names)
