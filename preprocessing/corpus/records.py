# SPDX-License-Identifier: Apache-2.0
"""Finds the records of CSV and JSON in a stream, to cut and count them, and parses CSV fields.

A newline inside quotes does not end a record. In ordinary files, a newline ends a record exactly if an even number of
quotes comes before it. This holds if every opening quote is at the start of a field and every closing one at the end;
other blocks, and files with an escape character, are read by Python's csv module.

An array of JSON is read value by value, and becomes JSON lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import one_line

BYTE_ORDER_MARK = codecs.BOM_UTF8
NEWLINE, RETURN = 10, 13
MAX_RECORD_BYTES = 256 << 20
MAX_CSV_BYTES = 32 << 20
"""Most bytes for the csv module at once: it may need ten times as much memory."""
MAX_HEADER_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 20
"""Size of the sample at the beginning of a file."""
MAX_COLUMNS = 1 << 14
"""With more, Arrow needs gigabytes for their names."""
LONE_RETURNS = re.compile(r"(?<!\r)\r+(?![\r\n]|\Z)")
RETURN_STANDS_IN, NUL_STANDS_IN = "\u0100", "\u0101"
"""Replace characters that the csv module refuses; Latin-1 decodes no byte to them."""
LIST = re.compile(r'(\{(\s*"[^"\\]*"\s*:\s*("[^"\\]*"|[-+.\w]+)\s*,)*\s*"[^"\\]*"\s*:\s*)?\[(?=\s*(\{|\Z))')
"""The beginning of a list of objects, which may be the one list of an object, after plain values."""
JSON = json.JSONDecoder(parse_constant=lambda _: None)
SPACE = re.compile(r"[ \t\r\n]*")
Item = TypeVar("Item")
csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Dialect:
    """How fields are separated; JSON lines have no quotes."""

    delimiter: str = ","
    quote: str = ""
    escape: str | None = None


@dataclass(frozen=True)
class Cut:
    """A run of whole records: bytes of CSV and JSON lines, rows of Parquet, texts of a folder."""

    start: int
    stop: int
    """Exclusive."""
    first_row: int
    """Number of the first record, counted from 1."""
    rows: int


def cuts(
    pieces: Iterable[bytes], dialect: Dialect, part_bytes: int, name: str, *, header: bool = False, blank: bool = False
) -> Iterator[Cut]:
    """Cut a stream into runs of whole records of about ``part_bytes``, and count them.

    A byte order mark and the ``header`` belong to no run. Blank lines are records only if ``blank``; otherwise they
    belong to the run before them. Raises ``DataError`` for a quote that never closes, and for a record longer than
    ``MAX_RECORD_BYTES``.
    """
    start, offset, rest = 0, 0, b""
    row, first_row = 1 - header, 1  # of the next record, and of the first one in this run
    for piece in itertools.chain(pieces, [None]):
        data = rest + (piece or b"")
        if offset == 0 and data.startswith(BYTE_ORDER_MARK):
            data, offset = data[len(BYTE_ORDER_MARK) :], len(BYTE_ORDER_MARK)
        if piece is not None and b"\n" not in piece and len(data) <= MAX_RECORD_BYTES:
            rest = data  # no record ends here; do not scan a long one again with every piece
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
    """Group items until they reach ``most_bytes`` or ``most_items``."""
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
    """Start offsets of the records in ``data``, of blank lines only if ``blank``; and the end of the last whole one.

    ``data`` starts with a record; ``where`` is its position for messages. If it is the ``last``, its final record needs
    no newline, but a closed quote.
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
    """``data`` with a newline at its end, unless it is empty."""
    return data if not data or data.endswith(b"\n") else data + b"\n"


def ends_by_parity(array: np.ndarray, newlines: np.ndarray, dialect: Dialect) -> np.ndarray | None:
    """Which newlines end a record; None if there is a quote inside a field."""
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
    """For each record that ends in ``data``, the number of lines up to its end, and its fields (none: a blank line).

    ``data`` begins with a record and ends with a newline. ``raw`` gives the bytes of a field. A quote inside a field is
    text. Raises ``DataError``, which begins with ``where``, for more than ``MAX_CSV_BYTES``.
    """
    if len(data) > MAX_CSV_BYTES:
        raise DataError(
            f"{where}: is longer than {MAX_CSV_BYTES >> 20} MiB, and has quotes that are not around whole fields; "
            "split its text"
        )
    text = data.decode("latin-1").replace("\0", NUL_STANDS_IN)
    text = LONE_RETURNS.sub(lambda run: RETURN_STANDS_IN * len(run[0]), text) if "\r" in text else text
    reader = csv.reader(
        io.StringIO(f"{text}end", newline="\n"),  # an open record includes this extra line
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
    """The column names in the first line of a CSV file. Raises ``DataError`` if there are none."""
    lines = first.removeprefix(BYTE_ORDER_MARK).lstrip(b"\r\n")[:MAX_HEADER_BYTES]
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


def json_lines(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The elements of a ``LIST`` of JSON, a line for each. Raises ``DataError`` for what is no JSON."""
    more = (piece.decode("latin-1") for piece in pieces)  # so damaged texts stay as they are
    text, row = next(more), 1
    found = LIST.search(text)
    assert found
    at = found.end() - 1  # or the comma before an element
    while text[at] != "]":
        try:
            begin = space_after(text, at + 1)
            _, end = JSON.raw_decode(text, begin)
            after = space_after(text, end)
            if text[after : after + 1] not in (",", "]"):
                raise ValueError("a comma or ] is missing after it")
        except (ValueError, RecursionError) as error:
            size = len(text) - at
            if size <= MAX_RECORD_BYTES and (added := "".join(itertools.islice(more, 1 + (size >> 23)))):
                text, at = text[at:] + added, 0
                continue
            raise DataError(f"{name}: row {row}: not a JSON value ({one_line(error)}); correct it") from None
        yield text[begin:end].replace("\n", " ").replace("\r", " ").encode("latin-1") + b"\n"
        at, row = after, row + 1
    rest = filter(str.strip, itertools.chain([text[at + 1 :]], more))
    if "".join(itertools.islice(rest, 2)).strip() != ("}" if found[1] else ""):
        raise DataError(f"{name}: after row {row - 1}: more than one list of JSON; join them, or keep it alone")


def space_after(text: str, at: int) -> int:
    """The next place that holds no space."""
    found = SPACE.match(text, at)
    assert found
    return found.end()
