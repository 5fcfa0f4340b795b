# SPDX-License-Identifier: Apache-2.0
"""The registry of trackers, and whether a requested one can be used; checked before any process starts."""

from __future__ import annotations

import configparser
import importlib.util
import netrc
import os
from dataclasses import dataclass
from pathlib import Path

from harness.config import TrackingConfig
from preprocessing.base.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrackerEntry:
    """One tracker."""

    package: str
    """What must be installed for it."""
    code: str = "harness.tracking.accelerate_tracker:AccelerateTracker"
    """``module:class`` of it, a subclass of that one, which is any of Accelerate's trackers by its name."""


TRACKERS = {
    "wandb": TrackerEntry(package="wandb", code="harness.tracking.wandb_run:WandbTracker"),
    "tensorboard": TrackerEntry(package="tensorboard"),
    "trackio": TrackerEntry(package="trackio"),
    "comet_ml": TrackerEntry(package="comet_ml"),
    "aim": TrackerEntry(package="aim"),
    "mlflow": TrackerEntry(package="mlflow"),
    "clearml": TrackerEntry(package="clearml"),
    "dvclive": TrackerEntry(package="dvclive"),
    "swanlab": TrackerEntry(package="swanlab"),
}
"""The registry of trackers: what ``tracking.tracker`` may name. docs/extending.md shows how one is added."""
WANDB_MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")
PUBLIC_URL = "https://api.wandb.ai"


def check_trackers(config: TrackingConfig) -> None:
    """Raise ``ConfigError`` for a tracker that is unknown, or lacks its package or its key."""
    check_names(config)
    for name in config.trackers:
        package = TRACKERS[name].package
        if not is_installed(package):
            raise ConfigError(
                f"tracking.tracker: {name} needs the package {package}: pip install {package}, or use none"
            )
    if "wandb" in config.trackers:
        check_wandb_mode()


def check_names(config: TrackingConfig) -> None:
    """Raise ``ConfigError`` that names the known ones for an unknown tracker."""
    for name in config.trackers:
        if name not in TRACKERS:
            known = ", ".join(sorted(TRACKERS))
            raise ConfigError(f"tracking.tracker: {name!r} is no tracker; there are none, {known}")


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported; a folder of that name, such as W&B's own ``wandb``, is no package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def check_wandb_mode() -> None:
    """Raise ``ConfigError`` for an unknown WANDB_MODE, or for the mode online without a key."""
    mode = os.environ.get("WANDB_MODE")
    if mode not in (None, *WANDB_MODES):
        raise ConfigError(f"WANDB_MODE: {mode!r} is no mode of W&B; there are {', '.join(WANDB_MODES)}")
    if mode == "online" and not has_wandb_key():
        raise ConfigError(
            "tracking.tracker: WANDB_MODE=online needs a key: set WANDB_API_KEY, run `wandb login`, "
            "or unset WANDB_MODE to keep the run offline until `python -m harness wandb-sync`"
        )


def active_trackers(config: TrackingConfig) -> list[str]:
    """The trackers to start: all of the configuration, but W&B not with ``WANDB_MODE=disabled``."""
    off = {"wandb"} if os.environ.get("WANDB_MODE") == "disabled" else set()
    return [name for name in config.trackers if name not in off]


def wandb_mode() -> str | None:
    """Offline if there is no key and no mode is set: a run must not wait for input."""
    return None if "WANDB_MODE" in os.environ or has_wandb_key() else "offline"


def has_wandb_key() -> bool:
    """Whether there is a key for W&B's server: in the environment, or left by ``wandb login``."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = wandb_url().partition("//")[2].partition("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_url() -> str:
    """Address of W&B's server: from the environment, or where ``wandb login --host`` has left it, or the public one."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url.rstrip("/")
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or Path.home() / ".config" / "wandb")
    settings = configparser.ConfigParser()
    try:
        settings.read((folder / "settings", Path("wandb") / "settings"))
    except (OSError, configparser.Error, UnicodeDecodeError):
        return PUBLIC_URL
    return settings.get("default", "base_url", fallback=PUBLIC_URL).rstrip("/")
