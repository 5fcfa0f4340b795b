# SPDX-License-Identifier: Apache-2.0
"""The registry of trackers, checks that a requested one is usable, and the adapter for Accelerate's trackers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import TrackingConfig, flat
from harness.tracking.journal import Journal
from preprocessing.base.errors import ConfigError

PACKAGES = ("wandb", "tensorboard", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab")
"""Accelerate's trackers; each needs the package of its name."""
TRACKERS = dict.fromkeys(PACKAGES, "harness.tracking.trackers:AccelerateTracker")
TRACKERS |= {"wandb": "harness.tracking.wandb_run:WandbTracker"}
"""The registry of trackers: value of ``tracking.tracker`` -> ``module:class``, ``AccelerateTracker`` or a subclass.
docs/extending.md shows how to add one."""


def check_trackers(config: TrackingConfig) -> None:
    """Raise ``ConfigError`` for a tracker that is unknown, or whose package is missing."""
    check_names(config)
    for name in config.trackers:
        if name in PACKAGES and not is_installed(name):
            raise ConfigError(f"tracking.tracker: {name} needs the package {name}: pip install {name}, or use none")


def check_names(config: TrackingConfig) -> None:
    """Raise ``ConfigError``, which names the known trackers, for an unknown one."""
    for name in config.trackers:
        if name not in TRACKERS:
            known = ", ".join(sorted(TRACKERS))
            raise ConfigError(f"tracking.tracker: {name!r} is not a tracker; choose none, {known}")


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported; a folder of that name, such as W&B's ``wandb``, is not a package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def active_trackers(config: TrackingConfig) -> list[str]:
    """The trackers to start: all of the configuration, without W&B if ``WANDB_MODE=disabled``."""
    is_off = os.environ.get("WANDB_MODE") == "disabled"
    return [name for name in config.trackers if not (name == "wandb" and is_off)]


@dataclass
class AccelerateTracker:
    """Any of Accelerate's trackers, through Accelerate's class for it."""

    name: str
    run: Path
    spec: dict[str, Any]
    """The journal's ``start``."""
    journal: Journal
    tell: Callable[..., None]
    """Prints: ``say=…``, ``warn=…``."""
    sends: bool = True
    """False for an attempt whose rows stay on this machine; the next one, or a sync, sends them again."""

    def start(self) -> str:
        """Start, with the run's name if the tracker has names; returns a sentence on where to look."""
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)  # Accelerate asks this for the rank: one process, no group
        options: dict[str, dict[str, Any]] = {
            "trackio": {"name": self.spec["name"], "resume": "allow"},
            # drops rows of a killed attempt
            "tensorboard": {"purge_step": max(self.journal.kept.values(), default=-1) + 1},
        }
        kind = LOGGER_TYPE_TO_CLASS[self.name]
        folder = [str(self.run / self.name)] if kind.requires_logging_directory else []
        self.tracker = kind(self.spec["project"], *folder, **options.get(self.name, {}))
        self.tracker.start()
        self.tracker.store_init_configuration(showable({**self.spec["config"], **self.spec["facts"]}))
        return f"project {self.spec['project']}"

    def known(self) -> dict[str, int]:
        """Kind of rows -> the last step that the tracker has, if it can tell."""
        return {}

    def log(self, kind: str, values: dict[str, Any]) -> None:
        """Log the numbers of one row at its step."""
        row = row_of(kind, values)
        self.tracker.log(row, step=row.pop(f"{kind}/step"))

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        """Log figures of the whole run; Accelerate's trackers cannot."""

    def close(self, state: str) -> None:
        """Finish as ``state``: finished, preempted, failed or crashed."""
        self.tracker.finish()


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number."""
    return isinstance(value, int | float)


def row_of(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a row, by chart name."""
    return {f"{kind}/{key}": value for key, value in values.items() if is_number(value)}


def showable(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by dotted key; lists and None become strings."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in flat(values).items()
    }
