# SPDX-License-Identifier: Apache-2.0
"""Where records begin in a stream of CSV or JSON lines, so that a file can be cut into parts and rows can be counted.

A newline inside quotes ends no record. On ordinary files that is a matter of parity: a newline after an even number of
quotes ends one. Parity is right exactly when every opening quote stands at the start of a field and every closing one
at the end of a field; a block where that does not hold goes through the same grammar field by field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.base.errors import DataError

NEWLINE, RETURN = 10, 13
MAX_RECORD_BYTES = 256 << 20


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart; JSON lines are the dialect without quotes."""

    delimiter: str = ","
    quote: str = ""
    escape: str | None = None


@dataclass(frozen=True)
class Cut:
    """A run of whole records."""

    start: int
    """Offset of the first byte."""
    stop: int
    """Offset just past the last one."""
    first_row: int
    """Number of the first record, counted from 1."""
    rows: int


def cuts(
    pieces: Iterable[bytes], dialect: Dialect, part_bytes: int, name: str, *, header: bool = False, mark: int = 0
) -> Iterator[Cut]:
    """Cut a stream into runs of whole records of about ``part_bytes``, and count them.

    ``header`` takes the first record for the header: it belongs to no run. Blank lines are no records. The first
    ``mark`` bytes, a byte order mark, are passed over. Raises ``DataError`` for a quote that never closes, and
    for a record longer than ``MAX_RECORD_BYTES``.
    """
    start, rows, first_row, offset, rest = mark, 0, 1, mark, b""
    for whole, last in marked(pieces):
        piece, mark = whole[mark:], max(mark - len(whole), 0)
        data = rest + piece if rest else piece
        ends, filled = record_ends(data, dialect, last=last)
        used = int(ends[-1]) if len(ends) else 0
        counted = np.concatenate([[0], np.cumsum(filled)])
        if len(data) - used > (0 if last else MAX_RECORD_BYTES):
            row = first_row + rows + int(counted[-1]) - header
            what = "a quote opens and never closes; set source.quote to '' if quotes are text"
            if not last:
                what = (
                    f"is longer than {MAX_RECORD_BYTES >> 20} MiB; split its text, or, if it holds a quote that never "
                    "closes, mend that or set source.quote to ''"
                )
            raise DataError(f"{name}: row {row}: {what}")
        at = 0
        if header and filled.any():
            at, header = int(np.flatnonzero(filled)[0]) + 1, False
            start = offset + int(ends[at - 1])
        while (upto := max(at, int(np.searchsorted(ends, start + part_bytes - offset)))) < len(ends):
            rows += int(counted[upto + 1] - counted[at])
            stop = offset + int(ends[upto])
            yield Cut(start, stop, first_row, rows)
            start, first_row, rows, at = stop, first_row + rows, 0, upto + 1
        rows += int(counted[-1] - counted[at])
        rest, offset = data[used:], offset + used
    if rows:
        yield Cut(start, offset, first_row, rows)


def marked(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
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


def field_expression(dialect: Dialect) -> re.Pattern[bytes]:
    """One field and the delimiter or newline after it; a quote in mid-field is text."""
    quote, delimiter = re.escape(dialect.quote.encode()), re.escape(dialect.delimiter.encode())
    escape = re.escape(dialect.escape.encode()) if dialect.escape else b""
    anything = escape + b"." if escape else b"(?!)"
    inner = b"(?:[^" + quote + escape + b"]|" + anything + b")*"
    tail = b"(?:[^" + delimiter + b"\n" + escape + b"]|" + anything + b")*"
    quoted = quote + inner + b"(?:" + quote + quote + inner + b")*" + quote + b"(?!" + quote + b")" + tail
    plain = b"(?!" + quote + b")" + tail
    return re.compile(b"(?:" + quoted + b"|" + plain + b")(" + delimiter + b"|\n)", re.DOTALL)


def ends_by_grammar(data: bytes, dialect: Dialect) -> np.ndarray:
    """Record ends, one field at a time."""
    match, ends, position = field_expression(dialect).match, [], 0
    while found := match(data, position):
        position = found.end()
        if found[1] == b"\n":
            ends.append(position)
    return np.array(ends, np.int64)


def closed(record: bytes, dialect: Dialect) -> bool:
    """Whether the last record, which has no newline, is whole."""
    if not dialect.quote:
        return True
    return len(ends_by_grammar(record + b"\n", dialect)) > 0
