# SPDX-License-Identifier: Apache-2.0
"""Where a run stands (``status.json``), and every time it was started (``attempts.jsonl``)."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.rundir.checkpoint import steps
from harness.rundir.json_files import MOST_LINES, Line, pieces, read_lines, read_object
from harness.rundir.layout import ATTEMPTS, STATUS
from harness.rundir.storage import storage
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.printable import public
from preprocessing.base.typed import Between, Count, having, typed
from preprocessing.base.untrusted import read_bytes

LAUNCH_ID = "PADLESS_LAUNCH_ID"
"""Environment variable that marks a launch: it is copied into the status, so a launcher knows its own run's."""

REBUILD = "start the run again, which rebuilds it"
STARTED = having(started=Annotated[float, Between(0, 1e11)])
"""Seconds since 1970 that are a date."""
State = Literal["running", "finished", "preempted", "failed"]


def write_status(run: str | Path, state: State, *, step: int = 0, exit_code: int = 0, reason: str = "") -> None:
    """Say where the run stands. Rank 0 alone calls this. Raises ``StorageError``."""
    told = public(reason).encode("utf-8", "backslashreplace").decode()  # it may name a file whose name is no text
    content = {"state": state, "exit_code": exit_code, "reason": told, "step": step}
    with storage(Path(run, STATUS)):
        atomic.write_json(Path(run, STATUS), {**content, "launch": os.environ.get(LAUNCH_ID)})


@dataclass(frozen=True)
class Status:
    """``status.json``."""

    state: State
    exit_code: Annotated[int, Between(-255, 255)] = 0
    reason: str = ""
    step: Count = 0
    launch: str | None = None


def read_status(run: str | Path) -> dict[str, Any] | None:
    """The status of a run, or None where there is none. Raises ``DataError`` for a damaged one."""
    path = Path(run, STATUS)
    content = read_object(path, REBUILD)
    return None if content is None else asdict(typed(Status, content, str(path), REBUILD))


def rebuilt(run: str | Path, damage: DataError) -> dict[str, Any]:
    """What is known of a run whose status is damaged: the step of its newest checkpoint, and that it did not end well.

    A run that had ended goes on from its last checkpoint, which has nothing left to train, and ends again.
    """
    step = max(steps(run), default=0)
    return asdict(Status("failed", 1, f"{STATUS} was damaged ({damage}); rebuilt from the checkpoints", step))


def known_status(run: str | Path, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The status of a run: empty where there is none, what can be known of it where it is damaged, which ``say`` hears.

    Whoever trains writes it anew. Raises ``DataError`` where a directory is in its place, which nobody replaces.
    """
    try:
        return read_status(run) or {}
    except DataError as damage:
        if Path(run, STATUS).is_dir():
            raise
        found = rebuilt(run, damage)
        say(f"damaged status: {damage}; the newest checkpoint is that of step {found['step']:,}")
        return found


def note_attempt(run: str | Path, facts: dict[str, Any]) -> int:
    """Append a line to ``attempts.jsonl``; the attempt's number, from 1. Raises ``StorageError``."""
    path = Path(run, ATTEMPTS)
    with storage(path):
        before = read_bytes(path, MOST_LINES) if path.exists() else b""
        number = 1 + sum(1 for _ in pieces(before))
        line = {"attempt": number, "started": time.time(), "host": platform.node(), **facts}
        atomic.append_line(path, json.dumps(line))
    return number


def read_attempts(run: str | Path) -> list[Line]:
    """One line for each start of a run, oldest first; a line that a kill has cut off is left out."""
    lines = read_lines(Path(run, ATTEMPTS), several_writers=True)
    return [line for line in lines if "started" not in line or STARTED.holds(line)]
