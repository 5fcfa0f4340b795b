# SPDX-License-Identifier: Apache-2.0
"""What commands of several trainings have in common: the time that is left for the next, and how it is asked for."""

from __future__ import annotations

import json
import time
from itertools import chain
from typing import Any

from harness.config import seconds
from preprocessing.base import cli

SHORTEST_S = 1.0
"""No training begins with less time than this."""


class TimeLeft:
    """``max_time`` of a command is that of all its trainings together."""

    def __init__(self, max_time: str | None) -> None:
        """The time runs from now."""
        self.began, self.limit = time.monotonic(), seconds(max_time)

    def words(self) -> dict[str, str] | None:
        """The key of the next training that says how long it may take, if there is a limit; None if time is over."""
        if not self.limit:
            return {}
        left = self.limit - (time.monotonic() - self.began)
        return None if left < SHORTEST_S else {"max_time": f"{left:.0f}"}


def as_words(values: dict[str, Any]) -> list[str]:
    """Keys and values as a command line has them."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()]


def typed(words: list[str], config_class: type) -> list[tuple[str, list[str]]]:
    """Each key of a command line for ``config_class`` and the words that give it, in their order."""
    return cli.apart(words, config_class)[1]


def without(words: list[str], config_class: type, keys: set[str]) -> list[str]:
    """A command line without some of its keys."""
    return list(chain(*(option for key, option in typed(words, config_class) if key not in keys)))
