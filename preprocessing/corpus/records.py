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
        if not last and b"\n" not in piece and len(data) <= MAX_RECORD_BYTES:
            rest = data  # no record ends here, and a long one is not looked at again with every piece
            continue
        ends, filled = record_ends(data, dialect, last=last)
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
            rows += int(counted[upto + 1] - counted[at])
            stop = offset + int(ends[upto])
            yield Cut(start, stop, first_row, rows)
            start, first_row, rows, at = stop, first_row + rows, 0, upto + 1
        rows += int(counted[-1] - counted[at])
        rest, offset = data[used:], offset + used
    if rows:
        yield Cut(start, offset, first_row, rows)


def unfinished(record: bytes, dialect: Dialect, *, last: bool) -> str:
    """What is wrong with a record that has no end, at the end of the file or within ``MAX_RECORD_BYTES``."""
    if last:
        return "a quote opens and never closes; set source.quote to '' if quotes are text"
    what = f"is longer than {MAX_RECORD_BYTES >> 20} MiB; split its text"
    if not dialect.quote or dialect.quote.encode() not in record:
        return what
    return f"{what}, or, if it holds a quote that never closes, mend that or set source.quote to ''"


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


def field_ends(data: bytes, dialect: Dialect) -> Iterator[tuple[int, bool]]:
    """Where each field ends, just past the delimiter or newline behind it, and whether that is a newline.

    A quote in mid-field is text. What follows the last delimiter or newline is no field.
    """
    quote, delimiter = re.escape(dialect.quote.encode()), re.escape(dialect.delimiter.encode())
    escape = re.escape(dialect.escape.encode()) if dialect.escape else b""
    inside, outside = b"[^" + quote + escape + b"]*", b"[^" + delimiter + b"\n" + escape + b"]*"
    quoted = quote + inside + quote + b"(?!" + quote + b")" + outside
    plain = b"(?!" + quote + b")" + outside
    usual = re.compile(b"(?:" + quoted + b"|" + plain + b")(" + delimiter + b"|\n)").match
    long = LongField(dialect, re.compile(inside), re.compile(outside))
    position = 0
    while True:
        if found := usual(data, position):
            position = found.end()
        elif (end := long.end(data, position)) >= 0:
            position = end
        else:
            return
        yield position, data[position - 1] == NEWLINE


class LongField:
    """A field that holds doubled quotes or escapes, step by step: an expression would remember each of millions."""

    def __init__(self, dialect: Dialect, inside: re.Pattern[bytes], outside: re.Pattern[bytes]) -> None:
        """``inside`` and ``outside`` match what holds neither quote nor escape, and neither delimiter nor escape."""
        self.quote = dialect.quote.encode()
        self.escape = dialect.escape.encode() if dialect.escape else None
        self.inside, self.outside = inside, outside
        self.quotes = re.compile(re.escape(self.quote) + b"+")

    def end(self, data: bytes, position: int) -> int:
        """Just past the delimiter or newline behind the field that begins here; -1 where there is none."""
        if data[position : position + 1] == self.quote:
            position = self.past_quotes(data, position + 1)
        while position >= 0:
            position = self._run(self.outside, data, position)
            sign = data[position : position + 1]
            if sign != self.escape:
                return position + 1 if sign else -1
            position = position + 2 if position + 2 <= len(data) else -1
        return -1

    def past_quotes(self, data: bytes, position: int) -> int:
        """Just past the quote that closes, -1 where none does."""
        while True:
            position = self._run(self.inside, data, position)
            sign = data[position : position + 1]
            if not sign:
                return -1
            if sign == self.escape:
                position += 2
                if position > len(data):
                    return -1
            else:
                run = self._run(self.quotes, data, position) - position
                position += run
                if run % 2:  # pairs are text, the one that is left over closes
                    return position

    @staticmethod
    def _run(expression: re.Pattern[bytes], data: bytes, position: int) -> int:
        found = expression.match(data, position)
        return found.end() if found else position


def ends_by_grammar(data: bytes, dialect: Dialect) -> np.ndarray:
    """Record ends, one field at a time."""
    return np.array([end for end, is_last in field_ends(data, dialect) if is_last], np.int64)


def closed(record: bytes, dialect: Dialect) -> bool:
    """Whether the last record, which has no newline, is whole."""
    if not dialect.quote or (dialect.escape is None and dialect.quote.encode() not in record):
        return True
    return len(ends_by_grammar(record + b"\n", dialect)) > 0
