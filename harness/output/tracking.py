# SPDX-License-Identifier: Apache-2.0
"""The tracker of a run, which can neither stop nor slow it (law 8).

All calls of it are made by one daemon thread. The training puts rows into a bounded queue, and never waits. A
tracker that raises, hangs or does not keep up costs one warning, is not called again, and delays the end of a run by at
most ``FINISH_S``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import queue
import re
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import RunConfig, TrackingConfig
from harness.rundir.events import Observer, Opening
from harness.rundir.records import Ending
from padless.core.errors import ConfigError
from padless.core.installed import load_object
from padless.core.processes import lower_priority
from padless.core.terminal import Screen, print_stderr, public, public_values
from padless.core.untrusted import one_line

TRACKERS = {"wandb": "harness.output.wandb_run:WandbTracker"}
"""The registry of trackers: value of ``tracking.tracker`` -> ``module:class`` of a subclass of ``Tracker``.
docs/extending.md shows how to add one."""
NO_TRACKER = "none"
FINISH_S, SHORT_FINISH_S = 30.0, 15.0
"""How long a run's end waits for its tracker; the short time if the run did not finish."""
MAX_WAITING_CALLS = 10_000
"""Most rows that a tracker has not taken yet."""
NICENESS = 10
"""Training has priority where cores are scarce."""


class TrackerObserver(Observer):
    """The tracker of a run, if it has one; a thread calls it until its first error. No method of this class raises."""

    def __init__(self, config: RunConfig) -> None:
        """Start none yet."""
        self.config, self.run, self.name = config, Path(config.run), config.tracking.tracker
        self.is_active = False
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue(MAX_WAITING_CALLS)
        self.abandon = lambda: None

    def start(self, opening: Opening) -> None:
        """Import the tracker's package, since no step waits for it now, and start the tracker in its thread. It shows
        the settings of the run with their reasons.
        """
        if self.name == NO_TRACKER:
            return
        choices = {name: str(choice) for name, choice in opening.choices.items()}
        facts = {"dataset": opening.manifest.fingerprint, "effective": choices}
        self.is_active = True
        run = self.run.resolve()
        tracking = replace(self.config.tracking, name=self.config.tracking.name or run.name)
        values = asdict(replace(self.config, tracking=tracking))
        is_of_many = re.fullmatch(r"(seed|fold)-\d+", run.name) is not None
        group = run.parent.name if is_of_many else f"dataset-{opening.manifest.fingerprint[:12]}"
        values["tracking"]["group"] = os.environ.get("WANDB_RUN_GROUP") or group
        try:
            tracker = load_object(TRACKERS[self.name])(self.name, self.run, public_values(values | facts))
            self.abandon = tracker.abandon
            self.thread = threading.Thread(target=self.call_all, args=(tracker,), daemon=True)
            self.thread.start()
        except Exception as error:
            self.disable(describe_error(error))

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Pass on a row."""
        self.put("log", kind, values)

    def close(self, ending: Ending) -> None:
        """Finish the tracker, within the time limit."""
        limit_s = FINISH_S if ending.state == "finished" else SHORT_FINISH_S
        self.put("close", ending.state)
        if self.is_active:
            self.thread.join(limit_s)
            if self.thread.is_alive():
                self.disable(f"did not finish within {limit_s:.0f} s")
        if not self.is_active:
            with contextlib.suppress(Exception):  # warned already
                self.abandon()
        self.is_active = False

    def call_all(self, tracker: Tracker) -> None:
        """Make the calls of the queue, in order, up to ``close``."""
        try:
            lower_priority(threading.get_native_id(), NICENESS)
            place_to_look = tracker.start()
            if self.is_active:
                Screen(quiet=self.config.quiet).write([f"{self.name:<10} {public(place_to_look)}"])
            method = ""
            while self.is_active and method != "close":
                method, *arguments = self.calls.get()  # cannot hang: a thread that ends with its process
                getattr(tracker, method)(*arguments)
        except (Exception, SystemExit) as error:
            self.disable(describe_error(error))

    def put(self, method: str, *arguments: Any) -> None:
        """Ask for a call, without waiting."""
        try:
            if self.is_active:
                self.calls.put_nowait((method, *arguments))
        except queue.Full:
            self.disable(f"did not take {MAX_WAITING_CALLS:,} rows")

    def disable(self, problem: str) -> None:
        """Make no more calls, and warn, once."""
        if self.is_active:
            self.is_active = False
            advice = f"; padless wandb-sync {self.run} sends the rows" if self.name == "wandb" else ""
            with contextlib.suppress(OSError):  # a closed terminal, a full disk
                print_stderr(
                    f"warning: {self.name} {problem}; it is not used any more, training is not affected{advice}"
                )


def describe_error(error: BaseException) -> str:
    """What a tracker raised, on one line."""
    return f"raised {type(error).__name__}: {one_line(error)}"


def check_tracker(config: TrackingConfig) -> None:
    """Raise ``ConfigError`` for a tracker that is not in the registry, or W&B without its package."""
    name = config.tracker
    if name not in (NO_TRACKER, *TRACKERS):
        raise ConfigError(f"tracking.tracker: {name!r} is not a tracker; choose none, {', '.join(sorted(TRACKERS))}")
    if name == "wandb" and not is_installed(name):
        raise ConfigError(f"tracking.tracker: {name} needs the package {name}: pip install {name}, or use none")


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported; a folder of that name, such as W&B's ``wandb``, is not a package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


@dataclass
class Tracker:
    """A tracker that ignores every row; subclasses override the methods that they need. One thread calls them all."""

    name: str
    run: Path
    config: dict[str, Any]
    """Configuration of the run, as plain values, and facts on it; ``tracking`` has a name and a group."""

    def start(self) -> str:
        """Start; returns a sentence on where to look."""
        return ""

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Log one row."""

    def close(self, state: str) -> None:
        """Finish as ``state``: finished, preempted or failed."""

    def abandon(self) -> None:
        """End what still runs after an error or the time limit, without waiting; another thread may hang in a call."""
