# SPDX-License-Identifier: Apache-2.0
"""Reads lines: of CSV, of JSON, of texts. Arrow splits them.

Lines end at a newline, a carriage return, or both; within quotes of CSV, neither ends a line.

**Encoding.** UTF-8, or after its byte order mark UTF-16, unless ``source.encoding`` names another one.

**Header.** The first row, unless ``source.columns`` are as many other names.

**Delimiter.** The expected one is kept if it divides the first records into as many fields each, at least two; else the
first other one that does is taken.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.csv

from padless.core.errors import DataError
from padless.core.untrusted import one_line, refuse_binary
from preprocessing.config import SourceConfig
from preprocessing.labels import AUTO
from preprocessing.sources.batches import BYTES, Reader, SourceBatch, check_width, row_error
from preprocessing.sources.sources import File, suffix_of

UTF8, UTF16 = "utf-8", "utf-16"
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
MAX_NUL_SHARE = 0.25
"""Share of zero bytes that no text in UTF-8 reaches."""
DELIMITERS = ",;\t|"
DIALECT_CHARACTERS = 1 << 18
"""How much of the beginning of a file is read to detect the delimiter."""
BYTE_ORDER_MARK = codecs.BOM_UTF8
SAMPLE_BYTES = 2_000_000
"""How much of the beginning of a file is read to find its header."""
EMPTY = "the file is empty; it needs a header line and a row for each text"
MAX_ROW_BYTES = 4 << 20
"""Files are read in blocks of so many bytes, since no row may be longer."""
NO_SEPARATOR = "\x01"
"""Between the fields of texts a line and of JSON, where it becomes a blank."""
END_MARK = b"\xfeend\xfe"
"""Each field of a row that is added after the last one: it is missing if a quote is open."""
MISMATCH = re.compile(r"Row #(\d+): Expected \d+ columns, got (\d+)")
"""In Arrow's error for a row with too few or too many fields; the header is row 1."""
QUOTE_SENTENCE = "a quote opens and never closes; set source.quote to '' if quotes are text"


class LineReader(Reader):
    """Texts, a line each, blank lines too."""

    separator, quote = NO_SEPARATOR, ""
    skip_blank = has_header = False

    def __init__(self, file: File, chunks: Iterator[bytes]) -> None:
        start = next(chunks, b"")
        refuse_binary(file.name, start)
        encoding = find_encoding(start, file.source, file.name)
        super().__init__(file, file.source.text_columns[:1], {"encoding": encoding} if encoding != UTF8 else {})
        self.has_mark = start.startswith(BYTE_ORDER_MARK)
        self.chunks = convert_to_utf8(itertools.chain([start], chunks), encoding, file.name)
        """The content from its beginning."""
        self.num_rows = 0
        """Rows that were read."""

    def look_ahead(self) -> bytes:
        """The beginning of the content."""
        head = next(self.chunks, b"")
        self.chunks = itertools.chain([head], self.chunks)
        return head[:SAMPLE_BYTES]

    def batches(self, keep_columns: bool = False) -> Iterator[SourceBatch]:
        """Columns of bytes."""
        used = self.columns if keep_columns else self.file.key_by_column
        wanted = {at: name for at, name in enumerate(self.columns) if name in used}
        has_header, last = self.has_header, b""
        try:
            for record_batch in self.open_csv([*map(str, wanted)]):
                table = pa.Table.from_batches([record_batch]).rename_columns([*wanted.values()])
                last = table.column(-1)[-1].as_py()
                num_rows = len(table) - (last == END_MARK)
                table = table.slice(0, num_rows).slice(has_header)
                has_header, start = False, self.num_rows + 1
                self.num_rows += len(table)
                yield SourceBatch(self.file, np.arange(start, start + len(table)), table)
        except pa.ArrowInvalid as error:
            raise self.parse_error(error) from None
        if last != END_MARK:
            raise row_error(self.file, self.num_rows, QUOTE_SENTENCE)

    def open_csv(self, included: list[str]) -> pa.csv.CSVStreamingReader:
        """Arrow's reader of the columns at these positions; the row of ``END_MARK`` is the last."""
        num_columns = len(self.columns)
        end = self.separator.encode().join([END_MARK] * num_columns)
        chunks = self.chunks
        if self.separator == NO_SEPARATOR:
            chunks = (chunk.replace(NO_SEPARATOR.encode(), b" ") for chunk in chunks)
        return pa.csv.open_csv(
            pa.PythonFile(LineStream(add_line(chunks, end)), mode="r"),
            pa.csv.ReadOptions(
                column_names=[*map(str, range(num_columns))], use_threads=False, block_size=MAX_ROW_BYTES
            ),
            pa.csv.ParseOptions(
                delimiter=self.separator,
                quote_char=self.quote or False,
                newlines_in_values=bool(self.quote),
                ignore_empty_lines=self.skip_blank,
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(included, BYTES), include_columns=included, strings_can_be_null=False
            ),
        )

    def parse_error(self, error: pa.ArrowInvalid) -> DataError:
        """The error for what Arrow refuses: a row with too few or too many fields, or a long one."""
        number, problem, hint = self.num_rows + 1, one_line(error), "shorten the row"
        if mismatch := MISMATCH.search(str(error)):
            number = int(mismatch[1]) - self.has_header
            problem = f"{mismatch[2]} fields, the header has {len(self.columns)}"
        elif "straddl" in str(error):
            problem = f"has more than {MAX_ROW_BYTES >> 20} MiB"
        if self.separator != NO_SEPARATOR:
            hint = f"close each quote, put texts with {self.delimiter!r} in quotes, or set source.delimiter or quote"
        return row_error(self.file, number, f"{problem}; {hint}")


def convert_to_utf8(chunks: Iterable[bytes], encoding: str, name: str) -> Iterator[bytes]:
    """A stream as UTF-8, without a byte order mark. Raises ``DataError`` for bytes that are not in the encoding."""
    try:
        converted = chunks if encoding == UTF8 else map(str.encode, codecs.iterdecode(chunks, encoding))
        for number, chunk in enumerate(converted):
            yield chunk if number else chunk.removeprefix(BYTE_ORDER_MARK)
    except UnicodeError as error:
        raise DataError(f"{name}: is not {encoding} ({one_line(error)}); set source.encoding to its encoding") from None


class CsvReader(LineReader):
    """CSV."""

    skip_blank = True

    def __init__(self, file: File, chunks: Iterator[bytes]) -> None:
        super().__init__(file, chunks)
        source, text = file.source, self.look_ahead().decode("utf-8", "replace")
        expected = source.delimiter or ("\t" if suffix_of(file.address) == ".tsv" else ",")
        self.delimiter = self.separator = detect_delimiter(text, expected, source)
        self.quote = source.quote
        if self.delimiter != expected:
            self.read_as = {"delimiter": self.delimiter} | self.read_as
        first_row = next(iter_records(text, self.delimiter, source), None)
        if not first_row:
            raise DataError(f"{file.name}: {'its first line is too long for a header' if text.strip() else EMPTY}")
        check_width(file.name, len(first_row))
        self.has_header = len(source.columns) != len(first_row) or {*source.columns} == {*first_row}
        self.columns = first_row if self.has_header else source.columns


def add_line(chunks: Iterable[bytes], line: bytes) -> Iterator[bytes]:
    """A stream with one more line."""
    chunk = b"\n"
    for chunk in filter(None, chunks):
        yield chunk
    yield line if chunk.endswith((b"\n", b"\r")) else b"\n" + line


class LineStream:
    """A stream that Arrow reads."""

    closed = False

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.buffer = chunks, bytearray()

    def read(self, size: int) -> bytes:
        """About ``size`` bytes, fewer at the end. Carriage return and newline stay together."""
        while len(self.buffer) <= size and (chunk := next(self.chunks, None)) is not None:
            self.buffer += chunk
        stop = size - (self.buffer[size - 1 : size + 1] == b"\r\n")
        data = bytes(self.buffer[:stop])
        del self.buffer[:stop]
        return data


def find_encoding(start: bytes, source: SourceConfig, name: str) -> str:
    """The encoding of a file that begins with ``start``. Raises ``DataError`` for bytes that are no text in UTF-8."""
    if source.encoding != AUTO:
        return source.encoding
    if start.startswith(UTF16_MARKS):
        return UTF16
    if start.count(0) > MAX_NUL_SHARE * len(start):
        problem = "is not UTF-8; if it is text, set source.encoding, for example utf-16-le or cp1251"
        raise DataError(f"{name}: {problem}")
    return UTF8


def detect_delimiter(text: str, expected: str, source: SourceConfig) -> str:
    """The delimiter of a CSV file that begins with ``text``: the expected one, unless only another divides it."""
    sample = text[:DIALECT_CHARACTERS]
    delimiters = [expected, *(sign for sign in DELIMITERS if sign != source.quote)]
    return next((sign for sign in delimiters if is_table(sample, sign, source)), expected)


def is_table(text: str, delimiter: str, source: SourceConfig) -> bool:
    """Whether all records have as many fields, at least two. The last record may be cut, so it does not count."""
    widths = [len(fields) for fields in iter_records(text, delimiter, source)]
    return len({*widths[:-1]} or {*widths}) == 1 and widths[0] > 1


def iter_records(text: str, delimiter: str, source: SourceConfig) -> Iterator[list[str]]:
    """The fields of each record at the beginning of a CSV file, without blank lines."""
    reader = csv.reader(
        io.StringIO(text, newline=""),
        quoting=csv.QUOTE_MINIMAL if source.quote else csv.QUOTE_NONE,
        quotechar=source.quote or None,
        delimiter=delimiter,
    )
    with suppress(csv.Error):  # a longer field than the csv module reads
        yield from filter(None, reader)
