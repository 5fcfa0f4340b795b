# SPDX-License-Identifier: Apache-2.0
"""Reads files from untrusted sources: regular files only, bounded size, strict JSON.

A harmful file is refused with a ``DataError``. ``padless.core.schema`` then checks types and ranges.
"""

from __future__ import annotations

import hashlib
import os
import stat
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from padless.core.errors import DataError
from padless.core.terminal import public

MOST_JSON = 64 << 20
"""Most bytes of a JSON file, unless its reader allows more."""
MOST_DEPTH = 32
"""Most levels of nested lists and objects."""
MOST_UNPACKED, MOST_RATIO = 256 << 20, 200
"""Most unpacked bytes of any file; a larger one may have 200 times its packed size. Texts are packed to a tenth."""
ADVICE_BY_SIGNATURE = {
    b"%PDF-": "a PDF; save its texts as CSV, one a row",
    b"PK\x03\x04": "a zip archive, or a document of Word or Excel; unpack it, or save its texts as CSV",
    b"\xd0\xcf\x11\xe0": "an old document of Word or Excel; save its texts as CSV, one a row",
    b"\x1f\x8b": "compressed by gzip; end its name in .gz",
    b"PAR1": "Parquet; end its name in .parquet",
}
"""First bytes of files that are no text -> what they are, and what to do."""
MOST_LISTED = 20
LONGEST_SHOWN = 60
"""Most characters of an untrusted value in a message."""


def quote_value(value: object) -> str:
    """An untrusted value for a message: short, on one line, control characters escaped."""
    text = repr(public(value) if isinstance(value, str) else value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def join_names(names: Sequence[object]) -> str:
    """Untrusted names for a message, each shortened, at most ``MOST_LISTED``."""
    more = f" and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else ""
    return (", ".join(map(quote_value, names[:MOST_LISTED])) or "none") + more


def one_line(error: BaseException) -> str:
    """An error of another library for a message: short, of whole words on one line, control characters escaped."""
    words = error.strerror if isinstance(error, OSError) else None  # without its number and the file, which is named
    text = textwrap.shorten(words or str(error), 4 * LONGEST_SHOWN, placeholder=" …") or type(error).__name__
    return text if text.isprintable() else repr(text)[1:-1]


def check_regular(path: str | Path, mode: int) -> None:
    """Raise ``DataError`` unless it is a regular file: reading others might block or never end."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: is a directory, not a file; put the file itself there")
    raise DataError(f"{path}: is a pipe or a device, not a file; write what it gives to a file, and name that")


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file. Raises ``DataError`` for another kind, ``OSError`` as ``open``."""
    check_regular(path, os.stat(path).st_mode)
    return open(path, "rb")


def read_bytes(path: str | Path, max_bytes: int) -> bytes:
    """All of a regular file of at most ``max_bytes``. Raises ``DataError`` for another, ``OSError`` as ``open``."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise DataError(
                f"{path}: {size:,} bytes, where at most {max_bytes:,} are expected: probably another kind of file"
            )
        return file.read(size)  # not what is appended meanwhile


def refuse_binary(name: str, head: bytes) -> None:
    """Raise ``DataError`` for a file that begins like one that is no text."""
    for signature, advice in ADVICE_BY_SIGNATURE.items():
        if head.startswith(signature):
            raise DataError(f"{name}: is {advice}")


def check_unpacked(name: str, unpacked: int, packed: int) -> None:
    """Raise ``DataError`` if ``packed`` bytes unpack to far more than texts do: a decompression bomb."""
    if unpacked > max(MOST_UNPACKED, MOST_RATIO * packed):
        raise DataError(
            f"{name}: its {packed:,} bytes unpack to {unpacked:,} and perhaps more, over {MOST_RATIO} times as many; "
            "if they are texts, unpack it yourself and name the unpacked file"
        )


def sha256_of(file: BinaryIO) -> str:
    """The sha256 of the rest of an open file, as hex."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def parse_json(data: bytes) -> Any:
    """Parse strict JSON in UTF-8, of at most ``MOST_DEPTH`` levels. Raises ``ValueError``.

    msgspec refuses NaN, infinities, also as ``1e999``, and half a surrogate pair.
    """
    try:
        value = msgspec.json.decode(data)
        if _depth(value) <= MOST_DEPTH:
            return value
    except RecursionError:
        pass
    raise ValueError(f"lists or objects are nested more than {MOST_DEPTH} deep")


def read_json(path: str | Path, advice: str) -> Any:
    """The value in a JSON file; ``advice``: what to do about a damaged one.

    Raises ``DataError``, and ``FileNotFoundError`` for a missing file.
    """
    try:
        return parse_json(read_bytes(path, MOST_JSON))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({one_line(error)}); {advice}") from None


def _depth(value: Any) -> int:
    parts = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth, parts), default=0) if isinstance(value, dict | list) else 0
