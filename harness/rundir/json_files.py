# SPDX-License-Identifier: Apache-2.0
"""How JSON is read back: one object from a file, or one object from each line, with one rule for what is damaged.

A process that is killed while it appends leaves a last line without an end. Such a line never counts. Anything else
that is not a JSON object is damage and raises, unless several processes append to the file: then the next writer ends
the torn line and goes on below it, so that torn lines may stand anywhere and are left out. All of it is read as a
stranger's file is (``preprocessing.base.untrusted``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import parse_json, read_bytes, read_json

Line = dict[str, Any]
MEND = "restore it, or name another run"
MOST_LINES = 1 << 30
"""Bytes of a file with one object a line: those of a run of millions of log lines."""


def read_object(path: Path, mend: str = MEND) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file. Raises ``DataError`` for a damaged one."""
    try:
        content = read_json(path, mend)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; {mend}")
    return content


@dataclass(frozen=True)
class Piece:
    """One line of a file, blank ones aside."""

    number: int
    """From 1."""
    start: int
    """Its first byte."""
    data: bytes
    """With its end, if it has one."""
    object: Line | None
    """None: it is damaged."""
    wrong: str = ""
    """In what way."""

    @property
    def is_torn(self) -> bool:
        """Whether it has no end: a process was killed while it wrote it."""
        return not self.data.endswith(b"\n")


def pieces(data: bytes) -> Iterator[Piece]:
    """The lines of a file's content, damaged ones included."""
    start, lines = 0, data.split(b"\n")
    for number, bare in enumerate(lines, 1):
        line = bare if number == len(lines) else bare + b"\n"
        if bare.strip():
            yield piece_of(number, start, line)
        start += len(line)


def piece_of(number: int, start: int, line: bytes) -> Piece:
    """What a line holds."""
    try:
        value = parse_json(line)
    except UnicodeDecodeError as error:
        return Piece(number, start, line, None, f"is not readable ({error.reason})")
    except ValueError as error:
        return Piece(number, start, line, None, f"is not JSON ({error})")
    if not isinstance(value, dict):
        return Piece(number, start, line, None, "is no JSON object")
    return Piece(number, start, line, value)


def read_lines(path: Path, *, several_writers: bool = False) -> list[Line]:
    """The objects of a file with one JSON object a line, in order; none where there is no such file.

    ``several_writers`` leaves out every torn line, not only the last one. Raises ``DataError`` that names the line.
    """
    try:
        data = read_bytes(path, MOST_LINES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {MEND}") from None
    lines = []
    for piece in pieces(data):
        if piece.object is not None:
            lines.append(piece.object)
        elif not several_writers and not piece.is_torn:
            raise DataError(f"{path}: line {piece.number} {piece.wrong}; remove it, or restore the file")
    return lines
