# SPDX-License-Identifier: Apache-2.0
"""What every kind of table is read as: some rows at a time, their texts beside the bytes they were written in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import listed
from preprocessing.corpus import addresses
from preprocessing.corpus.forms import uncompressed
from preprocessing.corpus.records import MAX_RECORD_BYTES, Dialect, marked, record_ends, unfinished
from preprocessing.labels import AUTO

CHUNK_ROWS = 2048
CHUNK_BYTES = 4 << 20
"""Rows, and bytes of them, that are held together; a longer row is held alone."""
JSON_LINES = Dialect()
KEYS = re.compile(r"\bsource\.(encoding|delimiter|quote|escape)\b")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Source:
    """Where a table comes from."""

    name: str
    """What sentences call it, and what is opened unless ``data`` says otherwise."""
    data: str | None = None
    """What is opened: UTF-8 with newlines, not compressed."""
    start: int = 0
    """First byte that is read; of Parquet the first row, counted from that of ``group``."""
    stop: int | None = None
    """Just past the last one; None: to the end."""
    first_row: int = 1
    """The number of the first row."""
    group: int | None = None
    """Of Parquet: the first row group; None: all of them."""
    groups: int = 1
    """Of Parquet: how many row groups, from ``group`` on."""
    dialect: Dialect = JSON_LINES
    """Of CSV: how fields are told apart."""
    columns: list[str] = field(default_factory=list)
    """Of CSV without a header: what its columns are called."""
    encoding: str = AUTO
    """Of a folder: how its text files are written."""

    @property
    def suffix(self) -> str:
        """The ending of the name, without one that says that the file is compressed."""
        return Path(uncompressed(self.name)).suffix

    @property
    def place(self) -> str:
        """What is opened."""
        return self.name if self.data is None else self.data

    def stream(self) -> Iterator[bytes]:
        """The bytes in bounded pieces. Raises ``DataError``."""
        if self.stop is None:
            yield from addresses.stream(self.place)
            return
        for start in range(self.start, self.stop, addresses.READ_BYTES):
            yield addresses.read_range(self.place, start, min(start + addresses.READ_BYTES, self.stop))


@dataclass(frozen=True)
class Line:
    """One record of a text format."""

    before: bytes
    """Blank lines before it, and the byte order mark before the first."""
    body: bytes
    """The record with the line end behind it; empty for blank lines at the end of the file."""

    @property
    def bare(self) -> bytes:
        """The record without its line end."""
        return self.body.removesuffix(b"\n").removesuffix(b"\r")

    @property
    def end(self) -> bytes:
        """The line end; empty where the file ends without one."""
        return self.body[len(self.bare) :]

    @property
    def bytes(self) -> int:
        """How many it was read from."""
        return len(self.before) + len(self.body)


@dataclass(frozen=True)
class Piece:
    """Some rows of a table."""

    texts: list[str]
    """An empty one where there is none, if the table takes such rows."""
    lines: list[Line]
    """CSV and JSON lines: the rows as they were written, perhaps with blank lines behind them."""
    batch: pa.RecordBatch | None = None
    """Parquet: the rows."""


class Table(Protocol):
    """A table, or a part of one, that is read from its start, any number of times."""

    source: Source

    kind: str
    """``csv``, ``tsv``, ``jsonl``, ``parquet`` or ``txt``."""
    names: list[str]
    """Its columns; of JSON lines all keys, known after ``scan``."""

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time. Raises ``DataError`` for the first that cannot be predicted."""

    def facts(self) -> dict[str, Any]:
        """What ``tables.from_facts`` makes the table of again, as a JSON value."""

    def values(self, piece: Piece) -> pa.Table:
        """The columns of some rows as values, for a file of another kind."""


class LineTable(Table, Protocol):
    """A table whose rows are lines, to which columns can be added without a change to what is there."""

    def header(self, names: list[str]) -> bytes:
        """The lines above the first row, with more columns."""

    def extended(self, line: Line, cells: dict[str, Any]) -> bytes:
        """A row with more cells: the bytes that were there stay as they are."""


@contextmanager
def own_words() -> Iterator[None]:
    """Sentences about reading name keys of preprocessing; in the block they are called as predict calls them."""
    try:
        yield
    except (DataError, ConfigError) as error:
        text = str(error).replace("source.path", "--input").replace("source.text_column", "--column")
        raise type(error)(KEYS.sub(r"--\1", text)) from None


def lines_of(source: Source, dialect: Dialect) -> Iterator[Line]:
    """Every record of a text format; lines end at \\n or \\r\\n. Raises ``DataError`` for one without an end."""
    rest, before, row = b"", bytearray(), 0
    for number, (piece, last) in enumerate(marked(source.stream())):
        data = rest + piece
        if number == 0 and data.startswith(BYTE_ORDER_MARK):
            before, data = bytearray(BYTE_ORDER_MARK), data[len(BYTE_ORDER_MARK) :]
        if not last and b"\n" not in piece and len(data) <= MAX_RECORD_BYTES:
            rest = data  # no record ends here
            continue
        ends, filled = record_ends(data, dialect, last=last)
        start = 0
        for end, full in zip(ends.tolist(), filled.tolist(), strict=True):
            if full:
                yield Line(bytes(before), data[start:end])
                before, row = bytearray(), row + 1
            else:
                before += data[start:end]
            start = end
        if len(data) - start > (0 if last else MAX_RECORD_BYTES):
            raise DataError(f"{source.name}: row {row}: {unfinished(data[start:], dialect, last=last)}")
        rest = data[start:]
    if before:
        yield Line(bytes(before), b"")


def together(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Lines, a bounded number of rows at a time."""
    held: list[Line] = []
    size = 0
    for line in lines:
        held.append(line)
        size += line.bytes
        if len(held) == CHUNK_ROWS or size >= CHUNK_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def decoded(value: bytes, where: str) -> str:
    """UTF-8 as a text. Raises ``DataError`` that begins with ``where``."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} (0x{value[error.start]:02x}) is not UTF-8"
        raise DataError(f"{where}: {byte}; convert the file, for example with iconv -f latin1 -t utf-8") from None


@dataclass(frozen=True)
class Wanted:
    """Where the texts of a table stand, and what becomes of rows without one."""

    columns: list[str]
    """The first of them that is there is the one."""
    missing: bool = False
    """Whether a row without a text is predicted as an empty text; else it is refused."""

    def check(self, source: Source, row: int, column: str, text: str | bytes | None) -> None:
        """Raise ``DataError`` for a text that is not there, unless such rows are predicted too."""
        if not text and not self.missing:
            what = "holds no text; fill or remove the row, or set --missing keep"
            raise DataError(f"{source.name}: row {row}: column {column!r} {what}")


def chosen_column(source: Source, names: list[str], wanted: list[str]) -> str:
    """The first of the wanted columns that is there, once. Raises ``DataError``."""
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{source.name}: has more than one column {name!r}; rename one")
        if name in names:
            return name
    raise DataError(f"{source.name}: no column {wanted[0]!r}; it has {listed(names)}; use --column")
