# SPDX-License-Identifier: Apache-2.0
"""What the first bytes of a CSV or JSON lines file tell of the rest: its encoding, its line ends, its dialect.

Lines end at a newline, with or without a carriage return before it, and nowhere else. Files of old Macs, which have
carriage returns alone, are read as if those were newlines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from preprocessing.corpus import dialects, encodings
from preprocessing.corpus.records import Dialect

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SAMPLE_BYTES = 1 << 20
"""How much of a file is looked at."""


@dataclass(frozen=True)
class Form:
    """How the bytes of a file become records."""

    dialect: Dialect
    encoding: str = encodings.UTF8
    returns: bool = False
    """Whether lines end at carriage returns alone."""
    mark: int = 0
    """Bytes of a byte order mark, which are no part of the first record; 0 where the file is converted."""

    @property
    def is_plain(self) -> bool:
        """Whether the file is read as it lies; others are converted to UTF-8 with newlines first."""
        return self.encoding == encodings.UTF8 and not self.returns


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
    if encoding == "auto":
        encoding = encodings.recognised(sample, name)
    if encoding != encodings.UTF8:
        sample = b"".join(encodings.as_utf8([sample], encoding, name, whole=whole))
    mark = len(BYTE_ORDER_MARK) if sample.startswith(BYTE_ORDER_MARK) else 0
    sample = sample[mark:]
    returns = ends_at_returns(sample)
    sample = sample.replace(b"\r", b"\n") if returns else sample
    dialect = expected
    if is_csv:
        dialect = dialects.recognised(sample, expected, fixed=fixed, whole=whole, known=known)
    return Form(dialect, encoding, returns, mark if encoding == encodings.UTF8 and not returns else 0)


def ends_at_returns(sample: bytes) -> bool:
    """Whether there are carriage returns and no newline, quoted fields aside."""
    if b"\r" not in sample:
        return False
    outside = re.sub(rb'"[^"]*"', b"", sample) if b"\n" in sample else sample
    return b"\r" in outside and b"\n" not in outside


def converted(pieces: Iterable[bytes], form: Form, name: str) -> Iterator[bytes]:
    """The content of a file as UTF-8 whose lines end at newlines."""
    yield from pieces if form.is_plain else changed(pieces, form, name)


def changed(pieces: Iterable[bytes], form: Form, name: str) -> Iterator[bytes]:
    """What ``converted`` gives of a file that does not lie like that."""
    for piece in encodings.as_utf8(pieces, form.encoding, name):
        yield piece.replace(b"\r", b"\n") if form.returns else piece


def recorded(form: Form, expected: Dialect) -> dict[str, Any]:
    """What a manifest says of a form, as far as it is not what the name and the configuration tell."""
    names = ("delimiter", "quote", "escape")
    found = {name: getattr(form.dialect, name) for name in names}
    found = {name: value for name, value in found.items() if value != getattr(expected, name)}
    found |= {"encoding": form.encoding} if form.encoding != encodings.UTF8 else {}
    return found | ({"line_end": "\r"} if form.returns else {})


def in_words(form: Form, expected: Dialect, first: bytes = b"") -> list[str]:
    """How a file differs from UTF-8 with newlines and the expected dialect; ``first`` are its first bytes."""
    said = dialects.in_words(form.dialect, expected)
    if form.encoding != encodings.UTF8:
        word = encodings.example(first[:SAMPLE_BYTES], form.encoding)
        said.append(f"it is read as {form.encoding}" + (f" ({word!r})" if word else ""))
    if form.returns:
        said.append("lines end at carriage returns")
    return said
