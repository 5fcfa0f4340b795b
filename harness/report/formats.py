# SPDX-License-Identifier: Apache-2.0
"""How values are written on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from preprocessing.base.printable import duration, public


def figure(value: float | None, digits: int = 4) -> str:
    """A metric as it is read."""
    return "not defined" if value is None else f"{value:.{digits}f}"


def short(value: float | None, digits: int = 3) -> str:
    """A metric where there is little room."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage."""
    return "–" if value is None else f"{value:.{digits}%}"


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def mebibytes(value: float) -> str:
    """Bytes as MiB."""
    return f"{value / 2**20:,.0f} MiB"


def moment(seconds: float) -> str:
    """A time stamp in seconds as a date in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def by_value(values: Sequence[Any]) -> list[tuple[str, list[int]]]:
    """Each value as it is written in a configuration, and the places that have it, from 1."""
    places: dict[str, list[int]] = {}
    for number, value in enumerate(values, 1):
        places.setdefault("null" if value is None else str(value), []).append(number)
    return list(places.items())


FILTERS: dict[str, Callable[..., Any]] = {
    "by_value": by_value,
    "figure": figure,
    "public": public,
    "short": short,
    "share": share,
    "count": count,
    "mebibytes": mebibytes,
    "moment": moment,
    "duration": duration,
}
"""Name in the template -> function."""
