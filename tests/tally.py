# SPDX-License-Identifier: Apache-2.0
"""``night.jsonl``: the counts of tests that take hours, over any number of sessions.

A line is on the disk when ``append`` returns, so a tally can be stopped at any time and goes on from there. The file is
the one that ``PADLESS_NIGHT`` names, and what such tests keep lies in ``night/`` beside it.
"""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from tests.commands import ROOT, run_command

TALLY = Path(os.environ.get("PADLESS_NIGHT", ROOT / "night.jsonl"))


def lines(test: str, event: str) -> list[dict[str, Any]]:
    """What a test has counted so far; an incomplete last line is ignored."""
    found = TALLY.read_bytes().split(b"\n")[:-1] if TALLY.exists() else []
    return [line for line in map(json.loads, found) if (line["test"], line["event"]) == (test, event)]


def append(test: str, event: str, **figures: object) -> None:
    """Append a line, on the disk when this returns; an incomplete line before it is removed."""
    TALLY.parent.mkdir(parents=True, exist_ok=True)
    with TALLY.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        line = {"test": test, "event": event, "time": now, "revision": revision(), **figures}
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


@cache
def revision() -> str:
    """The revision at the start of the test, whatever is edited meanwhile."""
    return run_command(["git", "describe", "--always", "--dirty"], 30, {}).stdout.strip()


def folder_of(test: str) -> Path:
    """Where a test keeps what belongs to this revision."""
    return TALLY.parent / "night" / test / revision()
