# SPDX-License-Identifier: Apache-2.0
"""Reads JSON files: one object per file, or one object per line, with one rule for damage.

A file that only padless changes is sealed: its last key is the sha256 of the others. A process that is killed while it
appends leaves an incomplete last line, which is ignored. Any other line that is not a JSON object raises ``DataError``.
All files are read as untrusted (``padless.core.untrusted``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from padless.core import atomic
from padless.core.errors import DataError
from padless.core.untrusted import parse_json, quote_value, read_bytes, read_json

Line = dict[str, Any]
RESTORE = "restore it, or name another run"
SEAL = "sha256"
FileName = Annotated[str, Meta(pattern=r"^\w[\w.-]*\Z")]
"""In an index: it leads nowhere else."""
MAX_LINES_BYTES = 1 << 30
"""Maximum bytes of a file with one object per line: millions of log lines."""


def read_object(path: Path, advice: str = RESTORE) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file. Raises ``DataError`` for a damaged one."""
    try:
        content = read_json(path, advice)
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds no JSON object; {advice}")
    return content


def seal_of(content: Mapping[str, Any]) -> str:
    """The sha256 of ``content``, which a sealed file holds besides its content."""
    return hashlib.sha256(atomic.canonical_json(dict(content))).hexdigest()


def write_sealed(path: Path, kind: tuple[str, int], content: Mapping[str, Any]) -> None:
    """Write a sealed file of a ``kind``, its format and version; values are plain and finite. Raises ``OSError``."""
    content = {"format": kind[0], "format_version": kind[1], **content}
    atomic.write_json(path, {**content, SEAL: seal_of(content)})


def read_sealed(path: Path, kind: tuple[str, int], advice: str) -> dict[str, Any] | None:
    """The content of a sealed file without format and seal; None where there is no such file. Raises ``DataError``."""
    content = read_object(path, advice)
    if content is None:
        return None
    if content.get("format") != kind[0]:
        raise DataError(f"{path}: not a {kind[0]} file; {advice}")
    version = content.get("format_version")
    if version != kind[1]:
        raise DataError(f"{path}: {kind[0]} {quote_value(version)}, this padless reads {kind[0]} {kind[1]}; {advice}")
    if content.pop(SEAL, None) != seal_of(content):
        raise DataError(f"{path}: its content does not match its sha256: edited or damaged; {advice}")
    return {name: value for name, value in content.items() if name not in ("format", "format_version")}


def read_lines(path: Path) -> list[Line]:
    """The objects of a file with one JSON object per line, in order; empty if there is no such file.

    Raises ``DataError``, which names the line.
    """
    try:
        data = read_bytes(path, MAX_LINES_BYTES)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror}); {RESTORE}") from None
    lines = data.split(b"\n")[:-1]  # text after the last newline is incomplete
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                objects.append({**parse_json(line)})
        except (ValueError, TypeError) as error:
            problem = f"line {number} is not JSON ({error})"
            raise DataError(f"{path}: {problem}; remove it, or restore the file") from None
    return objects
