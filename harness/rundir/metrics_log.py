# SPDX-License-Identifier: Apache-2.0
"""``metrics.jsonl`` and ``throughput.jsonl``: one JSON object a line, flushed line by line.

What was learned goes to the first file and is a function of the run alone: after any number of kills and resumes its
bytes are those of a run that was never interrupted (law 6). How fast it went is never the same twice and goes to the
second. Both are cut back to what a checkpoint had seen before a resumed run appends to them.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.rundir.layout import METRICS, THROUGHPUT, storage

FILES = (METRICS, THROUGHPUT)


class MetricsLog:
    """What is in the files has happened, whatever dies next."""

    def __init__(self, run: Path, keep: Mapping[str, int] | None = None) -> None:
        """Open both files of ``run``, cut back to ``keep[name]`` bytes; to nothing for a run that begins."""
        self.run = run
        self.files = {}
        with storage(run):
            for name in FILES:
                file = open(run / name, "ab", buffering=0)  # noqa: SIM115 - held for as long as the run
                size = (keep or {}).get(name, 0)
                if os.fstat(file.fileno()).st_size > size:
                    file.truncate(size)
                self.files[name] = file

    def write(self, kind: str, values: Mapping[str, Any], name: str = METRICS) -> None:
        """Append a line; a number that JSON cannot hold is written as a string, never as an invalid token."""
        line = json.dumps({"kind": kind, **{key: jsonable(value) for key, value in values.items()}}) + "\n"
        file = self.files[name]
        with storage(self.run / name):
            before = os.fstat(file.fileno()).st_size
            if file.write(data := line.encode()) != len(data):  # the disk filled up in mid-line
                file.truncate(before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sizes(self) -> dict[str, int]:
        """Bytes of each file: where a run that resumes from this moment goes on."""
        return {name: os.fstat(file.fileno()).st_size for name, file in self.files.items()}

    def sync(self) -> None:
        """Flush both files to the disk, so that no checkpoint knows of lines that a power cut takes away."""
        for file in self.files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()


def jsonable(value: Any) -> Any:
    """``value``, with nan and infinities spelt as strings: hidden neither in the file nor as a broken line."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
