# SPDX-License-Identifier: Apache-2.0
"""Values of options that nobody means: numbers no machine counts to, numbers that are none, texts no system takes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from preprocessing.base.errors import ConfigError, require

MOST_PROCESSES = 4096
"""Processes, or threads, of one machine."""
LONGEST_WAIT_S = 366 * 86_400
"""Seconds; the clocks of some libraries end at more."""
MOST_ROUNDS = 1_000_000
"""Repetitions of a measurement."""
LARGEST = (1 << 63) - 1
"""What the libraries below hold."""
RENAME = "give it another name, or a link with one"
"""What helps where the bytes of a name are no text."""


def check_meant(config: Any) -> None:
    """Raise ``ConfigError`` for the first value of a configuration, or of its parts, that is no value here."""
    for key, value in _values(config, ""):
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            require(-LARGEST <= value <= LARGEST, key, value, "a whole number of at most 19 digits")
        elif isinstance(value, float):
            require(math.isfinite(value), key, value, "a finite number")
        elif isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{key}: {value!r} holds the character 0, which no name has; leave it out")
        elif isinstance(value, str) and not is_utf8(value):
            raise ConfigError(f"{key}: {value!r} is not UTF-8, which configurations and records are; {RENAME}")


def is_utf8(text: str) -> bool:
    """Whether a text can be written down; Python has a spelling for names of other bytes too, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_wait(key: str, seconds: float) -> None:
    """Raise ``ConfigError`` for a wait that does not end, or that has none."""
    require(0 < seconds <= LONGEST_WAIT_S, key, seconds, f"above 0 and at most {LONGEST_WAIT_S:,} s, a year")


def check_processes(key: str, number: int | None) -> None:
    """Raise ``ConfigError`` for more processes or threads than a machine has, or fewer than one."""
    fits = number is None or 1 <= number <= MOST_PROCESSES
    require(fits, key, number, f"from 1 to {MOST_PROCESSES:,}, or null")


def _values(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            if not one.metadata.get("verbatim"):
                yield from _values(getattr(value, one.name), f"{key}.{one.name}" if key else one.name)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _values(part, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _values(part, key)
    else:
        yield key, value
