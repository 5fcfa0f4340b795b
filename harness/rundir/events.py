# SPDX-License-Identifier: Apache-2.0
"""Events of a training on rank 0, and their receivers: console, trackers, report.

The training sends events and knows no receiver. A receiver never ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import Choice
from harness.rundir.records import Ending
from preprocessing.dataset.shards import Manifest


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A run whose checks have passed and whose parts are built, before its next step."""

    manifest: Manifest
    total_steps: int
    first_step: int
    """The step that is resumed; 0 for a new run."""
    choices: Mapping[str, Choice]
    """Settings that were chosen, each with its reason."""


class Observer:
    """A receiver of events. Ignores all events; subclasses override the ones that they handle.

    It reports its own errors, or keeps them until the run reads them.
    """

    def begin(self) -> None:
        """All checks have passed."""

    def start(self, opening: Opening) -> None:
        """The parts of the run are built; ``metrics.jsonl`` ends at the resumed step."""

    def advance(self, step: int, work: str = "") -> None:
        """``step`` is done; ``work`` names work other than steps."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Receive figures, each a number, a short text or None; ``kind`` is one of ``KINDS``."""

    def print_text(self, text: str) -> None:
        """Receive a sentence for the terminal."""

    def fact(self, name: str, text: str) -> None:
        """Receive a named sentence for the terminal."""

    def results(self, figures_by_split: Mapping[str, Mapping[str, Any]]) -> None:
        """Receive the figures of the best weights, as in ``SPLIT.json``."""

    def close(self, ending: Ending) -> None:
        """The run has ended; ``status.json`` is written already."""


def pass_on(event: str) -> Callable[..., None]:
    """A method of ``Observers`` that sends an event to every receiver."""

    def send(self: Observers, *arguments: Any) -> None:
        for receiver in self.receivers:
            getattr(receiver, event)(*arguments)

    return send


class Observers(Observer):
    """Passes each event to several receivers, in their order."""

    def __init__(self, receivers: Sequence[Observer]) -> None:
        """The first receiver closes first."""
        self.receivers = receivers

    begin = pass_on("begin")
    start = pass_on("start")
    advance = pass_on("advance")
    log = pass_on("log")
    print_text = pass_on("print_text")
    fact = pass_on("fact")
    results = pass_on("results")
    close = pass_on("close")
