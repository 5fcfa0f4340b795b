# SPDX-License-Identifier: Apache-2.0
"""Parquet: columns keep their types, and columns are put behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.pieces import Piece, Source, Wanted, chosen_column
from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses
from preprocessing.corpus.parquet import batches, footer_of

BUFFER_BYTES = 1 << 20
"""What is read of a column at once, so that a large row group is never held whole."""


class ParquetTable:
    """A Parquet file, or a run of rows of one of its row groups."""

    kind = "parquet"

    def __init__(self, source: Source, wanted: Wanted, facts: dict[str, Any] | None = None) -> None:
        """Read the footer. Raises ``DataError`` for what is no Parquet file or has no such column of texts."""
        self.source, self.wanted = source, wanted
        self.footer = footer_of(source.place, source.name)
        self.schema = self.footer.schema.to_arrow_schema()
        self.names = list(self.schema.names)
        self.column = chosen_column(source, self.names, wanted.columns if facts is None else [facts["column"]])
        kind = self.schema.field(self.column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
        if not any(is_one(kind) for is_one in (*texts, *binary)):
            raise DataError(f"{source.name}: column {self.column!r} holds {kind}, not text; use --column")

    def facts(self) -> dict[str, Any]:
        """Where the texts stand, and the types of all columns; the footer has the rest."""
        return {"column": self.column, "types": [str(kind) for kind in self.schema.types]}

    @contextmanager
    def opened(self) -> Iterator[tuple[pq.ParquetFile, int]]:
        """The file, opened, and its bytes. Raises ``DataError`` for what is not readable."""
        try:
            with (
                addresses.open_file(self.source.place) as opened,
                pq.ParquetFile(opened, buffer_size=BUFFER_BYTES) as file,
            ):
                yield file, opened.size()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            what = " ".join(str(error).split())
            raise DataError(f"{self.source.name}: not readable as Parquet ({what})") from None

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time."""
        return self.read(None)

    def read(self, columns: list[str] | None) -> Iterator[Piece]:
        """All rows of some columns, or of all."""
        source, row = self.source, self.source.first_row
        before = sum(self.footer.row_group(group).num_rows for group in range(source.group or 0))
        stop = self.footer.num_rows if source.stop is None else before + source.stop
        with self.opened() as (file, size):
            for batch in batches(file, source.name, size, before + source.start, stop, columns or self.names):
                yield Piece(self.texts(batch, row), [], batch)
                row += len(batch)

    def texts(self, batch: pa.RecordBatch, row: int) -> list[str]:
        """The texts of some rows, of which the first has this number."""
        try:
            column = batch.column(self.column)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            column = column.cast(pa.large_string())
            column.validate(full=True)
            texts = column.to_pylist()
        except (pa.ArrowInvalid, UnicodeDecodeError):
            raise DataError(f"{self.source.name}: from row {row}: column {self.column!r} is not UTF-8") from None
        for number, text in enumerate(texts, row):
            self.wanted.check(self.source, number, self.column, text)
        return [text or "" for text in texts]

    def values(self, piece: Piece) -> pa.Table:
        """The rows, as they are typed."""
        return pa.Table.from_batches([piece.batch])
