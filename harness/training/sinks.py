# SPDX-License-Identifier: Apache-2.0
"""Event sinks on rank 0: console, metrics files, trackers and report receive the same events of a run.

No sink can end the run: what a sink cannot do it says itself, or keeps until the run asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from harness.ranks import stopping
from harness.ranks.stopping import Preempted
from harness.rundir import layout
from harness.rundir.metrics_log import MetricsLog
from harness.rundir.records import State
from harness.tracking.tracking import Trackers
from harness.training.throughput import TIMING
from preprocessing.base.errors import UserError


@dataclass(frozen=True)
class Ending:
    """How a run ended, as ``status.json`` says it."""

    state: State
    step: int
    exit_code: int = 0
    reason: str = ""

    @classmethod
    def of(cls, error: BaseException | None, step: int) -> Ending:
        """The ending that an exception, or none, means."""
        if error is None:
            return cls("finished", step)
        if isinstance(error, Preempted):
            return cls("preempted", step, stopping.EXIT_CODE, str(error))
        if isinstance(error, UserError):
            return cls("failed", step, error.exit_code, str(error))
        return cls("failed", step, 1, f"{type(error).__name__}: {' '.join(str(error).split())}")


class Sink:
    """A receiver of events. This one ignores all of them; a sink overrides those that it wants."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """The figures of one moment, each a number, a short text or None; ``kind`` is train, validation or test."""

    def say(self, text: str) -> None:
        """A sentence for the terminal."""

    def alert(self, title: str, text: str) -> None:
        """A message that should reach people who do not watch the terminal."""

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Figures of the whole run that belong to no step; ``name`` says whose they are."""

    def close(self, ending: Ending) -> None:
        """The run is over, and ``status.json`` says so."""


class Sinks(Sink):
    """Several sinks as one, told in their order."""

    def __init__(self, sinks: Iterable[Sink] = ()) -> None:
        """None on ranks other than 0."""
        self.sinks = list(sinks)

    def add(self, sink: Sink, *, first: bool = False) -> None:
        """Have one more hear of the run, after all others or before them."""
        self.sinks.insert(0 if first else len(self.sinks), sink)

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Tell all."""
        for sink in self.sinks:
            sink.log(kind, values)

    def say(self, text: str) -> None:
        """Tell all."""
        for sink in self.sinks:
            sink.say(text)

    def alert(self, title: str, text: str) -> None:
        """Tell all."""
        for sink in self.sinks:
            sink.alert(title, text)

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Tell all."""
        for sink in self.sinks:
            sink.summarize(name, values)

    def close(self, ending: Ending) -> None:
        """Tell all."""
        for sink in self.sinks:
            sink.close(ending)


class MetricsFiles(Sink):
    """``metrics.jsonl`` and ``throughput.jsonl``."""

    def __init__(self, log: MetricsLog) -> None:
        """Nothing has failed yet."""
        self.files = log
        self.failure: UserError | None = None
        """What could not be written; from then on nothing is."""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """A line: how fast it went to one file, then what was learned to the other, which trackers follow."""
        if self.failure is not None:
            return
        try:
            if kind == "train":
                self.files.write(kind, {key: values[key] for key in ("step", *TIMING)}, layout.THROUGHPUT)
            self.files.write(kind, {key: value for key, value in values.items() if key not in TIMING})
        except UserError as error:
            self.failure = error

    def close(self, ending: Ending) -> None:
        """Close the files."""
        self.files.close()


class TrackerSink(Sink):
    """W&B and the like, each in a process of its own."""

    def __init__(self, trackers: Trackers) -> None:
        """Trackers that have been started; the training never waits for them."""
        self.trackers = trackers

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Trackers read the row from its file; what they have to say is printed."""
        self.trackers.listen()

    def alert(self, title: str, text: str) -> None:
        """Mail or Slack, where a tracker has it."""
        self.trackers.alert(title, text)

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Figures beside the rows, where a tracker has a place for them."""
        self.trackers.summarize(name, values)

    def close(self, ending: Ending) -> None:
        """Finish, within a time limit."""
        assert ending.state != "running"
        self.trackers.close(ending.state, f"{ending.reason}." if ending.state == "preempted" else ending.reason)
