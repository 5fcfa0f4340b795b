# SPDX-License-Identifier: Apache-2.0
"""What an observer asks of a tracker, answered by any of Accelerate's trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.config import flat
from harness.rundir.layout import tracker_folder
from harness.tracking.journal import Journal
from harness.tracking.wire import Wire


class AccelerateTracker:
    """Any tracker that Accelerate knows, through Accelerate's own class for it."""

    def __init__(self, name: str, run: Path, spec: dict[str, Any], journal: Journal, wire: Wire) -> None:
        """``spec`` is the first line that the trainer wrote; ``wire`` takes what the trainer is to print."""
        self.name, self.run, self.spec, self.journal, self.wire = name, run, spec, journal, wire

    def start(self) -> str:
        """Begin, under the run's name where the tracker takes one; a sentence on where to look."""
        self.tracker = self._make({"trackio": {"name": self.spec["name"], "resume": "allow"}}.get(self.name, {}))
        self.tracker.store_init_configuration(showable({**self.spec["config"], **self.spec["facts"]}))
        return f"project {self.spec['project']}"

    def _make(self, options: dict[str, Any]) -> Any:
        """Accelerate's tracker, started. It asks PartialState for its rank: alone, on the CPU, without a group."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)
        kind = LOGGER_TYPE_TO_CLASS[self.name]
        folder = [str(tracker_folder(self.run, self.name))] if kind.requires_logging_directory else []
        tracker = kind(self.spec["project"], *folder, **options)
        tracker.start()
        return tracker

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Tell the numbers of one row, at its own step."""
        step = values.get("step")
        rows = {f"{kind}/{key}": value for key, value in values.items() if key != "step" and is_number(value)}
        self.tracker.log(rows, step=step)

    def alert(self, title: str, text: str) -> None:
        """Tell people, which no tracker of Accelerate can."""

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Take figures of the whole run, for which no tracker of Accelerate has a place."""

    def close(self, state: str, reason: str) -> None:
        """Finish as ``state``: finished, preempted, failed or crashed, for the sentence ``reason``."""
        self.tracker.finish()


def is_number(value: Any) -> bool:
    """Whether a chart can show it."""
    return isinstance(value, int | float)


def showable(values: dict[str, Any]) -> dict[str, Any]:
    """Settings under dotted keys, as most trackers want them; lists and None as text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat(values).items()
    }
