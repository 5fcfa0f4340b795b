# SPDX-License-Identifier: Apache-2.0
"""Records of CSV and JSON lines: where they begin in a stream, so that a file can be cut and counted, and their fields.

A newline inside quotes ends no record. On ordinary files that is a matter of parity: a newline after an even number of
quotes ends one. Parity is right exactly when every opening quote stands at the start of a field and every closing one
at the end of a field; a block where that does not hold goes through the same grammar field by field. Fields are taken
apart by Arrow, which ends a line at a carriage return alone too; here that is text. Such returns are hidden from Arrow
behind a byte that the data does not hold, and put back into the columns.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses

NEWLINE, RETURN = 10, 13
MAX_RECORD_BYTES = 256 << 20
MAX_HEADER_BYTES = 4 << 20
MAX_COLUMNS = 1 << 14
"""More of them are no table of texts, and Arrow needs gigabytes to name them."""
RETURNS = re.compile(rb"(\r+)(\n?)")
STAND_INS = bytes([*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F])
"""Control characters, one of which hides a carriage return."""


@dataclass(frozen=True)
class Dialect:
    """How fields are separated; JSON lines are the dialect without quotes."""

    delimiter: str = ","
    quote: str = ""
    escape: str | None = None


@dataclass(frozen=True)
class Cut:
    """A run of whole records: bytes of CSV and JSON lines, rows of Parquet, texts of a folder."""

    start: int
    stop: int
    """Just past the last one."""
    first_row: int
    """Number of the first record, counted from 1."""
    rows: int


def cuts(
    pieces: Iterable[bytes],
    dialect: Dialect,
    part_bytes: int,
    name: str,
    *,
    header: bool = False,
    blank: bool = False,
    mark: int = 0,
) -> Iterator[Cut]:
    """Cut a stream into runs of whole records of about ``part_bytes``, and count them.

    ``header`` takes the first record for the header: it belongs to no run. Blank lines are no records unless ``blank``.
    The first ``mark`` bytes, a byte order mark, are passed over. Raises ``DataError`` for a quote that never closes,
    and for a record longer than ``MAX_RECORD_BYTES``.
    """
    start, rows, first_row, offset, rest = mark, 0, 1, mark, b""
    held: Cut | None = None
    for whole, last in with_last(pieces):
        piece, mark = whole[mark:], max(mark - len(whole), 0)
        data = rest + piece if rest else piece
        if not last and b"\n" not in piece and len(data) <= MAX_RECORD_BYTES:
            rest = data  # no record ends here, and a long one is not looked at again with every piece
            continue
        ends, filled = record_ends(data, dialect, last=last)
        filled = filled | blank
        used = int(ends[-1]) if len(ends) else 0
        counted = np.concatenate([[0], np.cumsum(filled)])
        if len(data) - used > (0 if last else MAX_RECORD_BYTES):
            row = first_row + rows + int(counted[-1]) - header
            raise DataError(f"{name}: row {row}: {unfinished(data[used:], dialect, last=last)}")
        at = 0
        if header and filled.any():
            at, header = int(np.flatnonzero(filled)[0]) + 1, False
            start = offset + int(ends[at - 1])
        while (upto := max(at, int(np.searchsorted(ends, start + part_bytes - offset)))) < len(ends):
            rows, at = rows + int(counted[upto + 1] - counted[at]), upto + 1
            if not rows:  # blank lines before the first row
                continue
            stop = offset + int(ends[upto])
            if held:
                yield held
            held = Cut(start, stop, first_row, rows)
            start, first_row, rows = stop, first_row + rows, 0
        rows += int(counted[-1] - counted[at])
        rest, offset = data[used:], offset + used
    if held and not rows:  # blank lines behind the last row
        held = Cut(held.start, offset, held.first_row, held.rows)
    if held:
        yield held
    if rows:
        yield Cut(start, offset, first_row, rows)


def unfinished(record: bytes, dialect: Dialect, *, last: bool) -> str:
    """What is wrong with a record that has no end, at the end of the file or within ``MAX_RECORD_BYTES``."""
    if last:
        return "a quote opens and never closes; set source.quote to '' if quotes are text"
    what = f"is longer than {MAX_RECORD_BYTES >> 20} MiB; split its text"
    if not dialect.quote or dialect.quote.encode() not in record:
        return what
    return f"{what}, or, if it holds a quote that is never closed, close it or set source.quote to ''"


def with_last(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last."""
    held: bytes | None = None
    for piece in pieces:
        if held is not None:
            yield held, False
        held = piece
    if held is not None:
        yield held, True


def record_ends(data: bytes, dialect: Dialect, *, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Offsets just past every record of ``data``, and whether each record holds anything.

    ``data`` starts at a record. With ``last``, an end without a newline is an end, unless a quote is open.
    """
    array = np.frombuffer(data, np.uint8)
    ends = ends_by_parity(array, dialect)
    if ends is None:
        ends = ends_by_grammar(data, dialect)
    done = int(ends[-1]) if len(ends) else 0
    if last and done < len(data) and closed(data[done:], dialect):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    size = ends - starts
    first = array[starts] if len(ends) else array[:0]
    blank = ((size == 1) & ((first == NEWLINE) | (first == RETURN))) | ((size == 2) & (first == RETURN))
    return ends.astype(np.int64), ~blank


def ends_by_parity(array: np.ndarray, dialect: Dialect) -> np.ndarray | None:
    """Record ends where quotes stand only at the ends of fields; None where they do not."""
    newlines = np.flatnonzero(array == NEWLINE)
    if dialect.escape:
        newlines = newlines[~escaped(array, newlines, ord(dialect.escape))]
    if not dialect.quote:
        return newlines + 1
    quote = ord(dialect.quote)
    quotes = np.flatnonzero(array == quote)
    if dialect.escape:
        quotes = quotes[~escaped(array, quotes, ord(dialect.escape))]
    if not len(quotes):
        return newlines + 1
    before = np.zeros(256, bool)
    before[[ord(dialect.delimiter), NEWLINE, quote]] = True
    after = before.copy()
    after[RETURN] = True
    opening, closing = quotes[0::2], quotes[1::2]
    opening, closing = opening[opening > 0], closing[closing + 1 < len(array)]
    if not (before[array[opening - 1]].all() and after[array[closing + 1]].all()):
        return None
    inside = np.searchsorted(quotes, newlines) & 1
    return newlines[inside == 0] + 1


def escaped(array: np.ndarray, positions: np.ndarray, escape: int) -> np.ndarray:
    """Whether an odd number of escape characters stands before each position."""
    plain = np.flatnonzero(array != escape)
    before = np.searchsorted(plain, positions) - 1
    run = positions - 1 - np.where(before >= 0, plain[before], -1)
    return (run & 1).astype(bool)


def field_ends(data: bytes, dialect: Dialect) -> Iterator[tuple[int, bool]]:
    """Where each field ends, just past the delimiter or newline behind it, and whether that is a newline.

    A quote in mid-field is text. What follows the last delimiter or newline is no field.
    """
    quote, delimiter = re.escape(dialect.quote.encode()), re.escape(dialect.delimiter.encode())
    escape = re.escape(dialect.escape.encode()) if dialect.escape else b""
    outside = b"[^" + delimiter + b"\n" + escape + b"]*"
    inside = b"[^" + (quote or b"\n") + escape + b"]*"
    quoted = b"(?:" + quote + inside + quote + b"(?!" + quote + b")|(?!" + quote + b"))"
    field = quoted + outside if quote else outside
    usual = re.compile(field + b"(" + delimiter + b"|\n)").match
    steps = re.compile(inside), re.compile(outside), re.compile(b"(?:" + (quote or b"\n") + b")+")
    position = 0
    while True:
        if found := usual(data, position):
            position = found.end()
        elif (position := end_of_long_field(data, position, dialect, *steps)) < 0:
            return
        yield position, data[position - 1] == NEWLINE


def end_of_long_field(
    data: bytes,
    position: int,
    dialect: Dialect,
    inside: re.Pattern[bytes],
    outside: re.Pattern[bytes],
    quotes: re.Pattern[bytes],
) -> int:
    """Just past the delimiter or newline behind a field with doubled quotes or escapes; -1 where there is none.

    It goes step by step, from one run of ``inside`` (neither quote nor escape), ``outside`` (neither delimiter nor
    escape) or ``quotes`` to the next: one expression for all of it would remember each of millions of steps.
    """
    quote, escape = dialect.quote.encode(), (dialect.escape or "").encode()
    is_quoted = bool(quote) and data.startswith(quote, position)
    position += is_quoted
    while True:
        run = (inside if is_quoted else outside).match(data, position)
        position = run.end() if run else position
        if position >= len(data):
            return -1
        if escape and data.startswith(escape, position):
            position += 2
        elif not is_quoted:
            return position + 1
        else:  # pairs of quotes are text; of a run of them the last one closes if it is left over
            run = quotes.match(data, position)
            stop = run.end() if run else position
            is_quoted, position = (stop - position) % 2 == 0, stop


def ends_by_grammar(data: bytes, dialect: Dialect) -> np.ndarray:
    """Record ends, one field at a time."""
    return np.array([end for end, is_last in field_ends(data, dialect) if is_last], np.int64)


def closed(record: bytes, dialect: Dialect) -> bool:
    """Whether the last record, which has no newline, is whole."""
    if not dialect.quote or (dialect.escape is None and dialect.quote.encode() not in record):
        return True
    return len(ends_by_grammar(record + b"\n", dialect)) > 0


def check_width(name: str, columns: int) -> None:
    """Raise ``DataError`` for a table of more than ``MAX_COLUMNS`` columns."""
    if columns > MAX_COLUMNS:
        raise DataError(f"{name}: has more than {MAX_COLUMNS:,} columns; leave out those that are not needed")


def options_of(dialect: Dialect) -> pa.csv.ParseOptions:
    """Arrow's name for a dialect."""
    return pa.csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        escape_char=dialect.escape or False,
        newlines_in_values=bool(dialect.quote or dialect.escape),
    )


def parse(
    data: bytes, columns: Sequence[str], wanted: Sequence[str], dialect: Dialect
) -> tuple[pa.Table, list[pa.csv.InvalidRow]]:
    """The wanted columns as large_binary, of records without a header; and those with another number of fields.

    Raises ``pyarrow.ArrowInvalid`` for what is no CSV, and for such a record where bytes are not UTF-8: Arrow decodes
    one before it tells of it.
    """
    data, hidden = without_lone_returns(data)
    ragged: list[pa.csv.InvalidRow] = []

    def remember(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "skip"

    options = options_of(dialect)
    if is_utf8(data):
        options.invalid_row_handler = remember
    conversion = pa.csv.ConvertOptions(
        include_columns=list(wanted),
        column_types={name: pa.large_binary() for name in wanted},
        strings_can_be_null=False,
    )
    reading = pa.csv.ReadOptions(column_names=list(columns), use_threads=False, block_size=len(data) + 1)
    table = pa.csv.read_csv(pa.BufferReader(data), reading, options, conversion)
    if hidden is not None:
        table = pa.table({name: pc.replace_substring(table[name], hidden, b"\r") for name in wanted})
    return table, ragged


def is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def without_lone_returns(data: bytes) -> tuple[bytes, bytes | None]:
    """The data with each carriage return that ends no line replaced, and by which byte; the last byte ends a line."""
    if data.count(b"\r") == data.count(b"\r\n"):
        return data, None
    end = len(data) - 1 if data.endswith(b"\r") else len(data)
    free = next((bytes([code]) for code in STAND_INS if code not in data), None)
    if free is None or all(found[2] for found in RETURNS.finditer(data, 0, end)):
        return data, None
    return RETURNS.sub(lambda found: found[0] if found[2] else free * len(found[1]), data[:end]) + data[end:], free


def read_header(first: bytes, name: str, dialect: Dialect) -> tuple[str, ...]:
    """The column names in the first line of a CSV file. Raises ``DataError`` where there are none."""
    lines = first.lstrip(b"\r\n")
    if not lines:
        raise DataError(f"{name}: the file is empty; it needs a header line and a row for each text")
    ends, _ = record_ends(lines, dialect, last=False)
    if b"\n" not in lines and len(lines) > MAX_HEADER_BYTES:
        raise DataError(f"{name}: row 0: no line ends within the first {len(lines):,} bytes: no table of texts")
    line = lines[: int(ends[0])] if len(ends) else lines
    if line.count(dialect.delimiter.encode()) >= MAX_COLUMNS:
        check_width(name, sum(1 for _ in itertools.islice(field_ends(line, dialect), MAX_COLUMNS)) + 1)
    line, hidden = without_lone_returns(line)
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(line),
            pa.csv.ReadOptions(autogenerate_column_names=True, use_threads=False, block_size=len(line) + 1),
            options_of(dialect),
            pa.csv.ConvertOptions(strings_can_be_null=False, check_utf8=False),
        )
        names = [str(column[0].as_py()) for column in table.columns]
    except (pa.ArrowException, UnicodeDecodeError, IndexError) as error:
        raise DataError(f"{name}: row 0: the header cannot be read ({addresses.sentence(error)})") from None
    return tuple(name.replace(hidden.decode(), "\r") if hidden else name for name in names)
