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
from typing import TYPE_CHECKING, Any, TypedDict

from harness.rundir.json_files import MOST_LINES, Line, parse_line, read_lines
from harness.rundir.layout import METRICS, THROUGHPUT, members, storage
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.schema import Count, fits
from preprocessing.base.untrusted import check_regular, read_bytes, shown

if TYPE_CHECKING:
    import pandas as pd

FILES = (METRICS, THROUGHPUT)
SPELT = ("nan", "inf", "-inf")
TEXTS = ("kind", "row_hash", "verdict")
"""What is a text in a line; all else is a number, or nothing."""


class MetricsLog:
    """Appends to both files. A written line stays, even if the process is killed right after."""

    mended: list[str]
    """What was wrong with the files, a sentence for each that was not as it was left."""

    def __init__(self, run: Path, keep: Mapping[str, int] | None = None) -> None:
        """Open both files of ``run``, cut back to ``keep[name]`` bytes; to nothing for a run that begins.

        Of a damaged file the whole lines among those bytes are kept. Raises ``DataError`` for what is no file.
        """
        self.run, self.files = run, {}
        sizes = {name: (keep or {}).get(name, 0) for name in FILES}
        with storage(run):
            self.mended = [sentence for name in FILES if (sentence := mend(run / name, sizes[name]))]
            for name in FILES:
                file = open(run / name, "ab", buffering=0)  # noqa: SIM115 - held for as long as the run
                file.truncate(min(sizes[name], os.fstat(file.fileno()).st_size))
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
    lines = data.splitlines(keepends=True)
    whole = [line for line in lines if parse_row(line) is not None]
    if len(data) == size and len(whole) == len(lines):
        return ""
    atomic.write_bytes(path, b"".join(whole))
    return f"{path}: damaged: {size:,} bytes were written; the {len(whole):,} whole lines among them are kept"


def parse_row(line: bytes) -> Line | None:
    """A line with every number a number again; None for one that is none of ours, or has no end."""
    try:
        row = parse_line(line) if line.endswith(b"\n") else {}
    except ValueError:
        return None
    return None if damage(row) else numbers_of_line(row)


def numbers_of_line(line: Line) -> Line:
    """What was written as the line."""
    return {key: number_of(value) for key, value in line.items()}


def damage(line: Line) -> str:
    """Why a line is none of ours; empty for one that is."""
    if not fits(LogLine, line):
        return "has no kind or no step"
    for name, value in line.items():
        if not isinstance(number_of(value), int | float | None) and not (name in TEXTS and isinstance(value, str)):
            return f"has {shown(value)} under {shown(name)}"
    return ""


class LogLine(TypedDict):
    """What every line has."""

    kind: str
    step: Count


def read_log(run: str | Path, name: str = METRICS) -> list[Line]:
    """The lines of ``metrics.jsonl``, or of ``throughput.jsonl``, in order, with every number a number again.

    None where there is no such file. Raises ``DataError`` for a damaged line.
    """
    path = Path(run, name)
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if wrong := damage(line):
            raise DataError(f"{path}: line {number} {wrong}; remove it, or restore the file")
    return [numbers_of_line(line) for line in lines]


def jsonable(value: Any) -> Any:
    """``value``, with nan and infinities spelt as strings: JSON has no token for them, and null would hide them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def number_of(value: Any) -> Any:
    """What ``jsonable`` was given: strings that stand for numbers become numbers again."""
    return float(value) if isinstance(value, str) and value in SPELT else value


def read_metrics(run: str | Path, kind: str | None = None) -> pd.DataFrame:
    """What a run has logged so far: a row for each line of ``metrics.jsonl``, and a column for each figure.

    ``kind`` picks ``train``, ``validation`` or ``test`` lines, and with them the figures that these have; otherwise the
    column ``kind`` tells them apart, and a figure that a line does not have is missing. The runs of a folder of many
    stand one below the other, with a column ``seed`` or ``fold`` that tells which. Raises ``DataError`` where
    there is no run, or a damaged one, or nothing of this ``kind``.
    """
    import pandas as pd

    if runs := members(run):
        frames = [read_metrics(one.path, kind) for one in runs]
        for one, frame in zip(runs, frames, strict=True):
            frame.insert(0, one.kind, one.number)
        return pd.concat(frames, ignore_index=True)
    path = Path(run, METRICS)
    if not path.is_file():
        raise DataError(f"{path}: missing: {run} is not a run directory, or its training has not begun")
    lines = read_log(run)
    if kind is not None:
        kinds = dict.fromkeys(str(line["kind"]) for line in lines)
        lines = [line for line in lines if line["kind"] == kind]
        if not lines:
            raise DataError(f"{path}: has no line of the kind {kind!r}; it has {', '.join(kinds) or 'no lines yet'}")
    return pd.DataFrame(lines)
