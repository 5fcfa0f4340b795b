# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted Parquet files: the footer, and rows in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from padless.core.errors import DataError
from padless.core.untrusted import check_unpacked, one_line
from preprocessing.sources import addresses
from preprocessing.sources.batches import Reader, SourceBatch, check_width
from preprocessing.sources.sources import File

BATCH_ROWS, BATCH_BYTES = 2048, 4 << 20
"""Most rows of a piece, and most bytes of as many rows of the mean size."""
ROW_BYTES = 16
"""Least memory of a row."""
VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


class ParquetReader(Reader):
    """Rows of Parquet."""

    def __init__(self, file: File) -> None:
        self.footer, schema = read_footer(file)
        super().__init__(file, schema.names)

    def batches(self, keep_columns: bool = False) -> Iterator[SourceBatch]:
        """Columns of the file's own types, without dictionaries and views."""
        number, address = 1, self.file.address
        columns = None if keep_columns else [*self.file.key_by_column]
        fitting_rows = BATCH_BYTES * self.footer.num_rows // max(num_bytes(self.footer), 1)
        with (
            addresses.open_file(address, self.file.name) as opened,
            pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as content,
        ):
            for batch in content.iter_batches(
                max(1, min(BATCH_ROWS, fitting_rows)), columns=columns, use_threads=False
            ):
                types = [(column.name, value_type(column.type)) for column in batch.schema]
                table = pa.Table.from_batches([batch]).cast(pa.schema(types))
                yield SourceBatch(self.file, np.arange(number, number + len(table)), table)
                number += len(table)
        if number <= self.footer.num_rows:
            problem = f"has {number - 1:,} rows, but {self.footer.num_rows:,} in its footer: damaged; restore it"
            raise DataError(f"{self.file.name}: {problem}")


def read_footer(file: File) -> tuple[pa.parquet.FileMetaData, pa.Schema]:
    """The metadata of a Parquet file, and its schema.

    Raises ``DataError`` for another file, for too many columns, and for rows or bytes out of
    proportion to its size.
    """
    with addresses.open_file(file.address) as opened:
        try:
            footer = pa.parquet.read_metadata(opened)
            schema, size = footer.schema.to_arrow_schema(), opened.size()
        except addresses.FAILURES as error:
            problem = f"not a Parquet file ({one_line(error)})"
            raise DataError(f"{file.name}: {problem}; end its name as what it is, or write it again") from None
    check_width(file.name, footer.num_columns)
    check_unpacked(file.name, max(ROW_BYTES * footer.num_rows, num_bytes(footer)), size)
    return footer, schema


def num_bytes(footer: pa.parquet.FileMetaData) -> int:
    """The bytes of all rows, decompressed."""
    return sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, also of a dictionary; of views, which few functions know, the older one."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return VIEWS.get(kind, kind)


def values_of(column: Any) -> list[Any]:
    """The values of a column; dates that Python has not, beyond year 9999, as texts."""
    try:
        return column.to_pylist()
    except OverflowError:
        return column.cast(pa.string()).to_pylist()
