# SPDX-License-Identifier: Apache-2.0
"""Reads lines: of CSV, of JSON, of texts. Arrow splits them.

Lines end at a newline, a carriage return, or both; within quotes of CSV, neither ends a line. Detected from the
beginning of a file are its encoding, its delimiter, and whether its first row is a header.

**Encoding.** Files with a byte order mark are UTF-8, UTF-16 or UTF-32. Others are UTF-8 if they are valid, else
Windows-1252, which is Latin-1 with curly quotes. Bytes do not distinguish the other single-byte encodings, so a file
with many letters beyond ASCII is refused.

**Delimiter.** The expected one is kept if it divides the first records into as many fields each, at least two; else the
first other one that does is taken.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.csv

from padless.core.errors import DataError
from padless.core.untrusted import one_line, refuse_binary
from preprocessing.config import SourceConfig
from preprocessing.labels import AUTO, NUMBER
from preprocessing.sources.batches import BYTES, Reader, SourceBatch, check_width, row_error
from preprocessing.sources.sources import File, suffix_of

UTF8, LATIN = "utf-8", "windows-1252"
ENCODING_BY_MARK = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The longer marks first, since they begin with a shorter one."""
MAX_NUL_SHARE = 0.25
"""Share of zero bytes that no text in UTF-8 or Latin-1 reaches."""
MAX_HIGH_SHARE = 0.4
"""Share of letters beyond ASCII that no Western European language reaches."""
DELIMITERS = ",;\t|"
DIALECT_CHARACTERS = 1 << 18
"""How much of the beginning of a file is read to detect the delimiter."""
TEXT_NAME = re.compile(
    r"(.+_)?(text|review|sentence|content|comment|message|body|tweet|document|utterance|post|question|query|sms|article|"
    r"abstract|description|statement|transcript|feedback)s?(_(text|body|content|cleaned|clean|raw))?"
)
"""Usual names of columns of texts, as ``normalize_name`` gives them."""
NUM_WORDS, NUM_WIDE_LETTERS = 3, 12
"""A text has at least so many words, or letters of scripts that are written without spaces."""
WIDE_LETTER = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
BYTE_ORDER_MARK = codecs.BOM_UTF8
SAMPLE_BYTES = 2_000_000
"""How much of the beginning of a file is read to detect its encoding and delimiter."""
FIRST_ROWS = 200
"""How many rows are compared to detect whether the first one is a header."""
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

    separator, quote, escape = NO_SEPARATOR, "", ""
    skip_blank = has_header = False

    def __init__(self, file: File, chunks: Iterator[bytes]) -> None:
        start, encoding = next(chunks, b""), file.source.encoding
        refuse_binary(file.name, start)
        if encoding == AUTO:
            encoding = detect_encoding(start[:SAMPLE_BYTES], file.name)
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
                escape_char=self.escape or False,
                newlines_in_values=bool(self.quote or self.escape),
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
        self.quote, self.escape = source.quote, source.escape or ""
        if self.delimiter != expected:
            self.read_as = {"delimiter": self.delimiter} | self.read_as
        first_rows = list(itertools.islice(iter_records(text, self.delimiter, source), FIRST_ROWS))
        if not first_rows:
            raise DataError(f"{file.name}: {'its first line is too long for a header' if text.strip() else EMPTY}")
        check_width(file.name, len(first_rows[0]))
        self.columns, self.has_header = name_columns(first_rows, file)


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


def detect_encoding(sample: bytes, name: str) -> str:
    """The encoding of a file from its first bytes. Raises ``DataError`` for bytes of an unknown encoding."""
    for mark, encoding in ENCODING_BY_MARK.items():
        if sample.startswith(mark):
            return encoding
    decoder = codecs.getincrementaldecoder(UTF8)("ignore")  # the sample may end within a character
    text = decoder.decode(sample)
    num_damaged = len(sample) - len(decoder.getstate()[0]) - len(text.encode())
    is_binary = sample.count(0) > MAX_NUL_SHARE * len(sample)
    if not is_binary and (num_damaged == 0 or 20 * len(re.findall(r"[^\x00-\x7f]", text)) > num_damaged):
        return UTF8  # if some bytes are damaged, the reader names the first
    num_high, num_letters = (len(re.findall(letters, sample)) for letters in (rb"[\x80-\xff]", rb"[A-Za-z]"))
    if is_binary or num_high > MAX_HIGH_SHARE * (num_letters + num_high):
        raise DataError(
            f"{name}: is neither UTF-8 nor Latin-1; if it is text, set source.encoding, for example cp1250, cp1251, "
            "shift_jis, gb18030 or utf-16-le"
        )
    return LATIN


def detect_delimiter(text: str, expected: str, source: SourceConfig) -> str:
    """The delimiter of a CSV file that begins with ``text``: the expected one, unless only another divides it."""
    sample = text[:DIALECT_CHARACTERS]
    delimiters = [expected, *(sign for sign in DELIMITERS if sign not in (source.quote, source.escape))]
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
        escapechar=source.escape or None,
        delimiter=delimiter,
    )
    with suppress(csv.Error):  # a longer field than the csv module reads
        yield from filter(None, reader)


def normalize_name(name: str) -> str:
    """The name of a column: ``reviewText`` and ``Review Text`` are ``review_text``."""
    return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()).strip("_")


def name_columns(rows: Sequence[Sequence[str]], file: File) -> tuple[list[str], bool]:
    """The names of a table's columns by its first rows, and whether the first one is a header.

    It is one if ``source.columns`` are not set, are the same, or are of another number; also if the name of a text is
    usual, and no cell a number. A labelled file then has ``source.columns``, in their order. Raises ``DataError`` if
    there is no header and ``source.columns`` are not set.
    """
    source, columns, first_row = file.source, file.source.columns, rows[0]
    if len(columns) != len(first_row) or {*columns} == {*first_row}:
        is_named = not {source.label_column, *source.text_columns}.isdisjoint({*first_row} - {AUTO})
        if not columns and not is_named and is_no_header(rows):
            problem = "its first line is a row, and no header; name the columns, as in"
            raise DataError(f"{file.name}: {problem} --source.columns '[text, label]'")
        return [*first_row], True
    texts = [normalize_name(cell) for name, cell in zip(columns, first_row, strict=True) if name in source.text_columns]
    if not texts or not all(map(TEXT_NAME.fullmatch, texts)) or any(map(NUMBER.fullmatch, first_row)):
        return columns, False
    return ([*first_row] if file.is_unlabelled else columns), True


def is_no_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row is one of texts: it has a sentence and a cell that is a number or occurs again below, or
    nothing but sentences.
    """
    first_cells = [*enumerate(rows[0])]
    cells_below = {(at, cell) for row in rows[1:] for at, cell in enumerate(row)}
    has_value = any(NUMBER.fullmatch(cell) or (at, cell) in cells_below for at, cell in first_cells)
    least_words = NUM_WORDS if has_value else NUM_WORDS + 1
    are_sentences = [is_sentence(cell, least_words) for _, cell in first_cells]
    return any(are_sentences) if has_value else all(are_sentences)


def is_sentence(text: str, min_words: int) -> bool:
    """Whether a cell is too long for the name of a column."""
    return len(text) >= 40 or len(text.split()) >= min_words or len(WIDE_LETTER.findall(text)) >= NUM_WIDE_LETTERS
