# SPDX-License-Identifier: Apache-2.0
"""Detects a file's format, encoding, line ends and CSV dialect from its name and first bytes.

Valid UTF-8 is UTF-8. Other files are UTF-16 or UTF-32 if they begin with a byte order mark, else Windows-1252, which is
Latin-1 with curly quotes. Bytes do not distinguish the other single-byte encodings, so a file with many letters beyond
ASCII is refused.

Lines end at a newline, with or without a carriage return before it. In a file without newlines, carriage returns end
lines, as on old Macs.

The expected dialect is kept if it works on the first records. Otherwise (records have one field, or different numbers
of fields) other delimiters are tried.
"""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.config import SourceConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.records import (
    BYTE_ORDER_MARK,
    JSON,
    LIST,
    SAMPLE_BYTES,
    Dialect,
    csv_rows,
    json_lines,
    runs,
    with_newline,
)
from preprocessing.labels import AUTO

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
MOST_HIGH = 0.4
"""Share of letters beyond ASCII that no Western European language reaches."""
SYMBOL_IN_WORD = re.compile(rb"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf\xd7\xf7](?=[A-Za-z])")
"""Symbols of Windows-1252 within a word: probably letters of a Polish or Czech encoding."""
DELIMITERS = ",;\t|"
DIALECT_BYTES = 1 << 18
"""How much of it is parsed to find the dialect."""


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become records."""

    dialect: Dialect
    encoding: str = UTF8
    returns: bool = False
    """Whether lines end at carriage returns alone."""
    is_list: bool = False
    """Whether it is a list of JSON."""
    packed: bool = False
    """Whether it is compressed, or a sheet."""
    recorded: dict[str, Any] = field(default_factory=dict)
    """For the manifest: what differs from the name and the configuration."""
    word: str = ""
    """A word with a letter beyond ASCII, by which the user can check the encoding."""

    @property
    def is_plain(self) -> bool:
        """Whether the file is read unchanged; others are first converted to UTF-8 with newlines."""
        return self.encoding == UTF8 and not (self.returns or self.is_list or self.packed)

    def converted(self, pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
        """The content of a file as UTF-8 whose lines end at newlines. Raises ``DataError``."""
        pieces = pieces if self.encoding == UTF8 else as_utf8(pieces, self.encoding, name)
        pieces = (piece.replace(b"\r", b"\n") for piece in pieces) if self.returns else pieces
        if not self.is_list:
            return iter(pieces)
        return map(b"".join, runs(json_lines(pieces, name), len, SAMPLE_BYTES + 1))

    def __str__(self) -> str:
        """How the file differs from UTF-8 with newlines and the expected dialect."""
        said = {name: repr(value) for name, value in self.recorded.items()}
        said |= {"encoding": self.encoding + (f" ({self.word!r})" if self.word else "")} if "encoding" in said else {}
        return ", ".join(f"{name} {value}" for name, value in said.items())


def form_of(first: bytes, name: str, source: SourceConfig, expected: Dialect, known: Dialect | None, kind: str) -> Form:
    """The form of a file from its ``first`` bytes; ``known`` is the dialect of the training corpus, if there is one."""
    sample, whole = first[:SAMPLE_BYTES], len(first) < SAMPLE_BYTES
    encoding = encoding_of(sample, name) if source.encoding == AUTO else source.encoding
    if encoding != UTF8:
        sample = b"".join(as_utf8([sample], encoding, name, whole=whole))
    returns = b"\r" in sample and b"\n" not in sample
    sample = sample.removeprefix(BYTE_ORDER_MARK).replace(b"\r", b"\n" if returns else b"\r")
    fixed = source.delimiter is not None and known is None
    dialect = dialect_of(sample, expected, fixed=fixed, whole=whole, known=known) if kind == "csv" else expected
    is_list = kind == "jsonl" and holds_list(sample.decode("latin-1"))
    recorded = {name: value for name, value in vars(dialect).items() if value != getattr(expected, name)}
    recorded |= {"line_end": "\r"} if returns else {}
    word = None
    if encoding != UTF8:
        word = re.search(r"\w*[^\W\x00-\x7f]\w*", sample.decode())
        recorded |= {"encoding": encoding}
    packed = addresses.is_compressed(name)
    return Form(dialect, encoding, returns, is_list, packed, recorded, word[0][:30] if word else "")


def holds_list(sample: str) -> bool:
    """Whether JSON is a list of objects, alone or in an object, and not an object a line."""
    found, (first, _, others) = LIST.match(sample.lstrip()), sample.strip().partition("\n")
    if found is None or not found[1] or not others:
        return found is not None
    try:
        JSON.decode(first)
    except ValueError:
        return True
    return False


def format_of(address: str, source: SourceConfig) -> str:
    """The format: configured, or from the name, else the first bytes. Raises ``ConfigError``."""
    if source.format != AUTO:
        return source.format
    suffix = Path(uncompressed(address)).suffix
    known = SUFFIXES.get(suffix) or format_by_content(next(addresses.stream(address), b"")[:1024])
    if known is None:
        raise ConfigError(
            f"source.format: auto cannot tell what {address} holds; set csv, jsonl, parquet, xlsx or folder; save "
            "another sheet as .xlsx or CSV"
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
    """An address in lower case, without the suffix of its compression."""
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
        return UTF8  # if some bytes are damaged, the reader names the first
    letters, symbols = len(re.findall(rb"[A-Za-z]", sample)), len(SYMBOL_IN_WORD.findall(sample))
    if bad > MOST_HIGH * (letters + bad) or 20 * symbols > bad:
        raise DataError(
            f"{name}: its bytes are neither UTF-8 nor Latin-1; set source.encoding, "
            "for example cp1250, cp1251, shift_jis or gb18030"
        )
    return LATIN


def as_utf8(pieces: Iterable[bytes], encoding: str, name: str, *, whole: bool = True) -> Iterator[bytes]:
    """A stream in any encoding as UTF-8, without a byte order mark. Raises ``DataError`` for invalid bytes.

    Unless it is ``whole``, its last character may be cut.
    """
    decoder, done = codecs.getincrementaldecoder(encoding)(), 0
    for piece in itertools.chain(pieces, [b""]):
        try:
            data = decoder.decode(piece, whole and not piece).encode()
        except UnicodeError as error:
            what = f"near byte {done + max(getattr(error, 'start', 0), 0):,} it is not {encoding}"
            what += f" ({addresses.sentence(error)})"
            raise DataError(f"{name}: {what}; set source.encoding to its encoding") from None
        yield data if done else data.removeprefix(BYTE_ORDER_MARK)
        done += len(piece)


def plain(content: bytes, name: str, encoding: str) -> bytes:
    """A whole text file as UTF-8, without a byte order mark."""
    encoding = encoding_of(content, name) if encoding == AUTO else encoding
    return b"".join([content] if encoding == UTF8 else as_utf8([content], encoding, name)).removeprefix(BYTE_ORDER_MARK)


def dialect_of(sample: bytes, expected: Dialect, *, fixed: bool, whole: bool, known: Dialect | None = None) -> Dialect:
    """The dialect of a file from its first bytes (all bytes if ``whole``).

    ``known``, the dialect of the training corpus, is tried first, then ``expected``, then other delimiters unless the
    delimiter is ``fixed``. If none works, returns ``expected``.
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
    """The number of fields of every record, at least 2; 0 if it varies or a quote never closes."""
    records = list(csv_rows(sample, dialect, "sample"))
    counts = [len(fields) for _, fields in records if fields]
    used, lines = records[-1][0] if records else 0, sample.count(b"\n")
    is_closed = used == lines if whole else 2 * used >= lines
    return counts[0] if is_closed and len(counts) > 1 and 1 < min(counts) == max(counts) else 0
