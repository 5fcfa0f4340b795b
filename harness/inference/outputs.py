# SPDX-License-Identifier: Apache-2.0
"""Where predictions go: the rows as they were read, and behind them what was predicted."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.pieces import LineTable, Piece, Table

Columns = dict[str, Any]
"""Name -> values of the columns that are added, one for each row."""
GROUP_ROWS, GROUP_BYTES = 1 << 16, 32 << 20
"""Rows, or bytes of them, of a row group of Parquet that is written."""


class Output(Protocol):
    """A file that is being written."""

    header: bytes
    """What stands above the first row; empty where nothing does."""

    def write(self, piece: Piece, added: Columns) -> None:
        """Some rows with more columns."""

    def close(self) -> None:
        """End the file."""


class SameLines:
    """CSV from CSV, JSON lines from JSON lines: what was there stays, byte for byte."""

    def __init__(self, path: Path, table: LineTable, names: list[str]) -> None:
        """``names`` are those of the columns that are added."""
        self.table, self.header = table, table.header(names)
        self.file = open(path, "wb")  # noqa: SIM115 - closed by ``close``
        self.file.write(self.header)

    def write(self, piece: Piece, added: Columns) -> None:
        """Each row with its cells."""
        rows = rows_of(added, len(piece.texts))
        filled = iter(rows)
        for line in piece.lines:
            self.file.write(self.table.extended(line, next(filled)) if line.body else line.before)

    def close(self) -> None:
        """End the file."""
        self.file.close()


class Written:
    """CSV or JSON lines from another kind of file."""

    def __init__(self, path: Path, table: Table, names: list[str], form: Callable[[list[str], list[Any]], str]) -> None:
        """``form`` makes a line of names and values."""
        self.table, self.form = table, form
        every = [*table.names, *names]
        self.header = b"" if form is as_json else form(every, every).encode()
        self.file = open(path, "wb")  # noqa: SIM115 - closed by ``close``
        self.file.write(self.header)

    def write(self, piece: Piece, added: Columns) -> None:
        """Each row with its cells."""
        if not piece.texts:  # blank lines at the end of a file
            return
        whole = self.table.values(piece)
        more = rows_of(added, len(piece.texts))
        columns = [column.to_pylist() for column in whole.columns]
        for number, cells in enumerate(more):
            values = [*(column[number] for column in columns), *cells.values()]
            self.file.write(self.form([*whole.column_names, *cells], values).encode())

    def close(self) -> None:
        """End the file."""
        self.file.close()


class WrittenParquet:
    """Parquet from any kind of file; from Parquet, columns keep their types."""

    def __init__(self, path: Path, table: Table, names: list[str]) -> None:
        """The file is made with the first rows, which tell the types."""
        self.table, self.header = table, b""
        self.groups = Groups(path)

    def write(self, piece: Piece, added: Columns) -> None:
        """Some rows with more columns."""
        if not piece.texts:
            return
        whole = self.table.values(piece)
        for name, values in added.items():
            kind = pa.string() if values.dtype == object else pa.from_numpy_dtype(values.dtype)
            whole = whole.append_column(name, pa.array(values, kind))
        self.groups.add(whole)

    def close(self) -> None:
        """End the file."""
        self.groups.close()


class Groups:
    """A Parquet file that is written in row groups of a bounded size, however few rows come at once."""

    def __init__(self, path: Path) -> None:
        """The file is made with the first row group."""
        self.path = path
        self.writer: pq.ParquetWriter | None = None
        self.held: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Some rows, of the same columns each time."""
        self.held.append(table)
        if sum(map(len, self.held)) >= GROUP_ROWS or sum(one.nbytes for one in self.held) >= GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a row group."""
        if self.held:
            whole, self.held = pa.concat_tables(self.held), []
            if self.writer is None:
                self.writer = pq.ParquetWriter(self.path, whole.schema)
            self.writer.write_table(whole, row_group_size=len(whole))

    def close(self) -> None:
        """Write the rest, and end the file."""
        try:
            self.flush()
        finally:
            if self.writer is not None:
                self.writer.close()


def rows_of(columns: Columns, number: int) -> list[dict[str, Any]]:
    """The cells of each row, as plain values."""
    plain = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    return [{name: values[row] for name, values in plain.items()} for row in range(number)]


def as_json(names: list[str], values: list[Any]) -> str:
    """A line of JSON; dates, times and decimals are texts, and a number that is none is null."""
    finite = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
    return json.dumps(dict(zip(names, finite, strict=True)), ensure_ascii=False, default=plain_text) + "\n"


def as_csv(names: list[str], values: list[Any], delimiter: str = ",") -> str:
    """A line of CSV; what is neither text nor number nor date is written as JSON."""
    line = io.StringIO()
    cells = [
        json.dumps(value, default=plain_text) if isinstance(value, list | dict | bool) else value for value in values
    ]
    csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(
        [plain_text(cell) if isinstance(cell, bytes) else cell for cell in cells]
    )
    return line.getvalue()


def as_tsv(names: list[str], values: list[Any]) -> str:
    """A line of TSV."""
    return as_csv(names, values, "\t")


def plain_text(value: Any) -> str:
    """A value that JSON does not know, as a text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


FORMS: dict[str, Callable[[list[str], list[Any]], str]] = {"csv": as_csv, "tsv": as_tsv, "jsonl": as_json}
"""What makes a line of each kind of text file."""
