# SPDX-License-Identifier: Apache-2.0
"""Rows of a file in batches, with row numbers as a person counts: from 1, without the header and blank lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from padless.core.errors import DataError
from preprocessing.labels import check_label, is_list, join_label_set, join_lists
from preprocessing.sources.sources import File

SEPARATOR = " xxsep "
"""The word between the columns of a text: a token for every tokenizer, which people can type too."""
MAX_COLUMNS = 1 << 14
"""With more, Arrow needs gigabytes for their names."""
MAX_LABELS = 32
"""Lists of more values, in the mean, are no labels unless they are named."""
ENCODING_HINT = "set source.encoding, or correct the row"
FOLDER_SPLIT, PATH, LINE = "split of the folder", "path in the folder", "line of JSON"
"""Columns of a batch: of a folder, each text's split and file; of JSON, each row as written, without its line end."""
TEXT, BYTES = pa.large_string(), pa.large_binary()


@dataclass(frozen=True)
class SourceBatch:
    """Consecutive rows of a file, or some of these."""

    file: File
    numbers: np.ndarray
    """int64: the number of each row in its file, from 1."""
    table: pa.Table
    """Columns of bytes from CSV and texts a line, of the file's own types from the other formats; at least those of
    ``File.key_by_column``. Of JSON also ``LINE``, of a folder ``PATH``."""

    def __len__(self) -> int:
        return len(self.numbers)

    def select(self, mask: np.ndarray) -> SourceBatch:
        """The rows where ``mask``, bool ``[rows]``, is true."""
        if mask.all():
            return self
        return SourceBatch(self.file, self.numbers[mask], self.table.filter(pa.array(mask)))

    def error(self, row: int | np.integer, sentence: str) -> DataError:
        """An error in the row at this index."""
        if self.file.format == "folder":
            path = self.table[PATH][int(row)].as_py().decode()
            return DataError(f"{self.file.name.rstrip('/')}/{path}: {sentence}")
        return row_error(self.file, int(self.numbers[row]), sentence)

    def values(self, column: str | int) -> pa.Array:
        """A column, by its name or position, in its own type. Raises ``DataError`` for objects, and for lists that are
        no labels.
        """
        values = self.table.column(column).combine_chunks()
        is_labels = column == self.file.source.label_column and is_list(values.type)
        if pa.types.is_nested(values.type) and not is_labels:
            raise self.error(0, f"{column!r} holds {values.type}, expected texts; name another column")
        return values

    def join_lists(self, labels: Sequence[Any]) -> list[Any]:
        """The raw labels of the rows, lists as label sets. Raises ``DataError`` for the first that is no label."""
        joined = list(labels)
        for row, label in enumerate(labels):
            try:
                if isinstance(label, list):
                    joined[row] = join_label_set(label)
                else:
                    check_label(label)
            except ValueError as error:
                raise self.error(row, str(error)) from None
        return joined

    def column(self, column: str | int) -> pa.Array:
        """A column, by its name or position, as large_string; numbers become digits. Raises ``DataError`` for the first
        value that is not UTF-8.
        """
        array = self.values(column)
        try:
            texts = array.cast(TEXT)
            texts.validate(full=True)
            return texts
        except pa.ArrowInvalid:
            for row, value in enumerate(array.cast(BYTES).to_pylist()):
                try:
                    (value or b"").decode()
                except UnicodeDecodeError as error:
                    name = self.table.field(column).name
                    raise self.error(row, f"{name!r} is not UTF-8 ({error}); {ENCODING_HINT}") from None
            raise

    def texts(self) -> pa.Array:
        """The texts, large_string: of several columns, their texts with ``SEPARATOR`` between.

        Null where all are null, empty where all are empty. Raises ``DataError`` for invalid UTF-8.
        """
        return self.texts_of(self.file.source.text_columns)

    def texts_of(self, names: Sequence[str]) -> pa.Array:
        """As ``texts``, of the columns with these names."""
        columns = [self.column(name) for name in names]
        if len(columns) == 1:
            return columns[0]
        separator = pa.scalar(SEPARATOR, TEXT)
        texts = pc.binary_join_element_wise(*columns, separator, null_handling="replace", null_replacement="")
        return pc.if_else(pc.equal(texts, SEPARATOR * (len(columns) - 1)), pc.coalesce(*columns), texts)

    def original_columns(self) -> Iterator[tuple[str, Any]]:
        """The rows as they are in the source: of JSON ``line``, else ``column_0``, ``column_1`` and so on."""
        if self.file.format == "jsonl":
            yield "line", self.table[LINE]
            return
        for position in range(self.table.num_columns):
            is_typed = self.file.format == "parquet"
            yield f"column_{position}", self.table.column(position) if is_typed else self.column(position)


def row_error(file: File, number: int, sentence: str) -> DataError:
    """An error in the row with this number."""
    return DataError(f"{file.name}: row {number}: {sentence}")


def check_width(name: str, num_columns: int) -> None:
    """Raise ``DataError`` for a table of more than ``MAX_COLUMNS`` columns."""
    if num_columns > MAX_COLUMNS:
        raise DataError(f"{name}: has more than {MAX_COLUMNS:,} columns; leave out those that are not needed")


class Reader:
    """A file whose columns are known, and whose rows are read once."""

    delimiter = ","
    has_mark = False
    """Whether the file begins with the byte order mark of UTF-8."""

    def __init__(self, file: File, columns: Sequence[str], read_as: Mapping[str, Any] | None = None) -> None:
        check_width(file.name, len(columns))
        self.file = file
        self.columns = list(columns)
        """All columns, in order; those of a CSV file may repeat a name. Of JSON, the keys in its first rows."""
        self.read_as = dict(read_as or {})
        """For the manifest: what differs from the name and the configuration."""

    def batches(self, keep_columns: bool = False) -> Iterator[SourceBatch]:
        """All rows, in order, with the columns of ``File.key_by_column``, or all. Raises ``DataError``."""
        raise NotImplementedError

    def read_sample(self) -> dict[str, list[Any]]:
        """Column -> some of its values as texts, of the first batch, which is read in place of all rows."""
        values = {name: list[Any]() for name in self.columns}
        for batch in itertools.islice(self.batches(keep_columns=True), 1):
            values = {name: cast_to_texts(batch.table.column(at)) for at, name in enumerate(self.columns)}
        return values


def cast_to_texts(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column as texts, short lists as label sets; none if they are neither."""
    try:
        if is_list(column.type) and len(column.combine_chunks().flatten()) <= MAX_LABELS * len(column):
            return join_lists(column.to_pylist())
        texts: list[Any] = column.cast(TEXT).to_pylist()
        return texts
    except (pa.ArrowException, UnicodeDecodeError):
        return []
