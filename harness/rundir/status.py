# SPDX-License-Identifier: Apache-2.0
"""Where a run stands (``status.json``), and every time it was started (``attempts.jsonl``)."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any, Literal

from harness.rundir.json_files import Line, read_lines, read_object
from harness.rundir.layout import ATTEMPTS, STATUS
from harness.rundir.storage import storage
from preprocessing.base import atomic

LAUNCH_ID = "PADLESS_LAUNCH_ID"
"""Environment variable that marks a launch: it is copied into the status, so a launcher knows its own run's."""

State = Literal["running", "finished", "preempted", "failed"]


def write_status(run: str | Path, state: State, *, step: int = 0, exit_code: int = 0, reason: str = "") -> None:
    """Say where the run stands. Rank 0 alone calls this. Raises ``StorageError``."""
    content = {"state": state, "exit_code": exit_code, "reason": reason, "step": step}
    with storage(Path(run, STATUS)):
        atomic.write_json(Path(run, STATUS), {**content, "launch": os.environ.get(LAUNCH_ID)})


def read_status(run: str | Path) -> dict[str, Any] | None:
    """The status of a run, or None where there is none. Raises ``DataError`` for a damaged one."""
    return read_object(Path(run, STATUS))


def note_attempt(run: str | Path, facts: dict[str, Any]) -> int:
    """Append a line to ``attempts.jsonl``; the attempt's number, from 1. Raises ``StorageError``."""
    path = Path(run, ATTEMPTS)
    with storage(path):
        number = 1 + (path.read_text(encoding="utf-8").count("\n") if path.exists() else 0)
        line = {"attempt": number, "started": time.time(), "host": platform.node(), **facts}
        atomic.append_line(path, json.dumps(line))
    return number


def read_attempts(run: str | Path) -> list[Line]:
    """One line for each start of a run, oldest first. Raises ``DataError``."""
    return read_lines(Path(run, ATTEMPTS))
