# SPDX-License-Identifier: Apache-2.0
"""Which trackers exist, and whether one that was asked for can be had; answered before any process starts."""

from __future__ import annotations

import importlib.util

from harness.config import TrackingConfig
from preprocessing.errors import ConfigError

KNOWN = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "comet_ml": "comet_ml",
    "aim": "aim",
    "mlflow": "mlflow",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
}
"""Accelerate's name of a tracker, and the package that it needs."""


def check_trackers(config: TrackingConfig) -> None:
    """Raise ``ConfigError`` for a tracker that does not exist, or whose package is not installed."""
    for name in config.trackers:
        if name not in KNOWN:
            raise ConfigError(f"tracking.tracker: {name!r} is no tracker; there are none, {', '.join(sorted(KNOWN))}")
        if importlib.util.find_spec(KNOWN[name]) is None:
            package = KNOWN[name]
            raise ConfigError(
                f"tracking.tracker: {name} needs the package {package}: pip install {package}, or use none"
            )


def known_trackers(config: TrackingConfig) -> list[str]:
    """Those of the wanted trackers that accelerate knows; what it does not know is reported by ``check_trackers``."""
    return [name for name in config.trackers if name in KNOWN]
