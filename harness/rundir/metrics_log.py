# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl`` and ``throughput.jsonl``: one JSON object a line, flushed line by line.

What was learned goes to the first file. It is a function of the run alone: after any number of kills and resumes its
bytes are those of a run that was never interrupted (law 6). How fast it went is never the same twice and goes to the
second file. Before a resumed run appends to them, both are cut back to their sizes at the time of its checkpoint.

A line has a ``kind`` (train, validation or test) and a ``step``. A number that JSON cannot hold is spelt as a string,
and read back as the number.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.rundir.json_files import MOST_LINES, Line, pieces, read_lines
from harness.rundir.layout import METRICS, THROUGHPUT
from harness.rundir.storage import storage
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.typed import Count, having
from preprocessing.base.untrusted import check_regular, read_bytes, shown

FILES = (METRICS, THROUGHPUT)
SPELT = ("nan", "inf", "-inf")
TEXTS = ("kind", "row_hash", "verdict")
"""What is a text in a line; all else is a number, or nothing."""
STEP = having(step=Count)
MOST = 1e100
"""No finite figure is larger."""


class MetricsLog:
    """Appends to both files. A written line stays, even if the process is killed right after."""

    mended: list[str]
    """What was wrong with the files, a sentence for each that was not as it was left."""

    def __init__(self, run: Path, keep: Mapping[str, int] | None = None) -> None:
        """Open both files of ``run``, cut back to ``keep[name]`` bytes; to nothing for a run that begins.

        Of a damaged file the whole lines among those bytes are kept. Raises ``DataError`` for what is no file.
        """
        self.run = run
        self.files = {}
        with storage(run):
            found = [mend(run / name, (keep or {}).get(name, 0)) for name in FILES]
            self.mended = [sentence for sentence in found if sentence]
            for name in FILES:
                file = open(run / name, "ab", buffering=0)  # noqa: SIM115 - held for as long as the run
                size = (keep or {}).get(name, 0)
                if os.fstat(file.fileno()).st_size > size:
                    file.truncate(size)
                self.files[name] = file

    def write(self, kind: str, values: Mapping[str, Any], name: str = METRICS) -> None:
        """Append a line to the file ``name``, whole or not at all. Raises ``StorageError``."""
        line = json.dumps({"kind": kind, **{key: jsonable(value) for key, value in values.items()}}) + "\n"
        file = self.files[name]
        with storage(self.run / name):
            before = os.fstat(file.fileno()).st_size
            if file.write(data := line.encode()) != len(data):  # the disk filled up in mid-line
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file: what ``keep`` must be for a run that resumes from this moment."""
        return {name: os.fstat(file.fileno()).st_size for name, file in self.files.items()}

    def sync(self) -> None:
        """Flush both files to the disk: a checkpoint counts on its lines, and a power cut must not take them away."""
        for file in self.files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()


def mend(path: Path, size: int) -> str:
    """Leave out what is damaged in the first ``size`` bytes of a file; what was, or nothing. Raises ``OSError``."""
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, path.stat().st_mode)
    if not size:
        return ""
    data = read_bytes(path, MOST_LINES)[:size] if path.exists() else b""
    there = list(pieces(data))
    whole = [piece for piece in there if piece.object is not None and not piece.is_torn and not damage(piece.object)]
    if len(data) == size and len(whole) == len(there):
        return ""
    atomic.write_bytes(path, b"".join(piece.data for piece in whole))
    lost = f"{size - len(data):,} bytes at its end are gone" if len(data) < size else ""
    left = f"{len(there) - len(whole):,} damaged lines are left out" if len(whole) < len(there) else ""
    return f"{path}: damaged: {' and '.join(filter(None, (left, lost)))}; its {len(whole):,} whole lines are kept"


def damage(line: Line) -> str:
    """Why a line is none of ours, whatever a damaged disk or another hand made of it; empty for one that is."""
    if not isinstance(line.get("kind"), str):
        return "has no kind"
    if not STEP.holds(line):
        return "has no step"
    for name, value in line.items():
        number = number_of(value)
        is_number = number is None or (isinstance(number, int | float) and not MOST < abs(number) < math.inf)
        if not is_number and not (name in TEXTS and isinstance(value, str)):
            return f"has {shown(value)} under {shown(name)}"
    return ""


def read_metrics(run: str | Path) -> list[Line]:
    """The lines of ``metrics.jsonl``, in order; none where there is no such file. Raises ``DataError``."""
    return read_log(Path(run, METRICS))


def read_throughput(run: str | Path) -> list[Line]:
    """The lines of ``throughput.jsonl``, in order; none where there is no such file. Raises ``DataError``."""
    return read_log(Path(run, THROUGHPUT))


def read_log(path: Path) -> list[Line]:
    """The lines of one of the two files, with every number a number again."""
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if wrong := damage(line):
            raise DataError(f"{path}: line {number} {wrong}; remove it, or restore the file")
    return [{key: number_of(value) for key, value in line.items()} for line in lines]


def jsonable(value: Any) -> Any:
    """``value``, with nan and infinities spelt as strings: JSON has no token for them, and null would hide them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def number_of(value: Any) -> Any:
    """What ``jsonable`` was given: strings that stand for numbers become numbers again."""
    return float(value) if isinstance(value, str) and value in SPELT else value
