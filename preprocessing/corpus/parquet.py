# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted Parquet files: the footer, and rows in bounded pieces."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import check_unpacked, one_line
from preprocessing.corpus import addresses
from preprocessing.corpus.records import Cut, check_width

BATCH_ROWS, BATCH_BYTES = 2048, 4 << 20
"""Most rows of a piece, and most bytes of as many rows of the mean size."""
ROW_BYTES = 16
"""Least memory of a row."""
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
MOST_RUNS = 16
"""Most parts of the longest row group: each part decodes all rows before it."""


def footer_of(address: str, name: str) -> tuple[pa.parquet.FileMetaData, pa.Schema]:
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
    if twice := [column for column, times in Counter(schema.names).items() if times > 1]:
        raise DataError(f"{name}: has more than one column {twice[0]!r}; rename one")
    sizes = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    check_unpacked(name, max(ROW_BYTES * footer.num_rows, sizes), size)
    return footer, schema


def cuts_of(footer: pa.parquet.FileMetaData, part_bytes: int) -> Iterator[tuple[Cut, int]]:
    """Runs of rows of about ``part_bytes``, all of the same length, and the bytes of each."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    size = sum(max(0, group.total_byte_size) for group in groups)
    longest = max((group.num_rows for group in groups), default=0)
    runs = min(max(1, round(size / part_bytes)), footer.num_rows * MOST_RUNS // max(longest, 1), footer.num_rows)
    for low, high in itertools.pairwise(footer.num_rows * run // max(runs, 1) for run in range(runs + 1)):
        yield Cut(low, high, low + 1, high - low), size * (high - low) // footer.num_rows


def pieces(opened: pa.NativeFile, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows ``start`` to ``stop`` of a Parquet file, in pieces of a bounded number of rows.

    Earlier row groups are skipped; earlier rows of the same group are decoded and dropped.
    """
    with pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as file:
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        begins = [0, *itertools.accumulate(group.num_rows for group in groups)]
        needed = [at for at in range(len(groups)) if begins[at] < stop and begins[at + 1] > start]
        row, size = begins[min(needed, default=0)], sum(group.total_byte_size for group in groups)
        few = max(1, min(BATCH_ROWS, BATCH_BYTES * begins[-1] // max(size, 1)))
        for batch in file.iter_batches(few, row_groups=needed, columns=list(columns), use_threads=False):
            low, high = max(start - row, 0), min(stop - row, len(batch))
            row += len(batch)
            if low < high:
                yield chosen(pa.Table.from_batches([batch.slice(low, high - low)]), columns)
            if row >= stop:
                break


def chosen(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Some columns, also fields of structs by their dotted names."""
    for _ in range(max((name.count(".") for name in columns), default=0)):
        if not {*columns} <= {*table.column_names}:
            table = table.flatten()
    return table.select(list(columns))


def columns_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    """The type of each column, and of the fields of structs by their dotted names."""
    table, kinds = schema.empty_table(), dict[str, pa.DataType]()
    while not {*table.column_names} <= {*kinds}:
        kinds |= dict(zip(table.column_names, table.schema.types, strict=True))
        table = table.flatten()
    return kinds


def decoded(table: pa.Table) -> pa.Table:
    """Rows with dictionary columns (pandas categories) and views as plain values."""
    kinds = [(field.name, value_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(kinds, table.schema.metadata))


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, also of a dictionary; of views, which few functions know, the older one."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return VIEWS.get(kind, kind)


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
