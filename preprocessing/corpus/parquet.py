# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted Parquet files: the footer, and rows in bounded pieces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import check_unpacked, one_line
from preprocessing.corpus import addresses

BATCH_ROWS, BATCH_BYTES = 2048, 4 << 20
"""Most rows of a piece, and most bytes of as many rows of the mean size."""
ROW_BYTES = 16
"""Least memory of a row."""
MAX_COLUMNS = 1 << 14
"""With more, Arrow needs gigabytes for their names."""
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


def check_width(name: str, num_columns: int) -> None:
    """Raise ``DataError`` for a table of more than ``MAX_COLUMNS`` columns."""
    if num_columns > MAX_COLUMNS:
        raise DataError(f"{name}: has more than {MAX_COLUMNS:,} columns; leave out those that are not needed")


def read_footer(address: str, name: str) -> tuple[pa.parquet.FileMetaData, pa.Schema]:
    """The metadata of a Parquet file, and its schema.

    Raises ``DataError`` for another file, for too many columns or two of one name, and for rows or bytes out of
    proportion to its size.
    """
    with addresses.open_file(address) as opened:
        try:
            footer = pa.parquet.read_metadata(opened)
            schema, size = footer.schema.to_arrow_schema(), opened.size()
        except addresses.FAILURES as error:
            raise DataError(f"{name}: not a Parquet file ({one_line(error)})") from None
    check_width(name, footer.num_columns)
    if repeated := [column for column, times in Counter(schema.names).items() if times > 1]:
        raise DataError(f"{name}: has more than one column {repeated[0]!r}; rename one")
    check_unpacked(name, max(ROW_BYTES * footer.num_rows, num_bytes(footer)), size)
    return footer, schema


def num_bytes(footer: pa.parquet.FileMetaData) -> int:
    """The bytes of all rows, decompressed."""
    return sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))


def iter_tables(opened: pa.NativeFile, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a Parquet file in pieces of a bounded number of rows, with the older types in place of views."""
    with pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as file:
        fitting = BATCH_BYTES * file.metadata.num_rows // max(num_bytes(file.metadata), 1)
        for batch in file.iter_batches(max(1, min(BATCH_ROWS, fitting)), columns=list(columns), use_threads=False):
            types = [(field.name, VIEWS.get(field.type, field.type)) for field in batch.schema]
            yield pa.Table.from_batches([batch]).cast(pa.schema(types))


def select_column(table: pa.Table, column: str | int) -> pa.ChunkedArray:
    """A column by its name or position, also a field of structs by its dotted name."""
    for _ in range(str(column).count(".")):
        if column not in table.column_names:
            table = table.flatten()
    return table.column(column)


def column_types(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The type of each column, and of the fields of structs by their dotted names."""
    table, types = schema.empty_table(), dict[str, pa.DataType]()
    while not {*table.column_names} <= {*types}:
        types |= dict(zip(table.column_names, table.schema.types, strict=True))
        table = table.flatten()
    return types


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, also of a dictionary; of views, which few functions know, the older one."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return VIEWS.get(kind, kind)


def is_heavy(kind: pa.DataType) -> bool:
    """Whether the values of a column may be large although they are no text."""
    return pa.types.is_nested(kind) or "binary" in str(kind)


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The class names in the metadata of Hugging Face's datasets (``ClassLabel``) for an integer column; else none."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names: Any = feature["names"] if feature["_type"] == "ClassLabel" else None
        is_named = isinstance(names, list) and pa.types.is_integer(schema.field(column).type)
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return list(map(str, names)) if is_named else []


def values_of(column: Any) -> list[Any]:
    """The values of a column; dates that Python has not, beyond year 9999, as texts."""
    try:
        return column.to_pylist()
    except OverflowError:
        return column.cast(pa.string()).to_pylist()
