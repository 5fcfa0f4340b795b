# SPDX-License-Identifier: Apache-2.0
"""Records of CSV and JSON lines: where they begin in a stream, so that a file can be cut and counted, and their fields.

A newline inside quotes ends no record. On ordinary files that is a matter of parity: a newline after an even number of
quotes ends one. Parity is right exactly when every opening quote stands at the start of a field and every closing one
at the end of a field; a block where that does not hold, or with an escape character, is read by Python's csv module.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from preprocessing.base.errors import DataError

BYTE_ORDER_MARK = codecs.BOM_UTF8
NEWLINE, RETURN = 10, 13
MAX_RECORD_BYTES = 256 << 20
MAX_CSV_BYTES = 32 << 20
"""Most that the csv module reads at once: it may need ten times as much memory."""
MAX_COLUMNS = 1 << 14
"""More of them are no table of texts, and Arrow needs gigabytes to name them."""
LONE_RETURNS = re.compile(r"(?<!\r)\r+(?![\r\n]|\Z)")
RETURN_STANDS_IN, NUL_STANDS_IN = "\u0100", "\u0101"
"""What the csv module reads in the place of characters that it refuses; no byte is decoded to them."""
Item = TypeVar("Item")
csv.field_size_limit(1 << 30)


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
    pieces: Iterable[bytes], dialect: Dialect, part_bytes: int, name: str, *, header: bool = False, blank: bool = False
) -> Iterator[Cut]:
    """Cut a stream into runs of whole records of about ``part_bytes``, and count them.

    A byte order mark, and the first record if it is the ``header``, belong to no run. Blank lines are no records unless
    ``blank``; they belong to the run before them. Raises ``DataError`` for a quote that never closes, and for a record
    longer than ``MAX_RECORD_BYTES``.
    """
    start, offset, rest = 0, 0, b""
    row, first_row = 1 - header, 1  # of the next record, and of the first one in this run
    for piece in itertools.chain(pieces, [None]):
        data = rest + (piece or b"")
        if offset == 0 and data.startswith(BYTE_ORDER_MARK):
            data, offset = data[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
        if piece is not None and b"\n" not in piece and len(data) <= MAX_RECORD_BYTES:
            rest = data  # no record ends here, and a long one is not looked at again with every piece
            continue
        begins, used = record_begins(data, dialect, f"{name}: row {row}", last=piece is None, blank=blank)
        if len(data) - used > (0 if piece is None else MAX_RECORD_BYTES):
            unclosed = "a quote opens and never closes; set source.quote to '' if quotes are text"
            long = f"is longer than {MAX_RECORD_BYTES >> 20} MiB; split its text"
            raise DataError(f"{name}: row {row + len(begins)}: {unclosed if piece is None else long}")
        begins = offset + begins
        if row == 0 and len(begins):
            begins, row = begins[1:], 1
        if row == first_row and len(begins):
            start = int(begins[0])
        while (at := int(np.searchsorted(begins, start + part_bytes))) < len(begins):
            yield Cut(start, int(begins[at]), first_row, row + at - first_row)
            start, first_row = int(begins[at]), row + at
        row, rest, offset = row + len(begins), data[used:], offset + used
    if row > first_row:
        yield Cut(start, offset, first_row, row - first_row)


def runs(
    items: Iterable[Item], size_of: Callable[[Item], int], most_bytes: int, most_items: int | None = None
) -> Iterator[list[Item]]:
    """Some items at a time: as many as reach ``most_bytes``, and no more than ``most_items``."""
    held, size = list[Item](), 0
    for item in items:
        held.append(item)
        size += size_of(item)
        if size >= most_bytes or len(held) == most_items:
            yield held
            held, size = [], 0
    if held:
        yield held


def record_begins(
    data: bytes, dialect: Dialect, where: str, *, last: bool, blank: bool = False
) -> tuple[np.ndarray, int]:
    """Where the records of ``data`` begin, blank lines left out unless ``blank``; and where the last whole one ends.

    ``data`` starts at a record, at ``where`` it lies in the file. With ``last``, an end without a newline is an end,
    unless a quote is open.
    """
    array = np.frombuffer(with_newline(data) if last else data, np.uint8)
    newlines = np.flatnonzero(array == NEWLINE)
    is_end = ends_by_parity(array, newlines, dialect)
    if is_end is None:
        lines = [number for number, _ in csv_rows(array.tobytes()[: newlines[-1] + 1], dialect, where)]
        is_end = np.isin(np.arange(1, len(newlines) + 1), lines)
    ends = newlines[is_end] + 1
    begins = np.append(0, ends)[:-1]
    first = array[begins]
    is_blank = (first == NEWLINE) | ((first == RETURN) & (ends - begins == 2))
    return begins if blank else begins[~is_blank], min(int(ends[-1]), len(data)) if len(ends) else 0


def with_newline(data: bytes) -> bytes:
    """Data that ends with a newline, unless there is none."""
    return data if not data or data.endswith(b"\n") else data + b"\n"


def ends_by_parity(array: np.ndarray, newlines: np.ndarray, dialect: Dialect) -> np.ndarray | None:
    """Which newlines end a record, where quotes stand only at the ends of fields; None where they do not."""
    if not len(newlines) or not (dialect.quote or dialect.escape):
        return np.ones(len(newlines), bool)
    if dialect.escape:
        return None
    between = np.zeros(256, bool)
    between[[ord(dialect.delimiter), NEWLINE, ord(dialect.quote)]] = True
    quotes = np.flatnonzero(array == ord(dialect.quote))
    opening, closing = quotes[0::2], quotes[1::2]
    before, after = array[opening[opening > 0] - 1], array[closing[closing + 1 < len(array)] + 1]
    if not (between[before].all() and (between[after] | (after == RETURN)).all()):
        return None
    return np.asarray(np.searchsorted(quotes, newlines) & 1 == 0)


def csv_rows(data: bytes, dialect: Dialect, where: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record that ends in ``data``, and how many lines there are up to its end; none of blank lines.

    ``data`` begins at a record and ends with a newline. ``raw`` gives the bytes of a field. A quote in mid-field is
    text. Raises ``DataError``, which begins with ``where``, for more than ``MAX_CSV_BYTES``.
    """
    if len(data) > MAX_CSV_BYTES:
        what = f"is longer than {MAX_CSV_BYTES >> 20} MiB, and not all of its quotes stand around whole fields"
        raise DataError(f"{where}: {what}; split its text")
    text = data.decode("latin-1").replace("\0", NUL_STANDS_IN)
    text = LONE_RETURNS.sub(lambda run: RETURN_STANDS_IN * len(run[0]), text) if "\r" in text else text
    reader = csv.reader(
        io.StringIO(f"{text}end", newline="\n"),  # what is not ended by then ends in a line too many
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        quotechar=dialect.quote or None,
        escapechar=dialect.escape,
        delimiter=dialect.delimiter,
    )
    lines = text.count("\n")
    for fields in reader:
        if reader.line_num > lines:
            return
        yield reader.line_num, fields


def raw(field: str) -> bytes:
    """The bytes of a field of ``csv_rows``."""
    return field.replace(RETURN_STANDS_IN, "\r").replace(NUL_STANDS_IN, "\0").encode("latin-1")


def check_width(name: str, columns: int) -> None:
    """Raise ``DataError`` for a table of more than ``MAX_COLUMNS`` columns."""
    if columns > MAX_COLUMNS:
        raise DataError(f"{name}: has more than {MAX_COLUMNS:,} columns; leave out those that are not needed")


def read_header(first: bytes, name: str, dialect: Dialect) -> tuple[str, ...]:
    """The column names in the first line of a CSV file. Raises ``DataError`` where there are none."""
    lines = first.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")
    if not lines:
        raise DataError(f"{name}: the file is empty; it needs a header line and a row for each text")
    _, fields = next(csv_rows(with_newline(lines), dialect, f"{name}: row 0"), (0, []))
    check_width(name, len(fields))
    try:
        names = tuple(raw(field).decode() for field in fields)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: row 0: the header cannot be read ({error})") from None
    if not names:
        raise DataError(f"{name}: row 0: the header cannot be read: a quote opens and never closes")
    return names
