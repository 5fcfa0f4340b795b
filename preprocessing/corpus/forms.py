# SPDX-License-Identifier: Apache-2.0
"""What the name and the first bytes of a file tell of the rest: its format, its encoding, its line ends, its dialect.

A file that is valid UTF-8 is UTF-8. One that is not may be UTF-16 or UTF-32, as its byte order mark tells, or
Windows-1252, which is Latin-1 with curly quotes. Other encodings of one byte a letter cannot be told from that one by
their bytes alone, so what has many letters beyond ASCII is refused.

Lines end at a newline, with or without a carriage return before it, and nowhere else. Files of old Macs, which have
carriage returns alone, are read as if those were newlines.

The expected dialect stays wherever it works on the first records. Others are tried only on a file that would be refused
with it: one whose records differ in their number of fields, or have only one.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.config import SourceConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.records import BYTE_ORDER_MARK, Dialect, csv_rows, with_newline
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
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, the longer first, since one begins with the other."""
MOST_HIGH = 0.4
"""Share of letters beyond ASCII that no Western European language reaches."""
SYMBOL_IN_WORD = re.compile(rb"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf\xd7\xf7](?=[A-Za-z])")
"""What Windows-1252 reads as a sign though it stands within a word, as letters of Polish or Czech encodings do."""
SAMPLE_BYTES = 1 << 20
"""How much of a file is looked at."""
DELIMITERS = ",;\t|"
DIALECT_BYTES = 1 << 18
"""How much is divided into fields."""


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become records."""

    dialect: Dialect
    encoding: str = UTF8
    returns: bool = False
    """Whether lines end at carriage returns alone."""

    @property
    def is_plain(self) -> bool:
        """Whether the file is read as it lies; others are converted to UTF-8 with newlines first."""
        return self.encoding == UTF8 and not self.returns

    def converted(self, pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
        """The content of a file as UTF-8 whose lines end at newlines. Raises ``DataError``."""
        for piece in pieces if self.encoding == UTF8 else as_utf8(pieces, self.encoding, name):
            yield piece.replace(b"\r", b"\n") if self.returns else piece

    def recorded(self, expected: Dialect) -> dict[str, Any]:
        """What a manifest says of a form, as far as it is not what the name and the configuration tell."""
        found = {name: value for name, value in vars(self.dialect).items() if value != getattr(expected, name)}
        found |= {"encoding": self.encoding} if self.encoding != UTF8 else {}
        return found | ({"line_end": "\r"} if self.returns else {})

    def in_words(self, expected: Dialect, first: bytes = b"") -> str:
        """How a file differs from UTF-8 with newlines and the expected dialect; ``first`` are its first bytes."""
        said = {name: repr(value) for name, value in self.recorded(expected).items()}
        if "encoding" in said:  # a word with a letter beyond ASCII shows whether it is the right one
            text = codecs.getincrementaldecoder(self.encoding)("replace").decode(first[:SAMPLE_BYTES])
            word = re.search(r"\w*[^\W\x00-\x7f]\w*", text)
            said["encoding"] = self.encoding + (f" ({word[0][:30]!r})" if word else "")
        return ", ".join(f"{name} {value}" for name, value in said.items())


def form_of(
    first: bytes, name: str, source: SourceConfig, expected: Dialect, known: Dialect | None, *, is_csv: bool
) -> Form:
    """The form of a file whose first bytes are given; ``known`` is the dialect of a file like it, if there is one."""
    sample, whole = first[:SAMPLE_BYTES], len(first) < SAMPLE_BYTES
    encoding = encoding_of(sample, name) if source.encoding == AUTO else source.encoding
    if encoding != UTF8:
        sample = b"".join(as_utf8([sample], encoding, name, whole=whole))
    returns = b"\r" in sample and b"\n" not in sample
    sample = sample.removeprefix(BYTE_ORDER_MARK).replace(b"\r", b"\n" if returns else b"\r")
    fixed = source.delimiter is not None and known is None
    dialect = dialect_of(sample, expected, fixed=fixed, whole=whole, known=known) if is_csv else expected
    return Form(dialect, encoding, returns)


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
    decoder = codecs.getincrementaldecoder(UTF8)("ignore")
    valid = decoder.decode(sample)
    bad = len(sample) - len(decoder.getstate()[0]) - len(valid.encode())
    if bad == 0 or 20 * sum(character > "\x7f" for character in valid) > bad:
        return UTF8  # perhaps damaged in some places; the reader names the first of them
    letters, symbols = len(re.findall(rb"[A-Za-z]", sample)), len(SYMBOL_IN_WORD.findall(sample))
    if bad > MOST_HIGH * (letters + bad) or 20 * symbols > bad:
        raise DataError(
            f"{name}: its bytes are neither UTF-8 nor Latin-1; set source.encoding, "
            "for example cp1250, cp1251, shift_jis or gb18030"
        )
    return LATIN


def as_utf8(pieces: Iterable[bytes], encoding: str, name: str, *, whole: bool = True) -> Iterator[bytes]:
    """A stream in any encoding as UTF-8, without a byte order mark. Raises ``DataError`` for bytes it has no sign for.

    If it is not ``whole``, a character at its end may be cut.
    """
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    for piece in itertools.chain(pieces, [b""]):
        try:
            data = decoder.decode(piece, whole and not piece).encode()
        except UnicodeError as error:
            what = f"near byte {done + max(getattr(error, 'start', 0), 0):,} it is not {encoding}"
            what += f" ({addresses.sentence(error)})"
            raise DataError(f"{name}: {what}; set source.encoding to what it is written in") from None
        yield data if done else data.removeprefix(BYTE_ORDER_MARK)
        done += len(piece)


def plain(content: bytes, name: str, encoding: str) -> bytes:
    """A whole text file as UTF-8, without a byte order mark."""
    encoding = encoding_of(content, name) if encoding == AUTO else encoding
    return b"".join([content] if encoding == UTF8 else as_utf8([content], encoding, name)).removeprefix(BYTE_ORDER_MARK)


def dialect_of(sample: bytes, expected: Dialect, *, fixed: bool, whole: bool, known: Dialect | None = None) -> Dialect:
    """The dialect of a file from its first bytes, which are all of it if ``whole``.

    ``known`` is that of a file like it, and goes before ``expected``; other delimiters are tried where neither works
    and none is ``fixed``. Where none works, the answer is ``expected``.
    """
    whole = whole and len(sample) <= DIALECT_BYTES
    sample = with_newline(sample) if whole else sample[: sample.rfind(b"\n", 0, DIALECT_BYTES) + 1]
    for dialect in (known, expected):
        if dialect and num_fields(sample, whole, dialect):
            return dialect
    usable = "" if fixed else DELIMITERS
    others = [replace(expected, delimiter=one) for one in usable if one not in (expected.quote, expected.escape)]
    return max([expected, *others], key=partial(num_fields, sample, whole))


def num_fields(sample: bytes, whole: bool, dialect: Dialect) -> int:
    """How many fields every record has, two at least; 0 where they differ, or where a quote never closes."""
    records = list(csv_rows(sample, dialect, "sample"))
    counts = [len(fields) for _, fields in records if fields]
    used, lines = records[-1][0] if records else 0, sample.count(b"\n")
    is_closed = used == lines if whole else 2 * used >= lines
    return counts[0] if is_closed and len(counts) > 1 and 1 < min(counts) == max(counts) else 0
