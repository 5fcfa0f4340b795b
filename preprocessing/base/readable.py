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


def percent(share: float) -> str:
    """A share as ``12%``; a small one with two digits that count, as ``1.2%`` or ``0.012%``."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"


def counted(number: int, noun: str) -> str:
    """``1 window``, ``12 windows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
