# SPDX-License-Identifier: Apache-2.0
"""Quantities as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``1h02m``, ``3m05s`` or ``12s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def size(number: int) -> str:
    """Bytes as ``7 kB``, ``12 MB`` or ``3.4 GB``."""
    if number < 1e6:
        return f"{number / 1e3:.0f} kB"
    return f"{number / 1e6:,.0f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"
