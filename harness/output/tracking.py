# SPDX-License-Identifier: Apache-2.0
"""The trackers of a run, which can neither stop nor slow it (law 8).

All calls of a tracker are made by one daemon thread. The training puts rows into a bounded queue, and never waits. A
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
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import RunConfig, TrackingConfig, flat, to_dict
from harness.rundir.events import Observer, Opening
from harness.rundir.metrics_log import KINDS, read_log
from harness.rundir.records import Ending
from padless.core.errors import ConfigError
from padless.core.installed import load_object
from padless.core.processes import lower_priority
from padless.core.terminal import Screen, print_stderr, public, public_values
from padless.core.untrusted import one_line

PACKAGES = ("wandb", "tensorboard", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab")
"""Accelerate's trackers; each needs the package of its name."""
TRACKERS = dict.fromkeys(PACKAGES, "harness.output.tracking:AccelerateTracker")
TRACKERS |= {"wandb": "harness.output.wandb_run:WandbTracker"}
"""The registry of trackers: value of ``tracking.tracker`` -> ``module:class``, ``AccelerateTracker`` or a subclass.
docs/extending.md shows how to add one."""
FINISH_S, SHORT_FINISH_S = 30.0, 15.0
"""How long a run's end waits for its trackers; the short time if the run did not finish."""
MAX_WAITING_CALLS = 10_000
"""Most rows that a tracker has not taken yet."""
NICENESS = 10
"""Training has priority where cores are scarce."""


class Trackers(Observer):
    """Every tracker of a run."""

    def __init__(self, config: RunConfig) -> None:
        """Start none yet."""
        self.config = config
        self.trackers: list[GuardedTracker] = []

    def start(self, opening: Opening) -> None:
        """Start the trackers, in threads. They show the settings of the run with their reasons."""
        choices = {name: str(choice) for name, choice in opening.choices.items()}
        self.follow({"dataset": opening.manifest.fingerprint, "effective": choices})

    def follow(self, facts: Mapping[str, Any]) -> None:
        """Start the trackers; ``facts`` are shown beside the configuration."""
        settings, run = self.config.tracking, Path(self.config.run)
        tracking = replace(settings, name=settings.name or run.resolve().name)
        values = to_dict(replace(self.config, tracking=tracking))
        values["tracking"]["group"] = group_of(run.resolve(), facts)
        self.trackers = [GuardedTracker(name, run, public_values(values | dict(facts))) for name in settings.trackers]

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Pass on a row, or figures of the whole run, such as those of a baseline."""
        for tracker in self.trackers:
            tracker.put("log" if kind in KINDS else "summarize", kind, values)

    def close(self, ending: Ending) -> None:
        """Finish the trackers, all within the time limit."""
        limit_s = FINISH_S if ending.state == "finished" else SHORT_FINISH_S
        deadline = time.monotonic() + limit_s
        for tracker in self.trackers:
            tracker.put("close", ending.state)
        for tracker in self.trackers:
            tracker.join(deadline, limit_s)
        self.trackers = []


class GuardedTracker:
    """A tracker that is called by a thread until its first error. No method of this class raises."""

    def __init__(self, name: str, run: Path, config: dict[str, Any]) -> None:
        """Import the tracker's package, since no step waits for it now, and start the tracker in its thread."""
        self.name, self.run, self.is_active, self.is_quiet = name, run, True, config["quiet"]
        self.calls: queue.Queue[tuple[Any, ...]] = queue.Queue(MAX_WAITING_CALLS)
        self.abandon = lambda: None
        try:
            tracker = load_object(TRACKERS[name])(name, run, config)
            self.abandon = tracker.abandon
            self.thread = threading.Thread(target=self.call_all, args=(tracker,), daemon=True)
            self.thread.start()
        except Exception as error:
            self.disable(describe_error(error))

    def call_all(self, tracker: AccelerateTracker) -> None:
        """Make the calls of the queue, in order, up to ``close``."""
        try:
            lower_priority(threading.get_native_id(), NICENESS)
            place_to_look = tracker.start()
            if self.is_active:
                Screen(quiet=self.is_quiet).write([f"{self.name:<10} {public(place_to_look)}"])
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

    def join(self, deadline: float, limit_s: float) -> None:
        """Wait for the end of the calls until ``deadline``, as ``time.monotonic`` counts."""
        if self.is_active:
            self.thread.join(max(0.0, deadline - time.monotonic()))
            if self.thread.is_alive():
                self.disable(f"did not finish within {limit_s:.0f} s")
        if not self.is_active:
            with contextlib.suppress(Exception):  # warned already
                self.abandon()

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


def group_of(run: Path, facts: Mapping[str, Any]) -> str:
    """W&B's group of a run: the folder of many runs, else the dataset, unless ``WANDB_RUN_GROUP`` names one."""
    is_of_many = re.fullmatch(r"(seed|fold)-\d+", run.name) is not None
    default = run.parent.name if is_of_many else f"dataset-{facts['dataset'][:12]}"
    return os.environ.get("WANDB_RUN_GROUP") or default


def check_trackers(config: TrackingConfig) -> None:
    """Raise ``ConfigError`` for a tracker that is not in the registry, or whose package is missing."""
    for name in config.trackers:
        if name not in TRACKERS:
            choices = ", ".join(sorted(TRACKERS))
            raise ConfigError(f"tracking.tracker: {name!r} is not a tracker; choose none, {choices}")
        if name in PACKAGES and not is_installed(name):
            raise ConfigError(f"tracking.tracker: {name} needs the package {name}: pip install {name}, or use none")


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported; a folder of that name, such as W&B's ``wandb``, is not a package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


@dataclass
class AccelerateTracker:
    """Any of Accelerate's trackers, through Accelerate's class for it. One thread calls all methods."""

    name: str
    run: Path
    config: dict[str, Any]
    """Configuration of the run, as plain values, and facts on it; ``tracking`` has a name and a group."""

    def __post_init__(self) -> None:
        """Called before the first row of this attempt is logged."""
        self.first_step = 1 + max((line["step"] for line in read_log(self.run)), default=-1)

    def start(self) -> str:
        """Start, with the run's name if the tracker has names; returns a sentence on where to look."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        settings = self.config["tracking"]
        PartialState(cpu=True)  # Accelerate reads the rank from it; an existing one stays
        options: dict[str, dict[str, Any]] = {
            "trackio": {"name": settings["name"], "resume": "allow"},
            # drops rows that a killed attempt logged after its last checkpoint
            "tensorboard": {"purge_step": self.first_step},
        }
        kind = LOGGER_TYPE_TO_CLASS[self.name]
        folder = [str(self.run / self.name)] if kind.requires_logging_directory else []
        self.tracker = kind(settings["project"], *folder, **options.get(self.name, {}))
        self.tracker.start()
        self.tracker.store_init_configuration(flat_settings(self.config))
        return f"project {settings['project']}"

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Log the numbers of one row at its step."""
        figures = figures_by_chart(kind, values)
        self.tracker.log(figures, step=figures.pop(f"{kind}/step"))

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Log figures of the whole run; Accelerate's trackers cannot."""

    def close(self, state: str) -> None:
        """Finish as ``state``: finished, preempted or failed."""
        self.tracker.finish()

    def abandon(self) -> None:
        """End what still runs after an error or the time limit, without waiting; another thread may hang in a call."""


def figures_by_chart(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row, by chart name, such as ``train/loss``."""
    return {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, int | float)}


def flat_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration by dotted key; lists and None become strings."""
    settings = flat(config)
    for key, value in settings.items():
        if not isinstance(value, bool | int | float | str):
            settings[key] = str(value)
    return settings
