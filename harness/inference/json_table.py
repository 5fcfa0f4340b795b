# SPDX-License-Identifier: Apache-2.0
"""JSON lines, and texts a line: rows keep their bytes, and members are put before the closing brace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from harness.inference.pieces import (
    BYTE_ORDER_MARK,
    Line,
    Piece,
    Source,
    Wanted,
    chosen_column,
    decoded,
    lines_of,
    own_words,
    together,
)
from preprocessing.corpus.records import Dialect, check_width
from preprocessing.corpus.tables import json_record, scalar
from preprocessing.text.words import encode

INT64 = 1 << 63


class JsonTable:
    """One JSON object a line. Keys may differ from line to line."""

    kind = "jsonl"

    def __init__(self, source: Source, wanted: Wanted, facts: dict[str, Any] | None = None) -> None:
        """``wanted`` are keys that may hold the text; the first that one of the first lines has is the one."""
        self.source, self.wanted = source, wanted
        known = facts or {"kinds": {}, "column": None}
        self.kinds: dict[str, set[str]] = {name: set(kinds) for name, kinds in known["kinds"].items()}
        """What values each key has: text, int, float, bool, other; whole when all rows were read once."""
        self.names = list(self.kinds)
        self.column: str | None = known["column"]

    def facts(self) -> dict[str, Any]:
        """The keys and what they hold."""
        return {"kinds": {name: sorted(kinds) for name, kinds in self.kinds.items()}, "column": self.column}

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time."""
        row = self.source.first_row
        with own_words():
            for some in together(lines_of(self.source, Dialect())):
                records, texts = self.records(some, row), []
                for record in records:
                    for name, value in record.items():
                        self.kinds.setdefault(name, set()).add(kind_of(value))
                check_width(self.source.name, len(self.kinds))
                self.names = list(self.kinds)
                if records:
                    self.column = self.column or chosen_column(self.source, self.names, self.wanted.columns)
                for number, record in enumerate(records, row):
                    column = str(self.column)
                    text = scalar(record.get(column), f"{self.source.name}: row {number}: {column!r}", is_text=True)
                    self.wanted.check(self.source, number, column, text)
                    texts.append(text or "")
                yield Piece(texts, some)
                row += len(texts)

    def records(self, lines: list[Line], row: int) -> list[dict[str, Any]]:
        """The object in each line; ``row`` is the number of the first."""
        filled = (line.bare for line in lines if line.body)
        return [json_record(line, f"{self.source.name}: row {number}") for number, line in enumerate(filled, row)]

    def values(self, piece: Piece) -> pa.Table:
        """Every key as a column: texts, whole numbers, numbers or booleans where all values are such, else JSON."""
        records = self.records(piece.lines, 1)
        columns = []
        for name in self.names:
            kinds, cells = self.kinds[name] - {"null"}, [record.get(name) for record in records]
            typed = {frozenset({"text"}): pa.string(), frozenset({"int"}): pa.int64(), frozenset({"bool"}): pa.bool_()}
            found = typed.get(frozenset(kinds), pa.float64() if kinds and kinds <= {"int", "float"} else None)
            if found is None:
                found = pa.string()
                cells = [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
            if pa.types.is_string(found):
                cells = [cell if cell is None else encode(cell).decode() for cell in cells]
            columns.append(pa.array(cells, found))
        return pa.Table.from_arrays(columns, names=self.names)

    def header(self, names: list[str]) -> bytes:
        """Nothing stands above the first row."""
        return b""

    def extended(self, line: Line, cells: dict[str, Any]) -> bytes:
        """An object with more members."""
        bare = line.bare.rstrip()
        there = bare[:-1]
        more = json.dumps(cells, ensure_ascii=False)[1:].encode()
        comma = b"" if there.rstrip().endswith(b"{") else b", "
        return line.before + there + comma + more + line.bare[len(bare) :] + (line.end or b"\n")


def kind_of(value: Any) -> str:
    """What a value of JSON is, for the type of its column."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -INT64 <= value < INT64 else "other"
    return {str: "text", float: "float"}.get(type(value), "other")


class TextTable:
    """One text a line."""

    kind = "txt"

    def __init__(self, source: Source, column: str) -> None:
        """``column`` is what the texts are called in what is written."""
        self.source, self.names = source, [column]

    def facts(self) -> dict[str, Any]:
        """What the texts are called."""
        return {"column": self.names[0]}

    def pieces(self) -> Iterator[Piece]:
        """All lines, some at a time; a blank one is an empty text."""
        row = self.source.first_row
        for some in together(every_line(self.source)):
            texts = [decoded(line.bare, f"{self.source.name}: line {number}") for number, line in enumerate(some, row)]
            yield Piece(texts, some)
            row += len(some)

    def values(self, piece: Piece) -> pa.Table:
        """The texts as a column."""
        return pa.Table.from_arrays([pa.array(piece.texts, pa.string())], names=self.names)


def every_line(source: Source) -> Iterator[Line]:
    """Every line of a text file, blank ones too."""
    for line in lines_of(source, Dialect()):
        blank = line.before.removeprefix(BYTE_ORDER_MARK)
        mark = line.before[: len(line.before) - len(blank)]
        for body in (*blank.splitlines(keepends=True), *([line.body] if line.body else ())):
            yield Line(mark, body)
            mark = b""
