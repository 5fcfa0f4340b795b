# SPDX-License-Identifier: Apache-2.0
"""CSV and TSV: rows keep their bytes, and cells are put behind them."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv

from harness.inference.pieces import Line, Piece, Source, Wanted, chosen_column, decoded, lines_of, together
from preprocessing.base.errors import DataError
from preprocessing.corpus.delimited import read_records
from preprocessing.corpus.records import Dialect

DELIMITERS = (",", ";", "\t", "|")
QUOTE = '"'


class CsvTable:
    """A CSV file with a header; its delimiter is the one with which the header has the wanted column."""

    def __init__(self, source: Source, wanted: Wanted, kind: str, facts: dict[str, Any] | None = None) -> None:
        """Read the header, or take it from ``facts``. ``kind`` is ``csv`` or ``tsv``. Raises ``DataError``."""
        self.source, self.kind, self.wanted = source, kind, wanted
        if facts is None:
            self.read_header()
            return
        self.top = Line(facts["before"].encode("latin-1"), facts["header"].encode())
        self.delimiter, self.names, self.column = facts["delimiter"], facts["names"], facts["column"]

    def facts(self) -> dict[str, Any]:
        """The header and how it was read."""
        known = {name: getattr(self, name) for name in ("delimiter", "names", "column")}
        return {**known, "before": self.top.before.decode("latin-1"), "header": self.top.body.decode()}

    def read_header(self) -> None:
        """Find delimiter and columns. Raises ``DataError``."""
        source, kind, wanted = self.source, self.kind, self.wanted.columns
        delimiter = "\t" if kind == "tsv" else ","
        self.top = next(lines_of(source, Dialect(delimiter, QUOTE)), Line(b"", b""))
        if not self.top.bare:
            raise DataError(f"{source.name}: holds no rows")
        header = decoded(self.top.bare, f"{source.name}: the header")
        try:
            found = {one: next(csv.reader(io.StringIO(header), delimiter=one)) for one in (delimiter, *DELIMITERS)}
        except csv.Error as error:
            raise DataError(f"{source.name}: the header cannot be read ({error}); mend it") from None
        fitting = (one for one, names in found.items() if set(wanted) & set(names))
        self.delimiter = next(fitting, delimiter)
        self.names = found[self.delimiter]
        self.column = chosen_column(source, self.names, wanted)

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time."""
        row, place = self.source.first_row, self.names.index(self.column)
        lines = lines_of(self.source, Dialect(self.delimiter, QUOTE))
        for some in together(itertools.islice(lines, 1 if self.source.stop is None else 0, None)):
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
        ragged: list[Any] = []
        names = [str(place) for place in range(len(self.names))]
        chosen: dict[str, Any] = {"include_columns": [names[place] for place in places]}
        chosen["column_types"] = dict.fromkeys(names, pa.large_binary())
        try:
            options = pa.csv.ParseOptions(
                delimiter=self.delimiter, quote_char=QUOTE, newlines_in_values=True, ignore_empty_lines=False
            )
            conversion = pa.csv.ConvertOptions(**chosen, strings_can_be_null=False)
            table = read_records(data, names, options, conversion, ragged.append)
        except pa.ArrowInvalid as error:
            raise DataError(f"{self.source.name}: near row {row}: {' '.join(str(error).split())}") from None
        if ragged:
            wrong = ragged[0]
            what = f"{wrong.actual_columns} fields, the header has {wrong.expected_columns}; mend the row"
            raise DataError(f"{self.source.name}: row {row + wrong.number - 1}: {what}")
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
        """The header with more names."""
        return self.top.before + self.with_cells(self.top, names)

    def extended(self, line: Line, cells: dict[str, Any]) -> bytes:
        """A record with more cells behind it."""
        plain = [str(value).lower() if isinstance(value, bool) else str(value) for value in cells.values()]
        return line.before + self.with_cells(line, plain)

    def with_cells(self, line: Line, cells: list[str]) -> bytes:
        """A record, the cells, its line end."""
        end = line.end or self.top.end
        return b"".join(
            [line.bare, *(f"{self.delimiter}{quoted(cell, self.delimiter)}".encode() for cell in cells), end]
        )


def quoted(cell: str, delimiter: str) -> str:
    """A cell as CSV holds it."""
    if any(character in cell for character in (delimiter, QUOTE, "\n", "\r")):
        return QUOTE + cell.replace(QUOTE, QUOTE + QUOTE) + QUOTE
    return cell
