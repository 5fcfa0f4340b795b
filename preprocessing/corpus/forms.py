# SPDX-License-Identifier: Apache-2.0
"""What the name and the first bytes of a file tell of the rest: its format, its encoding, its line ends, its dialect.

A file that is valid UTF-8 is UTF-8. One that is not may be UTF-16 or UTF-32, as its byte order mark or its zero bytes
tell, or Windows-1252, which is Latin-1 with curly quotes. Other encodings of one byte a letter cannot be told from that
one by their bytes alone, so what does not look like a Western European language is refused.

Lines end at a newline, with or without a carriage return before it, and nowhere else. Files of old Macs, which have
carriage returns alone, are read as if those were newlines.

The expected dialect stays wherever it works on the first records. Others are tried only on a file that would be refused
with it: one whose records differ in their number of fields, or have only one.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.config import SourceConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.records import Dialect, field_ends
from preprocessing.labels import AUTO

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
SHEETS = (".xlsx", ".xls", ".ods")
UTF8, LATIN = "utf-8", "windows-1252"
BYTE_ORDER_MARK = codecs.BOM_UTF8
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, the longer first, since one begins with the other."""
MOST_HIGH = 0.3
"""Share of letters beyond ASCII that no Western European language reaches."""
SYMBOL_IN_WORD = re.compile(rb"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf\xd7\xf7](?=[A-Za-z])")
"""What Windows-1252 reads as a sign though it stands within a word, as letters of Polish or Czech encodings do."""
SIGNS = re.compile(rb"[\x80\x82\x84\x85\x91-\x97\xa0\xab\xbb]")
"""Quotation marks, dashes and the like of Windows-1252: no letters."""
C1 = "padless.c1"
codecs.register_error(C1, lambda error: (chr(error.object[error.start]), error.start + 1))  # type: ignore[attr-defined]
SAMPLE_BYTES = 1 << 20
"""How much of a file is looked at."""
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
DIALECT_BYTES = (1 << 16, 1 << 18)
"""How much is divided into fields: first a little, then more."""


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become records."""

    dialect: Dialect
    encoding: str = UTF8
    returns: bool = False
    """Whether lines end at carriage returns alone."""
    mark: int = 0
    """Bytes of a byte order mark, which are no part of the first record; 0 where the file is converted."""

    @property
    def is_plain(self) -> bool:
        """Whether the file is read as it lies; others are converted to UTF-8 with newlines first."""
        return self.encoding == UTF8 and not self.returns

    def converted(self, pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
        """The content of a file as UTF-8 whose lines end at newlines. Raises ``DataError``."""
        for piece in pieces if self.is_plain else as_utf8(pieces, self.encoding, name):
            yield piece.replace(b"\r", b"\n") if self.returns else piece

    def recorded(self, expected: Dialect) -> dict[str, Any]:
        """What a manifest says of a form, as far as it is not what the name and the configuration tell."""
        found = {name: value for name, value in vars(self.dialect).items() if value != getattr(expected, name)}
        found |= {"encoding": self.encoding} if self.encoding != UTF8 else {}
        return found | ({"line_end": "\r"} if self.returns else {})

    def in_words(self, expected: Dialect, first: bytes = b"") -> list[str]:
        """How a file differs from UTF-8 with newlines and the expected dialect; ``first`` are its first bytes."""
        found = self.recorded(expected)
        said = []
        if "delimiter" in found:
            said.append(f"fields end at {DELIMITERS.get(found['delimiter'], repr(found['delimiter']))}")
        if "quote" in found:
            said.append("quotes are text")
        if "escape" in found:
            said.append("a backslash makes the next quote text")
        if "encoding" in found:  # a word with a letter beyond ASCII shows whether it is the right one
            word = re.search(r"\w*[^\W\x00-\x7f]\w*", decoder_of(self.encoding).decode(first[:SAMPLE_BYTES]))
            said.append(f"it is read as {self.encoding}" + (f" ({word[0][:30]!r})" if word else ""))
        return said + (["lines end at carriage returns"] if self.returns else [])


def form_of(
    first: bytes,
    name: str,
    expected: Dialect,
    *,
    encoding: str,
    fixed: bool,
    is_csv: bool,
    known: Dialect | None = None,
) -> Form:
    """The form of a file whose first bytes are given; ``encoding`` may be ``auto``, ``fixed`` holds the delimiter, and
    ``known`` is the dialect of a file like it.
    """
    sample, whole = first[:SAMPLE_BYTES], len(first) < SAMPLE_BYTES
    encoding = encoding_of(sample, name) if encoding == AUTO else encoding
    if encoding != UTF8:
        sample = b"".join(as_utf8([sample], encoding, name, whole=whole))
    mark = len(BYTE_ORDER_MARK) if sample.startswith(BYTE_ORDER_MARK) else 0
    sample = sample[mark:]
    returns = ends_at_returns(sample)
    sample = sample.replace(b"\r", b"\n") if returns else sample
    dialect = dialect_of(sample, expected, fixed=fixed, whole=whole, known=known) if is_csv else expected
    return Form(dialect, encoding, returns, mark if encoding == UTF8 and not returns else 0)


def ends_at_returns(sample: bytes) -> bool:
    """Whether there are carriage returns and no newline, quoted fields aside."""
    if b"\r" not in sample:
        return False
    outside = re.sub(rb'"[^"]*"', b"", sample) if b"\n" in sample else sample
    return b"\r" in outside and b"\n" not in outside


def format_of(address: str, source: SourceConfig) -> str:
    """The configured format, or the one that the name or the first bytes tell. Raises ``ConfigError``."""
    if source.format != AUTO:
        return source.format
    suffix = Path(uncompressed(address)).suffix
    known = SUFFIXES.get(suffix) or format_by_content(next(addresses.stream(address), b"")[:1024])
    if known is None:
        sheet = "; write the sheet as CSV first" if suffix in SHEETS else "; set csv, jsonl, parquet or folder"
        raise ConfigError(f"source.format: auto cannot tell what {address} holds{sheet}")
    return known


def format_by_content(first: bytes) -> str | None:
    """The format of a file from its first bytes; None where they are no text."""
    if first.startswith(b"PAR1"):
        return "parquet"
    if first.startswith(tuple(MARKS)):
        return "csv"
    if not first or b"\0" in first or first.startswith(b"PK"):
        return None
    return "jsonl" if first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"{") else "csv"


def uncompressed(address: str) -> str:
    """An address in lower case, without the ending that says how it is compressed."""
    name = addresses.without_query(address).lower()
    for suffix in addresses.COMPRESSED:
        name = name.removesuffix(suffix)
    return name


def encoding_of(sample: bytes, name: str) -> str:
    """The encoding of a file from its first bytes. Raises ``DataError`` for bytes of an unknown encoding."""
    for mark, encoding in MARKS.items():
        if sample.startswith(mark):
            return encoding
    if wide := wide_without_mark(sample):
        return wide
    valid = sample.decode(UTF8, "ignore")
    good = sum(character > "\x7f" for character in valid)
    bad = len(sample) - len(valid.encode())
    if bad <= cut_at_end(sample) or 20 * good > bad:
        return UTF8  # perhaps damaged in some places; the reader names the first of them
    letters, signs = len(re.findall(rb"[A-Za-z]", sample)), len(SIGNS.findall(sample))
    symbols = len(SYMBOL_IN_WORD.findall(sample))
    if bad - signs > MOST_HIGH * (letters + bad - signs) or 20 * symbols > bad:
        raise DataError(
            f"{name}: its bytes are neither UTF-8 nor Latin-1; set source.encoding, "
            "for example cp1250, cp1251, shift_jis or gb18030"
        )
    return LATIN


def cut_at_end(sample: bytes) -> int:
    """Bytes of a character that the end of a sample in UTF-8 cuts."""
    decoder = codecs.getincrementaldecoder(UTF8)("ignore")
    decoder.decode(sample)
    return len(decoder.getstate()[0])


def wide_without_mark(sample: bytes) -> str | None:
    """UTF-16 by its zero bytes: the upper half of nearly every ASCII character, and never the lower."""
    zero = np.frombuffer(sample[: len(sample) // 2 * 2], np.uint8).reshape(-1, 2) == 0
    first, second = int(zero[:, 0].sum()), int(zero[:, 1].sum())
    if max(first, second) <= 10 * min(first, second) or max(first, second) * 20 < len(zero):
        return None
    return "utf-16-le" if second > first else "utf-16-be"


def decoder_of(encoding: str) -> codecs.IncrementalDecoder:
    """What turns bytes into text. Windows-1252 keeps the five bytes that it has no sign for, as browsers do."""
    return codecs.getincrementaldecoder(encoding)(C1 if encoding == LATIN else "strict")


def as_utf8(pieces: Iterable[bytes], encoding: str, name: str, *, whole: bool = True) -> Iterator[bytes]:
    """A stream in any encoding as UTF-8, without a byte order mark. Raises ``DataError`` for bytes it has no sign for.

    If it is not ``whole``, a character at its end may be cut.
    """
    decoder, done, first = decoder_of(encoding), 0, True
    for piece in ending(pieces):
        try:
            text = decoder.decode(piece or b"", piece is None and whole)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            converted = text.encode()
        except UnicodeError as error:
            at = done + max(getattr(error, "start", 0), 0)
            what = f"near byte {at:,} it is not {encoding} ({addresses.sentence(error)})"
            raise DataError(f"{name}: {what}; set source.encoding to what it is written in") from None
        done += len(piece or b"")
        yield converted


def ending(pieces: Iterable[bytes]) -> Iterator[bytes | None]:
    """Each piece; then None, at which a decoder refuses what is left half read."""
    yield from pieces
    yield None


def plain(content: bytes, name: str, encoding: str) -> bytes:
    """A whole text file as UTF-8, without a byte order mark."""
    encoding = encoding_of(content, name) if encoding == AUTO else encoding
    return b"".join(as_utf8([content], encoding, name)) if encoding != UTF8 else content.removeprefix(BYTE_ORDER_MARK)


def dialect_of(sample: bytes, expected: Dialect, *, fixed: bool, whole: bool, known: Dialect | None = None) -> Dialect:
    """The dialect of a file from its first bytes, which are all of it if ``whole``.

    ``known`` is that of a file like it, and goes before ``expected``. ``fixed`` holds the delimiter; quote and escape
    may still be others. Where none works, the answer is ``expected``.
    """
    for dialect in (known, expected) if known else (expected,):
        if any(fields(*beginning(sample, size, whole), dialect) for size in DIALECT_BYTES):
            return dialect
    sample, whole = beginning(sample, DIALECT_BYTES[-1], whole)
    found = {dialect: fields(sample, whole, dialect) for dialect in others(sample, expected, fixed)}
    most = max(found.values())
    return next(dialect for dialect, number in found.items() if number == most) if most else expected


def beginning(sample: bytes, size: int, whole: bool) -> tuple[bytes, bool]:
    """Lines at the beginning of a sample, and whether they are all that the file has."""
    if whole and len(sample) <= size:
        return (sample if sample.endswith(b"\n") else sample + b"\n"), True
    return sample[: sample.rfind(b"\n", 0, size) + 1], False


def others(sample: bytes, expected: Dialect, fixed: bool) -> Iterator[Dialect]:
    """Dialects to try, the nearest to the expected one first."""
    for delimiter in dict.fromkeys([expected.delimiter, *(() if fixed else DELIMITERS)]):
        if delimiter in (expected.quote, expected.escape):
            continue
        yield Dialect(delimiter, expected.quote, expected.escape)
        if expected.quote and expected.escape is None and f"\\{expected.quote}".encode() in sample:
            yield Dialect(delimiter, expected.quote, "\\")
        if expected.quote and delimiter == "\t":
            yield Dialect(delimiter, "", expected.escape)  # many tab-separated files never quote


def fields(sample: bytes, whole: bool, dialect: Dialect) -> int:
    """How many fields every record has, two at least; 0 where they differ, or where a quote never closes."""
    delimiter, counts, unclosed = dialect.delimiter.encode(), list[int](), 0
    if dialect.quote or dialect.escape:
        number = start = 0
        for position, is_last in field_ends(sample, dialect):
            number += 1
            if is_last:
                counts += [number] if sample[start:position].strip(b"\r\n") else []
                number, start = 0, position
        unclosed = len(sample) - start
    else:
        counts = [line.count(delimiter) + 1 for line in sample.split(b"\n") if line.strip(b"\r")]
    same = len(counts) > 1 and counts[0] > 1 and len(set(counts)) == 1
    return counts[0] if same and unclosed <= (0 if whole else len(sample) // 2) else 0
