# SPDX-License-Identifier: Apache-2.0
"""CSV and TSV: rows keep their bytes, and cells are put behind them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from harness.inference.pieces import Line, Piece, Source, Wanted, chosen_column, decoded, lines_of, own_words, together
from preprocessing.base.errors import DataError
from preprocessing.corpus.records import Dialect, parse, read_header


class CsvTable:
    """A CSV file, read as preprocessing reads one; without a header if the source names its columns."""

    def __init__(self, source: Source, wanted: Wanted, kind: str, facts: dict[str, Any] | None = None) -> None:
        """Read the header, or take it from ``facts``. ``kind`` is ``csv`` or ``tsv``. Raises ``DataError``."""
        self.source, self.kind, self.wanted = source, kind, wanted
        if facts is None:
            self.read_header()
            return
        self.top = Line(facts["before"].encode("latin-1"), facts["header"].encode())
        self.names, self.column = facts["names"], facts["column"]

    def facts(self) -> dict[str, Any]:
        """The header and what it says."""
        before, header = self.top.before.decode("latin-1"), self.top.body.decode()
        return {"names": self.names, "column": self.column, "before": before, "header": header}

    def read_header(self) -> None:
        """Find the columns. Raises ``DataError``."""
        source, self.top, self.names = self.source, Line(b"", b""), list(self.source.columns)
        with own_words():
            if not self.names:
                self.top = next(lines_of(source, source.dialect), self.top)
                if not self.top.bare:
                    raise DataError(f"{source.name}: holds no rows")
                decoded(self.top.bare, f"{source.name}: the header")
                self.names = list(read_header(self.top.bare + b"\n", source.name, source.dialect))
        self.column = chosen_column(source, self.names, self.wanted.columns)

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time."""
        row, place = self.source.first_row, self.names.index(self.column)
        lines = lines_of(self.source, self.source.dialect)
        above = 1 if self.source.stop is None and self.top.body else 0
        with own_words():
            for some in together(itertools.islice(lines, above, None)):
                texts = []
                for number, (field,) in enumerate(self.fields(some, row, [place]), row):
                    self.wanted.check(self.source, number, self.column, field)
                    texts.append(decoded(field, f"{self.source.name}: row {number}: column {self.column!r}"))
                yield Piece(texts, some)
                row += len(texts)

    def fields(self, lines: list[Line], row: int, places: Sequence[int]) -> list[tuple[bytes, ...]]:
        """The fields of each record at some places; ``row`` is the number of the first record.

        Raises ``DataError`` for a record that does not have as many fields as the header.
        """
        filled = [line.bare + b"\n" for line in lines if line.body]
        if not filled:
            return []
        data = b"".join(filled)
        names = [str(place) for place in range(len(self.names))]
        try:
            table, ragged = parse(data, names, [names[place] for place in places], self.source.dialect)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.source.name}: near row {row}: {' '.join(str(error).split())}") from None
        if ragged:
            wrong = ragged[0]
            what = f"{wrong.actual_columns} fields, the header has {wrong.expected_columns}; mend the row"
            hint = "or set source.delimiter, quote or escape"
            raise DataError(f"{self.source.name}: row {row + wrong.number - 1}: {what}, {hint}")
        if len(table) != len(filled):
            what = f"{len(table)} rows where {len(filled)} lines end; line ends must be \\n or \\r\\n"
            raise DataError(f"{self.source.name}: from row {row}: {what}")
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def values(self, piece: Piece) -> pa.Table:
        """Every column as texts: a file of this kind knows no others."""
        records = self.fields(piece.lines, 1, range(len(self.names)))
        columns = []
        for place, name in enumerate(self.names):
            cells = [decoded(record[place], f"{self.source.name}: column {name!r}") for record in records]
            columns.append(pa.array(cells, pa.string()))
        return pa.Table.from_arrays(columns, names=self.names)

    def header(self, names: list[str]) -> bytes:
        """The header with more names; none where there is none."""
        return self.top.before + self.with_cells(self.top, names) if self.top.body else b""

    def extended(self, line: Line, cells: dict[str, Any]) -> bytes:
        """A record with more cells behind it."""
        plain = [str(value).lower() if isinstance(value, bool) else str(value) for value in cells.values()]
        return line.before + self.with_cells(line, plain)

    def with_cells(self, line: Line, cells: list[str]) -> bytes:
        """A record, the cells, its line end."""
        dialect = self.source.dialect
        try:
            added = [dialect.delimiter + quoted(cell, dialect) for cell in cells]
        except ValueError as error:
            raise DataError(f"{self.source.name}: {error}; name an --output that ends in .parquet or .jsonl") from None
        return b"".join([line.bare, "".join(added).encode(), line.end or self.top.end or b"\n"])


def quoted(cell: str, dialect: Dialect) -> str:
    """A cell as a file of this dialect holds it. Raises ``ValueError`` where it has no way to."""
    quote, escape = dialect.quote, dialect.escape
    if not any(sign in cell for sign in (dialect.delimiter, quote, escape, "\n", "\r") if sign):
        return cell
    if escape:
        cell = cell.replace(escape, escape + escape)
        cell = cell if quote else cell.replace(dialect.delimiter, escape + dialect.delimiter)
    if quote:
        return quote + cell.replace(quote, quote + quote) + quote
    if "\n" in cell or "\r" in cell or not escape:
        raise ValueError(f"its fields are not quoted, so that {cell[:60]!r} cannot be one")
    return cell
