# SPDX-License-Identifier: Apache-2.0
"""How the bytes of a file become records: its form is detected from its name and first bytes, then records are found in
the stream, to cut and count them, and fields of CSV are parsed.

**Form.** Valid UTF-8 is UTF-8. Other files are UTF-16 or UTF-32 if they begin with a byte order mark, else
Windows-1252, which is Latin-1 with curly quotes. Bytes do not distinguish the other single-byte encodings, so a file
with many letters beyond ASCII is refused. Lines end at a newline, with or without a carriage return before it. The
expected dialect is kept if it works on the first records. Otherwise (records have one field, or different numbers of
fields) other delimiters are tried.

**Records.** A newline inside quotes does not end a record. In ordinary files, a newline ends a record exactly if an
even number of quotes comes before it. This holds if every opening quote is at the start of a field and every closing
one at the end; other blocks, and files with an escape character, are read by Python's csv module.

A list of JSON is read at once, and becomes JSON lines.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.untrusted import one_line
from preprocessing.config import SourceConfig
from preprocessing.corpus import addresses
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

BYTE_ORDER_MARK = codecs.BOM_UTF8
NEWLINE, RETURN = 10, 13
MAX_RECORD_BYTES = 256 << 20
MAX_HEADER_BYTES = 1 << 20
SAMPLE_BYTES = 2_000_000
"""Size of the sample at the beginning of a file, less than the UTF-8 of the first piece of a longer one."""
MAX_COLUMNS = 1 << 14
"""With more, Arrow needs gigabytes for their names."""
LONE_RETURNS = re.compile(r"(?<!\r)\r+(?![\r\n]|\Z)")
RETURN_STANDS_IN, NUL_STANDS_IN = "\u0100", "\u0101"
"""Replace characters that the csv module refuses; Latin-1 decodes no byte to them."""
JSON = json.JSONDecoder(parse_constant=lambda _: None)
SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
UTF8, LATIN = "utf-8", "windows-1252"
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks; the longer first, since it begins with a shorter one."""
SIGNATURES = {
    b"\x1f\x8b": "gzip; end its name in .gz",
    b"\x28\xb5\x2f\xfd": "zstd; end its name in .zst",
    b"PK\x03\x04": "a zip archive or an office document; unpack it, or end its name in .zip or .xlsx",
    b"PAR1": "Parquet; end its name in .parquet",
    b"%PDF-": "a PDF; save its texts as CSV, one a row",
}
"""First bytes of files that are no text -> what they are, and what to do."""
MOST_HIGH = 0.4
"""Share of letters beyond ASCII that no Western European language reaches."""
SYMBOL_IN_WORD = re.compile(rb"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf\xd7\xf7](?=[A-Za-z])")
"""Symbols of Windows-1252 within a word: probably letters of a Polish or Czech encoding."""
DELIMITERS = ",;\t|"
LONGEST_FIELD = 1 << 30
"""Limit of the csv module's fields, in characters, while a file is parsed."""
ROWS_AT_ONCE = 100
_csv_limit = threading.Lock()
"""Held while the csv module's limit, which belongs to the whole process, is another one."""
DIALECT_BYTES = 1 << 18
"""How much of it is parsed to find the dialect."""


@dataclass(frozen=True)
class Dialect:
    """How fields are separated; JSON lines have no quotes."""

    delimiter: str = ","
    quote: str = ""
    escape: str | None = None


@dataclass(frozen=True)
class Cut:
    """A run of whole records: bytes of CSV and JSON lines, rows of Parquet."""

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
        begins, used = record_begins(data, dialect, last=piece is None, blank=blank)
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


def record_begins(data: bytes, dialect: Dialect, *, last: bool, blank: bool) -> tuple[np.ndarray, int]:
    """Start offsets of the records in ``data``, of blank lines only if ``blank``; and the end of the last whole one.

    ``data`` starts with a record. If it is the ``last``, its final record needs no newline, but a closed quote.
    """
    array = np.frombuffer(with_newline(data) if last else data, np.uint8)
    newlines = np.flatnonzero(array == NEWLINE)
    is_end = ends_by_parity(array, newlines, dialect)
    if is_end is None:
        lines = [number for number, _ in csv_rows(array.tobytes()[: newlines[-1] + 1], dialect)]
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


def csv_rows(data: bytes, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """For each record that ends in ``data``, the number of lines up to its end, and its fields (none: a blank line).

    ``data`` begins with a record and ends with a newline. ``raw`` gives the bytes of a field. A quote inside a field is
    text.
    """
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
    while rows := next_rows(reader):
        for last_line, fields in rows:
            if last_line > lines:
                return
            yield last_line, fields


def next_rows(reader: Any) -> list[tuple[int, list[str]]]:
    """The next rows of a ``csv.reader``, at most ``ROWS_AT_ONCE``: the number of the last line, and the fields."""
    with _csv_limit:
        users_limit = csv.field_size_limit(LONGEST_FIELD)
        try:
            return [(reader.line_num, fields) for fields in itertools.islice(reader, ROWS_AT_ONCE)]
        finally:
            csv.field_size_limit(users_limit)


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
    _, fields = next(csv_rows(with_newline(lines), dialect), (0, ["a quote opens and never closes"]))
    check_width(name, len(fields))
    try:
        return tuple(raw(field).decode() for field in fields)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name}: row 0: the header cannot be read ({error}); is it text? Set source.encoding"
        ) from None


def json_lines(pieces: Iterable[bytes], name: str) -> bytes:
    """JSON that is one value as JSON lines: a line for each element of a list, or of the only list of objects in an
    object. Other JSON is unchanged. Raises ``DataError`` for more than ``MAX_RECORD_BYTES``, and for a damaged list.
    """
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > MAX_RECORD_BYTES:
            what = f"one value of JSON has more than {MAX_RECORD_BYTES >> 20} MiB"
            raise DataError(f"{name}: {what}; write JSON lines, an object a line")
    try:
        found = JSON.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if data.lstrip().startswith(b"["):
            raise DataError(f"{name}: not a list of JSON ({one_line(error)}); correct it") from None
        return bytes(data)
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        found = lists[0] if len(lists) == 1 else None
    if not isinstance(found, list):
        return bytes(data)
    return b"".join(encode(json.dumps(value, ensure_ascii=False)) + b"\n" for value in found)


def is_one_value(data: bytes) -> bool:
    """Whether JSON may be one value, such as a list, and not an object a line: its first line is not the first of many
    values.
    """
    line, _, others = data.strip().partition(b"\n")
    try:
        JSON.decode(line.decode())
    except (ValueError, RecursionError):
        return bool(line)
    return not others


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become records."""

    dialect: Dialect
    encoding: str = UTF8
    is_list: bool = False
    """Whether it may be a list of JSON."""
    packed: bool = False
    """Whether it is compressed, or a sheet."""
    recorded: dict[str, Any] = field(default_factory=dict)
    """For the manifest: what differs from the name and the configuration."""
    word: str = ""
    """A word with a letter beyond ASCII, by which the user can check the encoding."""

    @property
    def is_plain(self) -> bool:
        """Whether the file is read unchanged; others are first converted to UTF-8 with newlines."""
        return self.encoding == UTF8 and not (self.is_list or self.packed)

    def converted(self, pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
        """The content of a file as UTF-8 whose lines end at newlines. Raises ``DataError``."""
        pieces = pieces if self.encoding == UTF8 else as_utf8(pieces, self.encoding, name)
        return iter([json_lines(pieces, name)] if self.is_list else pieces)

    def __str__(self) -> str:
        """How the file differs from UTF-8 with newlines and the expected dialect."""
        said = ", ".join(f"{name} {value!r}" for name, value in self.recorded.items())
        return f"{said} (as in {self.word!r})" if self.word else said


def form_of(first: bytes, name: str, source: SourceConfig, expected: Dialect, kind: str) -> Form:
    """The form of a file from its ``first`` bytes."""
    sample = first[:SAMPLE_BYTES]
    encoding = encoding_of(sample, name) if source.encoding == AUTO else source.encoding
    if encoding != UTF8:
        sample = next(as_utf8([sample], encoding, name))  # its last character may be cut
    if b"\r" in sample and b"\n" not in sample:
        raise DataError(f"{name}: its lines end at carriage returns alone; convert them: tr '\\r' '\\n' < OLD > NEW")
    sample = sample.removeprefix(BYTE_ORDER_MARK)
    dialect = dialect_of(sample, expected) if kind == "csv" else expected
    is_list = kind == "jsonl" and is_one_value(sample)
    recorded: dict[str, Any] = {"delimiter": dialect.delimiter} if dialect != expected else {}
    word = None
    if encoding != UTF8:
        word = re.search(r"\w*[^\W\x00-\x7f]\w*", sample.decode())
        recorded |= {"encoding": encoding}
    packed = addresses.codec_of(name) is not None
    return Form(dialect, encoding, is_list, packed, recorded, word[0][:30] if word else "")


def format_of(address: str, source: SourceConfig) -> str:
    """The format: configured, or from the name, else the first bytes. Raises ``ConfigError``."""
    if source.format != AUTO:
        return source.format
    suffix = Path(uncompressed(address)).suffix
    known = SUFFIXES.get(suffix) or format_by_content(next(addresses.stream(address), b"")[:1024])
    if known is None:
        raise ConfigError(
            f"source.format: auto cannot tell what {address} holds; set csv, jsonl, parquet or xlsx; unpack an "
            "archive, save another sheet as .xlsx or CSV, the texts of a PDF as CSV, one a row"
        )
    return known


def format_by_content(first: bytes) -> str | None:
    """The format of a file from its first bytes; None for binary ones."""
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(tuple(MARKS)):
        return "csv"
    if not first or b"\0" in first or first.startswith(b"PK"):
        return None
    return "jsonl" if re.match(rb"\s*(\[\s*)?\{", first.removeprefix(BYTE_ORDER_MARK)) else "csv"


def uncompressed(address: str) -> str:
    """An address in lower case, without the suffix of its compression, or the archive that the file is in."""
    name = addresses.without_query(address).lower().partition("::")[0]
    for suffix in addresses.COMPRESSED:
        name = name.removesuffix(suffix)
    return name


def encoding_of(sample: bytes, name: str) -> str:
    """The encoding of a file from its first bytes. Raises ``DataError`` for bytes of an unknown encoding."""
    for signature, content in SIGNATURES.items():
        if sample.startswith(signature):
            raise DataError(f"{name}: holds {content}")
    for mark, encoding in MARKS.items():
        if sample.startswith(mark):
            return encoding
    if len(sample) < 4 * sample.count(0) < 3 * len(sample):
        raise DataError(f"{name}: is binary, or UTF-16 without its mark; then set source.encoding to utf-16-le or -be")
    decoder = codecs.getincrementaldecoder(UTF8)("ignore")
    valid = decoder.decode(sample)
    bad = len(sample) - len(decoder.getstate()[0]) - len(valid.encode())
    if bad == 0 or 20 * sum(character > "\x7f" for character in valid) > bad:
        return UTF8  # if some bytes are damaged, the reader names the first
    letters, symbols = len(re.findall(rb"[A-Za-z]", sample)), len(SYMBOL_IN_WORD.findall(sample))
    if bad > MOST_HIGH * (letters + bad) or 20 * symbols > bad:
        raise DataError(
            f"{name}: its bytes are neither UTF-8 nor Latin-1; set source.encoding, "
            "for example cp1250, cp1251, shift_jis or gb18030"
        )
    return LATIN


def as_utf8(pieces: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """A stream in any encoding as UTF-8, without a byte order mark. Raises ``DataError`` for invalid bytes."""
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    for piece in itertools.chain(pieces, [b""]):
        try:
            data = decoder.decode(piece, not piece).encode()
        except UnicodeError as error:
            what = f"near byte {done + max(getattr(error, 'start', 0), 0):,} it is not {encoding}"
            what += f" ({one_line(error)})"
            raise DataError(f"{name}: {what}; set source.encoding to its encoding") from None
        yield data if done else data.removeprefix(BYTE_ORDER_MARK)
        done += len(piece)


def plain(address: str, encoding: str) -> str:
    """A whole text file, without a byte order mark. Raises ``DataError`` for invalid bytes."""
    content = b"".join(addresses.stream(address))
    encoding = encoding_of(content, address) if encoding == AUTO else encoding
    return b"".join(as_utf8([content], encoding, address)).decode()


def dialect_of(sample: bytes, expected: Dialect) -> Dialect:
    """The dialect of a file from its first bytes: the ``expected`` one if that works, else the first other delimiter
    that does. If none works, returns ``expected``.
    """
    sample = with_newline(sample)
    sample = sample[: sample.rfind(b"\n", 0, DIALECT_BYTES) + 1]
    others = [replace(expected, delimiter=one) for one in DELIMITERS if one not in (expected.quote, expected.escape)]
    return next((one for one in [expected, *others] if divides(sample, one)), expected)


def divides(sample: bytes, dialect: Dialect) -> bool:
    """Whether every record has as many fields, at least 2, and no quote stays open for most of the lines."""
    records = [(lines, len(fields)) for lines, fields in csv_rows(sample, dialect) if fields]
    numbers = {number for _, number in records}
    is_same = len(records) > 1 and len(numbers) == 1 and numbers != {1}
    return is_same and 2 * records[-1][0] >= sample.count(b"\n")
