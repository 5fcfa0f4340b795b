# SPDX-License-Identifier: Apache-2.0
"""Detects from the beginning of a file: its encoding, its delimiter, whether its first row is a header.

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
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from padless.core.errors import DataError
from preprocessing.config import SourceConfig
from preprocessing.labels import AUTO, NUMBER
from preprocessing.sources.sources import File

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
