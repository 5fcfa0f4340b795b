# SPDX-License-Identifier: Apache-2.0
"""In which encoding a text file is written, and its bytes as UTF-8.

A file that is valid UTF-8 is UTF-8. One that is not may be UTF-16 or UTF-32, as its byte order mark or its zero bytes
tell, or Windows-1252, which is Latin-1 with curly quotes. Other encodings of one byte a letter cannot be told from that
one by their bytes alone, so what does not look like a Western European language is refused.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses

UTF8, LATIN = "utf-8", "windows-1252"
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, the longer first, since one begins with the other."""
MOST_HIGH = 0.3
"""Share of letters beyond ASCII that no Western European language reaches."""
SYMBOL_IN_WORD = re.compile(rb"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb3\xb5\xb6\xb8\xb9\xbb-\xbf\xd7\xf7](?=[A-Za-z])")
"""What Windows-1252 reads as a sign though it stands within a word, as letters of Polish or Czech encodings do."""
SIGNS = re.compile(rb"[\x80\x82\x84\x85\x91-\x97\xa0\xab\xbb]")
"""Quotation marks, dashes and the like of Windows-1252: no letters."""
C1 = "padless.c1"
codecs.register_error(C1, lambda error: (chr(error.object[error.start]), error.start + 1))  # type: ignore[attr-defined]


def recognised(sample: bytes, name: str) -> str:
    """The encoding of a file from its first bytes. Raises ``DataError`` for bytes of none that can be told."""
    for mark, encoding in MARKS:
        if sample.startswith(mark):
            return encoding
    wide = without_mark(sample)
    if wide:
        return wide
    if is_utf8(sample):
        return UTF8
    good, bad = sequences(sample)
    if 20 * good > bad:
        return UTF8  # damaged in some places; the reader names the first of them
    letters, signs = len(re.findall(rb"[A-Za-z]", sample)), len(SIGNS.findall(sample))
    symbols = len(SYMBOL_IN_WORD.findall(sample))
    if bad - signs > MOST_HIGH * (letters + bad - signs) or 20 * symbols > bad:
        raise DataError(
            f"{name}: its bytes are neither UTF-8 nor Latin-1; set source.encoding, "
            "for example cp1250, cp1251, shift_jis or gb18030"
        )
    return LATIN


def without_mark(sample: bytes) -> str | None:
    """UTF-16 by its zero bytes: the upper half of nearly every ASCII character, and never the lower."""
    zero = np.frombuffer(sample[: len(sample) // 2 * 2], np.uint8).reshape(-1, 2) == 0
    first, second = int(zero[:, 0].sum()), int(zero[:, 1].sum())
    if max(first, second) <= 10 * min(first, second) or max(first, second) * 20 < len(zero):
        return None
    return "utf-16-le" if second > first else "utf-16-be"


def is_utf8(sample: bytes) -> bool:
    """Whether bytes are the beginning of a text in UTF-8; its last character may be cut."""
    try:
        codecs.getincrementaldecoder(UTF8)().decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def sequences(sample: bytes) -> tuple[int, int]:
    """How many characters beyond ASCII are valid UTF-8, and how many bytes beyond ASCII belong to none."""
    valid = [character for character in sample.decode(UTF8, "ignore") if character > "\x7f"]
    high = int((np.frombuffer(sample, np.uint8) > 0x7F).sum())
    return len(valid), high - len("".join(valid).encode())


def decoder_of(encoding: str) -> codecs.IncrementalDecoder:
    """What turns bytes into text. Windows-1252 keeps the five bytes that it has no sign for, as browsers do."""
    return codecs.getincrementaldecoder(encoding)(C1 if encoding == LATIN else "strict")


def as_utf8(pieces: Iterable[bytes], encoding: str, name: str, *, whole: bool = True) -> Iterator[bytes]:
    """A stream in any encoding as UTF-8, without a byte order mark. Raises ``DataError`` for bytes it has no sign for.

    If it is not ``whole``, a character at its end may be cut.
    """
    decoder, done, first = decoder_of(encoding), 0, True
    for piece, last in ending(pieces):
        try:
            text = decoder.decode(piece, last and whole)
            if first and text:
                text, first = text.removeprefix("\ufeff"), False
            converted = text.encode()
        except UnicodeError as error:
            at = done + max(getattr(error, "start", 0), 0)
            what = f"near byte {at:,} it is not {encoding} ({addresses.sentence(error)})"
            raise DataError(f"{name}: {what}; set source.encoding to what it is written in") from None
        done += len(piece)
        yield converted


def ending(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each piece and False; then nothing and True, at which a decoder refuses what is left half read."""
    for piece in pieces:
        yield piece, False
    yield b"", True


def example(sample: bytes, encoding: str) -> str | None:
    """The first word with a letter beyond ASCII, so that a reader sees whether the encoding is the right one."""
    found = re.search(r"\w*[^\W\x00-\x7f]\w*", decoder_of(encoding).decode(sample))
    return found[0][:30] if found else None
