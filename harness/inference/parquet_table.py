# SPDX-License-Identifier: Apache-2.0
"""Parquet: columns keep their types, and columns are put behind them."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.pieces import CHUNK_ROWS, Piece, Source, chosen_column, no_text
from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses


class ParquetTable:
    """A Parquet file."""

    kind = "parquet"

    def __init__(self, source: Source, wanted: list[str]) -> None:
        """Read the footer. Raises ``DataError`` for what is no Parquet file or has no such column of texts."""
        self.source = source
        with self.opened() as file:
            self.schema = file.schema_arrow
        self.names = list(self.schema.names)
        self.column = chosen_column(source, self.names, wanted)
        kind = self.schema.field(self.column).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
        binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
        if not any(is_one(kind) for is_one in (*texts, *binary)):
            raise DataError(f"{source.name}: column {self.column!r} holds {kind}, not text; use --column")

    def opened(self) -> pq.ParquetFile:
        """The file, opened."""
        content = self.source.content
        try:
            return pq.ParquetFile(
                addresses.open_file(self.source.name) if content is None else pa.BufferReader(content)
            )
        except (pa.ArrowException, OSError) as error:
            what = " ".join(str(error).split())
            raise DataError(f"{self.source.name}: not readable as Parquet ({what})") from None

    def scan(self) -> int:
        """Read the texts once, and count them."""
        return sum(len(piece.texts) for piece in self.read([self.column]))

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time."""
        return self.read(None)

    def read(self, columns: list[str] | None) -> Iterator[Piece]:
        """All rows of some columns, or of all."""
        row = 1
        with self.opened() as file:
            for batch in file.iter_batches(CHUNK_ROWS, columns=columns):
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
        wrong = next((number for number, text in enumerate(texts, row) if not text), None)
        if wrong is not None:
            raise no_text(self.source, wrong, self.column)
        return list(texts)

    def values(self, piece: Piece) -> pa.Table:
        """The rows, as they are typed."""
        return pa.Table.from_batches([piece.batch])
