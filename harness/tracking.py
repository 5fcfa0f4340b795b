# SPDX-License-Identifier: Apache-2.0
"""Whichever trackers were asked for, which can never stop training (law 8)."""

from __future__ import annotations

import netrc
import os
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from harness.config import RunConfig, to_dict


class Tracking:
    """What rank 0 tells the world; on other ranks an object of the same shape that stays silent."""

    def __init__(self, accelerator: Accelerator, config: RunConfig, run: Path, is_main: bool) -> None:
        """Start the trackers that were asked for, on rank 0."""
        self.accelerator = accelerator
        self.names = config.tracking.trackers if is_main else []
        if self.names:
            self._guard(lambda: self._start(config, run), "start")

    def _start(self, config: RunConfig, run: Path) -> None:
        options: dict[str, Any] = {}
        if "wandb" in self.names:
            options["wandb"] = {"name": config.tracking.name or run.name, "dir": str(run), "mode": wandb_mode()}
        self.accelerator.init_trackers(config.tracking.project, to_dict(config), options)
        if "wandb" in self.names:
            wandb_run = self.accelerator.get_tracker("wandb", unwrap=True)
            for kind, unit in (("train", "step"), ("validation", "step"), ("test", "step")):
                wandb_run.define_metric(f"{kind}/*", step_metric=f"{kind}/{unit}")

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Record the figures of one moment: ``kind`` is train, validation or test."""
        if self.names:
            numbers = {f"{kind}/{key}": value for key, value in values.items() if isinstance(value, (int, float))}
            self._guard(lambda: self.accelerator.log(numbers), "log to")

    def close(self) -> None:
        """Finish the trackers."""
        if self.names:
            self._guard(lambda: [tracker.finish() for tracker in self.accelerator.trackers], "finish")

    def _guard(self, action: Any, verb: str) -> None:
        """Call a tracker; if it raises, say so once and train on without it."""
        try:
            action()
        except Exception as error:
            reason = " ".join(str(error).split())
            print(f"warning: could not {verb} {', '.join(self.names)} ({reason}); training goes on", file=sys.stderr)
            self.names = []


def wandb_mode() -> str | None:
    """Offline when there is no key and nobody has chosen a mode: a run must not wait for somebody to type one."""
    if "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ or has_netrc_key():
        return None
    return "offline"


def has_netrc_key() -> bool:
    """Whether ``wandb login`` has left a key for the server in use."""
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("//")[2].partition("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
