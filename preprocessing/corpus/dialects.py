# SPDX-License-Identifier: Apache-2.0
"""Which characters tell the fields of a CSV file apart: what is configured, or what gives every record as many fields.

The expected dialect stays wherever it works on the first records. Others are tried only on a file that would be refused
with it: one whose records differ in their number of fields, or have only one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from preprocessing.corpus.records import Dialect, field_ends

DELIMITERS = (",", ";", "\t", "|")
QUICK_BYTES, SAMPLE_BYTES = 1 << 16, 1 << 18
"""How much is divided with the expected dialect, and how much with the others where that one does not work."""
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


def recognised(sample: bytes, expected: Dialect, *, fixed: bool, whole: bool, known: Dialect | None = None) -> Dialect:
    """The dialect of a file from its first bytes, which are all of it if ``whole``.

    ``known`` is that of a file like it, and goes before ``expected``. ``fixed`` holds the delimiter; quote and escape
    may still be others. Where none works, the answer is ``expected``.
    """
    for dialect in (known, expected) if known else (expected,):
        if any(fields(*beginning(sample, size, whole), dialect) for size in (QUICK_BYTES, SAMPLE_BYTES)):
            return dialect
    sample, whole = beginning(sample, SAMPLE_BYTES, whole)
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
    delimiters = [expected.delimiter, *(() if fixed else DELIMITERS)]
    for delimiter in dict.fromkeys(delimiters):
        if delimiter in (expected.quote, expected.escape):
            continue
        yield Dialect(delimiter, expected.quote, expected.escape)
        if expected.quote and expected.escape is None and f"\\{expected.quote}".encode() in sample:
            yield Dialect(delimiter, expected.quote, "\\")
        if expected.quote and delimiter == "\t":
            yield Dialect(delimiter, "", expected.escape)  # many tab-separated files never quote


def fields(sample: bytes, whole: bool, dialect: Dialect) -> int:
    """How many fields every record has, two at least; 0 where they differ, or where a quote never closes."""
    counts, rest = field_counts(sample, dialect)
    unclosed = rest > (0 if whole else len(sample) // 2)
    return counts[0] if len(counts) > 1 and counts[0] > 1 and len(set(counts)) == 1 and not unclosed else 0


def field_counts(sample: bytes, dialect: Dialect) -> tuple[list[int], int]:
    """The number of fields of each record that is not blank, and how many bytes at the end are no whole record."""
    lines = [line for line in sample.split(b"\n") if line.strip(b"\r")]
    if not dialect.quote and not dialect.escape:
        return [line.count(dialect.delimiter.encode()) + 1 for line in lines], 0
    if not dialect.quote:
        pair = re.compile(re.escape(dialect.escape or "").encode() + b".", re.DOTALL)
        return [pair.sub(b"", line).count(dialect.delimiter.encode()) + 1 for line in lines], 0
    counts, number, start = [], 0, 0
    for position, is_last in field_ends(sample, dialect):
        number += 1
        if is_last:
            if sample[start:position].strip(b"\r\n"):
                counts.append(number)
            number, start = 0, position
    return counts, len(sample) - start


def in_words(dialect: Dialect, expected: Dialect) -> list[str]:
    """How a dialect differs from the one that was expected."""
    said = []
    if dialect.delimiter != expected.delimiter:
        said.append(f"fields end at {NAMES.get(dialect.delimiter, repr(dialect.delimiter))}")
    if dialect.quote != expected.quote:
        said.append("quotes are text")
    if dialect.escape != expected.escape:
        said.append("a backslash makes the next quote text")
    return said
