# SPDX-License-Identifier: Apache-2.0
"""Records of CSV and JSON lines: where they begin in a stream, so that a file can be cut and counted, and their fields.

A newline inside quotes ends no record. On ordinary files that is a matter of parity: a newline after an even number of
quotes ends one. Parity is right exactly when every opening quote stands at the start of a field and every closing one
at the end of a field; a block where that does not hold, or with an escape character, is read by Python's csv module.
Fields are taken apart by Arrow. What it refuses is read by the csv module, which tells the row, and so is a carriage
return that ends no line: Arrow ends a line there, and here it is text.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv

from preprocessing.base.errors import DataError

NEWLINE, RETURN = 10, 13
MAX_RECORD_BYTES = 256 << 20
MAX_CSV_BYTES = 32 << 20
"""Most that the csv module reads at once: it may need ten times as much memory."""
MAX_COLUMNS = 1 << 14
"""More of them are no table of texts, and Arrow needs gigabytes to name them."""
LONE_RETURNS = re.compile(r"(?<!\r)\r+(?![\r\n]|\Z)")
RETURN_STANDS_IN, NUL_STANDS_IN = "\u0100", "\u0101"
"""What the csv module reads in the place of characters that it refuses; no byte is decoded to them."""
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

    ``header`` takes the first record for the header: it belongs to no run. Blank lines are no records unless ``blank``;
    they belong to the run before them. The first ``mark`` bytes, a byte order mark, are passed over. Raises
    ``DataError`` for a quote that never closes, and for a record longer than ``MAX_RECORD_BYTES``.
    """
    start, first_row, rows, offset, rest = mark, 1, 0, mark, b""
    for piece in itertools.chain(pieces, [None]):
        last, whole = piece is None, piece or b""
        data, mark = rest + whole[mark:], max(mark - len(whole), 0)
        if not last and b"\n" not in whole and len(data) <= MAX_RECORD_BYTES:
            rest = data  # no record ends here, and a long one is not looked at again with every piece
            continue
        ends, filled = record_ends(data, dialect, f"{name}: row {first_row + rows}", last=last)
        used = int(ends[-1]) if len(ends) else 0
        begins = offset + np.append(0, ends)[:-1][filled | blank]
        if header and len(begins):
            start = offset + int(ends[np.argmax(filled)])
            begins, header = begins[1:], False
        if len(data) - used > (0 if last else MAX_RECORD_BYTES):
            row = first_row + rows + len(begins) - header
            unclosed = "a quote opens and never closes; set source.quote to '' if quotes are text"
            long = f"is longer than {MAX_RECORD_BYTES >> 20} MiB; split its text"
            raise DataError(f"{name}: row {row}: {unclosed if last else long}")
        at = 0
        while (upto := max(int(np.searchsorted(begins, start + part_bytes)), at + (not rows))) < len(begins):
            yield Cut(start, int(begins[upto]), first_row, rows + upto - at)
            start, first_row, rows, at = int(begins[upto]), first_row + rows + upto - at, 0, upto
        rows += len(begins) - at
        rest, offset = data[used:], offset + used
    if rows:
        yield Cut(start, offset, first_row, rows)


def record_ends(data: bytes, dialect: Dialect, where: str, *, last: bool) -> tuple[np.ndarray, np.ndarray]:
    """Offsets just past every record of ``data``, and whether each record holds anything.

    ``data`` starts at a record, at ``where`` it lies in the file. With ``last``, an end without a newline is an end,
    unless a quote is open.
    """
    size = len(data)
    data = with_newline(data) if last else data
    array = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(array == NEWLINE)
    is_end = ends_by_parity(array, newlines, dialect)
    if is_end is None:
        is_end = np.zeros(len(newlines), bool)
        is_end[[lines - 1 for lines, _ in csv_rows(data[: data.rfind(b"\n") + 1], dialect, where)]] = True
    ends = newlines[is_end] + 1
    starts = np.append(0, ends)[:-1]
    sizes, first = ends - starts, array[starts]
    blank = ((sizes == 1) & (first == NEWLINE)) | ((sizes == 2) & (first == RETURN))
    return np.minimum(ends, size), ~blank


def with_newline(data: bytes) -> bytes:
    """Data that ends with a newline, unless there is none."""
    return data if not data or data.endswith(b"\n") else data + b"\n"


def ends_by_parity(array: np.ndarray, newlines: np.ndarray, dialect: Dialect) -> np.ndarray | None:
    """Which newlines end a record, where quotes stand only at the ends of fields; None where they do not."""
    if dialect.escape:
        return None
    quote = ord(dialect.quote) if dialect.quote else NEWLINE
    quotes = np.flatnonzero(array == quote) if dialect.quote else newlines[:0]
    before = np.zeros(256, bool)
    before[[ord(dialect.delimiter), NEWLINE, quote]] = True
    after = before.copy()
    after[RETURN] = True
    opening, closing = quotes[0::2], quotes[1::2]
    opening, closing = opening[opening > 0], closing[closing + 1 < len(array)]
    if not (before[array[opening - 1]].all() and after[array[closing + 1]].all()):
        return None
    return np.asarray(np.searchsorted(quotes, newlines) & 1 == 0)


class UnfinishedError(Exception):
    """Data ends here, perhaps within a record."""


def csv_rows(data: bytes, dialect: Dialect, where: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record that ends in ``data``, and how many lines there are up to its end; none of blank lines.

    ``data`` begins at a record and ends with a newline. ``raw`` gives the bytes of a field. A quote in mid-field is
    text. Raises ``DataError``, which begins with ``where``, for more than ``MAX_CSV_BYTES``.
    """
    if len(data) > MAX_CSV_BYTES:
        what = f"is longer than {MAX_CSV_BYTES >> 20} MiB, and not all of its quotes stand around whole fields"
        raise DataError(f"{where}: {what}; split its text")
    text = data.decode("latin-1").replace("\0", NUL_STANDS_IN)
    if "\r" in text:
        text = LONE_RETURNS.sub(lambda run: RETURN_STANDS_IN * len(run[0]), text)

    def lines() -> Iterator[str]:
        start = 0
        while stop := text.find("\n", start) + 1:
            yield text[start:stop]
            start = stop
        raise UnfinishedError  # else the csv module ends a quote that is open

    quoting = csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE
    signs = {"quotechar": dialect.quote or None, "escapechar": dialect.escape, "delimiter": dialect.delimiter}
    reader = csv.reader(lines(), quoting=quoting, **signs)  # type: ignore[arg-type]
    try:
        for fields in reader:
            yield reader.line_num, fields
    except UnfinishedError:
        return


def raw(field: str) -> bytes:
    """The bytes of a field of ``csv_rows``."""
    return field.replace(RETURN_STANDS_IN, "\r").replace(NUL_STANDS_IN, "\0").encode("latin-1")


def check_width(name: str, columns: int) -> None:
    """Raise ``DataError`` for a table of more than ``MAX_COLUMNS`` columns."""
    if columns > MAX_COLUMNS:
        raise DataError(f"{name}: has more than {MAX_COLUMNS:,} columns; leave out those that are not needed")


def read_columns(
    data: bytes, dialect: Dialect, columns: int, wanted: Sequence[int], rows: int, name: str, first_row: int
) -> list[pa.Array | pa.ChunkedArray]:
    """The wanted columns of ``rows`` records, as large_binary; a record has so many ``columns``.

    Raises ``DataError`` for a record of another number of fields.
    """
    names = [str(place) for place in range(columns)]
    if data.count(b"\r") == data.count(b"\r\n"):
        chosen = [names[place] for place in wanted]
        parsing = pa.csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            escape_char=dialect.escape or False,
            newlines_in_values=bool(dialect.quote or dialect.escape),
        )
        conversion = pa.csv.ConvertOptions(
            include_columns=chosen, column_types=dict.fromkeys(chosen, pa.large_binary()), strings_can_be_null=False
        )
        reading = pa.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1)
        try:
            table = pa.csv.read_csv(pa.BufferReader(data), reading, parsing, conversion)
            if len(table) == rows:
                return list(table.columns)
        except pa.ArrowInvalid:
            pass  # the csv module tells the row
    found = [fields for _, fields in csv_rows(with_newline(data), dialect, f"{name}: from row {first_row}") if fields]
    for row, fields in enumerate(found, first_row):
        if len(fields) != columns:
            what = f"{len(fields)} fields, the header has {columns}"
            hint = "correct the row, or set source.delimiter, quote or escape"
            raise DataError(f"{name}: row {row}: {what}; {hint}")
    if len(found) != rows:
        what = f"{len(found)} rows where {rows} lines end"
        raise DataError(f"{name}: from row {first_row}: {what}; line ends must be \\n or \\r\\n")
    return [pa.array([raw(fields[place]) for fields in found], pa.large_binary()) for place in wanted]


def read_header(first: bytes, name: str, dialect: Dialect) -> tuple[str, ...]:
    """The column names in the first line of a CSV file. Raises ``DataError`` where there are none."""
    lines = first.lstrip(b"\r\n")
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
