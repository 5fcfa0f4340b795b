# SPDX-License-Identifier: Apache-2.0
"""What a tracker was told of a run, over all its attempts: ``RUN/tracking/NAME.jsonl``, one JSON object a line.

Lines are only ever added. Several processes may write at once without undoing one another: an observer that outlives
its trainer, the observer of the next attempt, and a sync from a login node.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from harness.rundir.json_files import MOST_LINES, read_lines
from harness.rundir.layout import tracker_journal
from preprocessing.base.schema import Count, fits
from preprocessing.base.untrusted import read_bytes


class Kept(TypedDict):
    kept: dict[str, Annotated[int, Meta(ge=-1)]]


class Sent(TypedDict):
    sent: str
    rows: Count


class RunId(TypedDict):
    run_id: str


class Finished(TypedDict):
    finished: str


TOLD = {"kept": Kept, "run_id": RunId, "finished": Finished, "sent": Sent}
"""What a line may tell."""


def is_entry(line: dict[str, Any]) -> bool:
    """Whether all that a line tells is what a tracker would have told: another hand's line is as good as a torn one."""
    return all(fits(entry, line) for name, entry in TOLD.items() if name in line)


class Journal:
    """The file of one tracker of one run."""

    def __init__(self, run: Path, name: str) -> None:
        """Read what earlier attempts wrote; a line that a kill has cut off is left out."""
        self.path = tracker_journal(run, name)
        self.entries: list[dict[str, Any]] = [
            line for line in read_lines(self.path, several_writers=True) if is_entry(line)
        ]
        self.before: dict[str, int] = {}
        for kind, step in (item for entry in self.entries for item in entry.get("kept", {}).items()):
            self.before[kind] = max(step, self.before.get(kind, -1))
        self.told: dict[str, int] = {}

    def note(self, **entry: Any) -> None:
        """Add a line, and see that it is on the disk."""
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab") as file:
            torn = file.tell() and not read_bytes(self.path, MOST_LINES).endswith(b"\n")
            file.write((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(entry)

    def is_new(self, kind: str, values: dict[str, Any]) -> bool:
        """Whether this row was not told by an attempt whose tracker finished in order; remembers it.

        A resumed run logs the steps since its checkpoint again, bit for bit: those are not told twice.
        """
        step = int(values.get("step") or 0)
        if step <= self.before.get(kind, -1):
            return False
        self.told[kind] = max(step, self.told.get(kind, -1))
        return True

    def commit(self) -> None:
        """The tracker has finished in order: all that it was told has arrived."""
        self.note(kept=self.before | self.told)

    @property
    def run_id(self) -> str | None:
        """The id that the tracker knows the run by."""
        return next((str(entry["run_id"]) for entry in reversed(self.entries) if "run_id" in entry), None)

    @property
    def finished(self) -> set[str]:
        """Folders of the attempts whose tracker finished in order."""
        return {str(entry["finished"]) for entry in self.entries if "finished" in entry}

    @property
    def sent(self) -> dict[str, int]:
        """Folder of an attempt that was offline -> how many of its rows were sent since."""
        return {str(entry["sent"]): int(entry["rows"]) for entry in self.entries if "sent" in entry}
