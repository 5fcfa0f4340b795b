# SPDX-License-Identifier: Apache-2.0
"""The registry of trackers, checks that a requested one is usable, and the adapter for Accelerate's trackers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import TrackingConfig, flat
from harness.rundir.metrics_log import read_log
from padless.core.errors import ConfigError

PACKAGES = ("wandb", "tensorboard", "trackio", "comet_ml", "aim", "mlflow", "clearml", "dvclive", "swanlab")
"""Accelerate's trackers; each needs the package of its name."""
TRACKERS = dict.fromkeys(PACKAGES, "harness.output.trackers:AccelerateTracker")
TRACKERS |= {"wandb": "harness.output.wandb_run:WandbTracker"}
"""The registry of trackers: value of ``tracking.tracker`` -> ``module:class``, ``AccelerateTracker`` or a subclass.
docs/extending.md shows how to add one."""


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
