# SPDX-License-Identifier: Apache-2.0
"""``night.jsonl``: what tests of hours have counted, over as many sittings as it takes.

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
    """What a test has counted so far; a line that a stop has cut off is no line."""
    found = TALLY.read_bytes().split(b"\n")[:-1] if TALLY.exists() else []
    return [line for line in map(json.loads, found) if (line["test"], line["event"]) == (test, event)]


def append(test: str, event: str, **figures: object) -> None:
    """One more line, on the disk when this returns; what a stop has cut off before it goes."""
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
    """Of the whole test, whatever is edited meanwhile."""
    return run_command(["git", "describe", "--always", "--dirty"], 30, {}).stdout.strip()


def folder_of(test: str) -> Path:
    """Where a test keeps what belongs to this revision."""
    return TALLY.parent / "night" / test / revision()
