# SPDX-License-Identifier: Apache-2.0
"""Data frames as Parquet files, by which the commands read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from padless.core.atomic import storage_errors
from padless.core.errors import DataError
from preprocessing.sources.parquet import value_type
from preprocessing.text.cleaning import encode

if TYPE_CHECKING:
    import pandas as pd

GROUP_ROWS = 16384


def write_frame(frame: Any, folder: Path) -> str:
    """Write the rows of a frame to a file in ``folder``; returns its path. Raises ``DataError`` for what is no table,
    ``StorageError`` if writing fails.
    """
    path = folder / "frame.parquet"
    with storage_errors(path):
        pq.write_table(table_of_frame(frame), path, row_group_size=GROUP_ROWS, compression="lz4")
    return str(path)


def table_of_frame(frame: Any) -> pa.Table:
    """A frame of pandas, or of another library by Arrow's protocol, as a table that Parquet can hold."""
    if hasattr(frame, "iloc") and hasattr(frame, "columns"):
        columns = [column_of_frame(frame.iloc[:, position]) for position in range(len(frame.columns))]
        return pa.Table.from_arrays(columns, names=[str(name) for name in frame.columns])
    try:
        table = pa.table(frame)
        types = [(field.name, value_type(field.type)) for field in table.schema]
        return table.cast(pa.schema(types, table.schema.metadata))
    except (pa.ArrowException, ValueError, TypeError):
        hint = "give a frame with a column of texts, or the names of files"
        raise DataError(f"a {type(frame).__name__} is no table; {hint}") from None


def column_of_frame(values: pd.Series) -> pa.Array | pa.ChunkedArray:
    """One column as an Arrow array; mixed types and lone surrogates become strings, as in CSV."""
    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowException, ValueError, TypeError):
        texts = values.astype(object).map(lambda value: encode(str(value)).decode(), na_action="ignore")
        return pa.Array.from_pandas(texts, type=pa.large_string())
