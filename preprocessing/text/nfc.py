# SPDX-License-Identifier: Apache-2.0
"""Unicode's NFC in linear time: Python's own takes the square of the number of accents on one letter.

Accents of a letter stand in the order of their combining classes, which Python brings about by moving one after the
other. Long runs are sorted before (Unicode Standard Annex 15, "Canonical Ordering Algorithm"), and NFC is the same.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

LONG = 64
"""From so many signs on, a run is sorted here."""
_RUN = re.compile(rf"[^\w\s\x00-\x7f]{{{LONG},}}")
"""Accents, which are no letters to Python, and others that do not matter here."""


def nfc(text: str) -> str:
    """The text in NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", _RUN.sub(_in_order, text))


def _in_order(run: re.Match[str]) -> str:
    """A run of signs, decomposed, the accents of each in their order."""
    apart = [mark for sign in run[0] for mark in unicodedata.normalize("NFD", sign)]
    parts = []
    for are_accents, signs in groupby(apart, lambda sign: unicodedata.combining(sign) != 0):
        parts += sorted(signs, key=unicodedata.combining if are_accents else lambda sign: 0)
    return "".join(parts)
