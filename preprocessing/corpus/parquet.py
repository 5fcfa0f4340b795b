# SPDX-License-Identifier: Apache-2.0
"""Parquet files that a stranger may have written: the footer, and rows in bounded pieces."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import check_unpacked
from preprocessing.corpus import addresses
from preprocessing.corpus.records import Cut, check_width, runs

BATCH_ROWS, BATCH_BYTES = 2048, 4 << 20
"""Rows, or bytes of them, that are given at once."""
DECODED_BYTES, FEWEST_ROWS = 64 << 20, 4
"""Bytes that are decoded at once, if every row held all that its pages hold; and rows that are in any case."""
ROW_BYTES = 16
"""What a row needs in memory at least."""
MOST_RUNS = 16
"""Parts that the longest row group is cut into at most: each decodes all that comes before it."""


def footer_of(address: str, name: str) -> pa.parquet.FileMetaData:
    """What a Parquet file says of itself.

    Raises ``DataError`` for what is no Parquet file, and for one of too many columns, or of more rows or bytes than so
    few bytes hold texts.
    """
    with addresses.open_file(address) as opened:
        try:
            footer = pa.parquet.read_metadata(opened)
            footer.schema.to_arrow_schema()
            size = opened.size()
        except (*addresses.FAILURES, UnicodeDecodeError) as error:
            raise DataError(f"{name}: not a Parquet file ({addresses.sentence(error)})") from None
    check_width(name, footer.num_columns)
    sizes = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    check_unpacked(name, max(ROW_BYTES * footer.num_rows, sizes), size)
    return footer


def cuts_of(footer: pa.parquet.FileMetaData, part_bytes: int) -> Iterator[tuple[Cut, int]]:
    """Runs of rows of about ``part_bytes``, all of the same length, and the bytes of each."""
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    size = sum(max(0, group.total_byte_size) for group in groups)
    longest = max((group.num_rows for group in groups), default=0)
    runs = min(max(1, round(size / part_bytes)), footer.num_rows * MOST_RUNS // max(longest, 1), footer.num_rows)
    for low, high in itertools.pairwise(footer.num_rows * run // max(runs, 1) for run in range(runs + 1)):
        yield Cut(low, high, low + 1, high - low), size * (high - low) // footer.num_rows


def pieces(opened: pa.NativeFile, name: str, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows ``start`` to ``stop`` of a Parquet file, in pieces of bounded rows and bytes.

    Row groups before them are skipped, rows before them in the same one decoded and dropped. A value may be as long as
    the pages of its column and stand in every row, which no footer tells. Raises ``DataError`` where they become far
    more bytes than texts of such a file do.
    """
    with pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as file:
        for some in runs(sized(file, name, opened.size(), start, stop, columns), itemgetter(1), BATCH_BYTES):
            yield pa.concat_tables(table for table, _ in some).select(list(columns))


def sized(
    file: pa.parquet.ParquetFile, name: str, size: int, start: int, stop: int, columns: Sequence[str]
) -> Iterator[tuple[pa.Table, int]]:
    """As few rows at a time as are decoded safely, and their bytes; a row has its share of a piece at least."""
    end = unpacked = 0
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        row, end = end, end + about.num_rows
        if end <= start or row >= stop:
            continue
        few = max(FEWEST_ROWS, min(BATCH_ROWS, DECODED_BYTES // max(about.total_byte_size, 1)))
        for batch in file.iter_batches(few, row_groups=[group], columns=list(columns), use_threads=False):
            table = pa.Table.from_batches([batch])
            bytes_here = decoded(table).nbytes
            unpacked += bytes_here
            check_unpacked(name, unpacked, size)
            low, high = max(start - row, 0), min(stop - row, len(batch))
            row += len(batch)
            if low < high:
                yield table.slice(low, high - low), max(bytes_here, (high - low) * BATCH_BYTES // BATCH_ROWS)
            if row >= stop:
                break


def decoded(table: pa.Table) -> pa.Table:
    """Rows whose dictionary columns, as pandas writes categories, hold their values."""
    return table.cast(pa.schema([(field.name, value_type(field.type)) for field in table.schema]))


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a column, which may be those of a dictionary."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names that Hugging Face's datasets wrote beside a column of numbers (``ClassLabel``); none if it did not."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names: Any = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    is_named = isinstance(names, list) and pa.types.is_integer(schema.field(column).type)
    return list(map(str, names)) if is_named else []
