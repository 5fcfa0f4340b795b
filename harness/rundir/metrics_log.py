# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl`` and ``throughput.jsonl``: one JSON object a line, flushed line by line.

The first file has metrics. After any number of kills and resumes its bytes are those of an uninterrupted run (law 6).
The second file has speeds and times, which differ from run to run. Before a resumed run appends to them, both are
truncated to their sizes at the time of its checkpoint, which has their hashes too.

A line has a ``kind`` (train, validation or test) and a ``step``. NaN and infinities are written as strings, and read
back as numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.rundir.json_files import MAX_LINES_BYTES, Line, read_lines
from harness.rundir.layout import METRICS, THROUGHPUT, members, storage
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.split_names import TEST, VALIDATION
from padless.core.terminal import print_stderr
from padless.core.untrusted import read_bytes

if TYPE_CHECKING:
    import pandas as pd

FILES = (METRICS, THROUGHPUT)
KINDS = ("train", VALIDATION, TEST)
"""Kinds of lines."""
NON_FINITE = ("nan", "inf", "-inf")


class MetricsLog:
    """Appends to both files. A written line survives a kill of the process."""

    def __init__(self, run: Path, state: Mapping[str, Any]) -> None:
        """Truncate both files of ``run`` to what a checkpoint says (``state``); of a new run it is empty.

        A file that its user has moved away starts empty. Raises ``DataError`` for a file that has fewer bytes or
        others, and for anything but a file.
        """
        self.run = run
        self.hash_by_name = {name: hashlib.sha256() for name in FILES}
        for name in FILES:
            path, size, data = run / name, state.get("log_bytes", {}).get(name, 0), b""
            with storage(path):
                if os.path.lexists(path):
                    data = read_bytes(path, MAX_LINES_BYTES)[:size]
                elif size:
                    print_stderr(f"warning: {path}: gone; it goes on without the lines up to the checkpoint")
                    size = 0
                self.hash_by_name[name].update(data)
                sha256 = self.hash_by_name[name].hexdigest()
                if size and state.get("log_sha256", {}).get(name, sha256) != sha256:
                    raise DataError(
                        f"{path}: its first {size:,} bytes are not those recorded in the checkpoint: truncated, "
                        "damaged, or another run's; restore it, or move it away to go on without these lines"
                    )
                atomic.write_bytes(path, data)

    def write(self, kind: str, values: Mapping[str, Any], name: str = METRICS) -> None:
        """Append a line to the file ``name`` atomically. Raises ``StorageError``."""
        line = {"kind": kind, **{key: jsonable(value) for key, value in values.items()}}
        with storage(self.run / name):
            self.hash_by_name[name].update(atomic.append_line(self.run / name, json.dumps(line)))

    def state(self) -> dict[str, Any]:
        """Size and hash of each file: for the checkpoint of this moment, from which a run resumes."""
        sizes = {name: (self.run / name).stat().st_size for name in FILES}
        return {"log_bytes": sizes, "log_sha256": {name: self.hash_by_name[name].hexdigest() for name in FILES}}

    def sync(self) -> None:
        """fsync both files: a checkpoint relies on its lines, also after a power cut."""
        for name in FILES:
            atomic.fsync(self.run / name)


def read_log(run: str | Path, name: str = METRICS) -> list[Line]:
    """The lines of ``metrics.jsonl``, or of ``throughput.jsonl``, in order, with numbers as numbers.

    None where there is no such file. Raises ``DataError`` for a damaged line.
    """
    lines = read_lines(Path(run, name))
    for number, line in enumerate(lines, 1):
        if not {"kind", "step"} <= line.keys():
            raise DataError(f"{Path(run, name)}: line {number} has no kind or no step; remove it, or restore the file")
    return [{key: float(value) if value in NON_FINITE else value for key, value in line.items()} for line in lines]


def jsonable(value: Any) -> Any:
    """``value`` with NaN and infinities as strings: JSON has no token for them, and null would hide them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(run: str | Path, kind: str | None = None) -> pd.DataFrame:
    """The log of a run so far: a row for each line of ``metrics.jsonl``, and a column for each metric.

    ``kind`` selects ``train``, ``validation`` or ``test`` lines and their metrics; without it all lines are returned,
    with a column ``kind``, and missing metrics are NaN. For a folder of many runs, their rows are concatenated, with a
    column ``seed`` or ``fold``. Raises ``DataError`` for a missing or damaged run, or if there is no line of this
    ``kind``.
    """
    import pandas as pd

    if runs := members(run):
        frames = [read_metrics(member.path, kind) for member in runs]
        for member, frame in zip(runs, frames, strict=True):
            frame.insert(0, member.kind, member.number)
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
