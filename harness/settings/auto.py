# SPDX-License-Identifier: Apache-2.0
"""Keys that may be ``auto``: their value then follows from the corpus (``harness.training.rules``).

A configuration is checked, and computed with, as one that has its numbers; until ``resolve`` has put them there,
``is_auto`` alone may look at such a key. So a user's recipe and a run's settings are one class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    IntOrAuto = int
    FloatOrAuto = float
else:
    IntOrAuto = int | Literal["auto"]
    FloatOrAuto = float | Literal["auto"]


def is_auto(value: object) -> bool:
    """Whether a key still waits for its number."""
    return value == "auto"
