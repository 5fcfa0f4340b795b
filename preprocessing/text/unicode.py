# SPDX-License-Identifier: Apache-2.0
"""Characters and their bytes: Unicode's NFC in linear time, and UTF-8 for texts that it cannot say.

Python's own NFC takes the square of the number of accents on one letter: accents stand in the order of their combining
classes, which Python brings about by moving one after the other. Long runs are sorted before (Unicode Standard Annex
15, "Canonical Ordering Algorithm"), and NFC is the same.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import groupby

LONG = 64
"""From so many signs on, a run is sorted here."""
_RUN = re.compile(rf"[^\w\s\x00-\x7f]{{{LONG},}}")
"""Accents, which are no letters to Python, and others that do not matter here."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def nfc(text: str) -> str:
    """The text in NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", _RUN.sub(_in_order, text))


def _in_order(run: re.Match[str]) -> str:
    apart = [mark for sign in run[0] for mark in unicodedata.normalize("NFD", sign)]
    parts = []
    for are_accents, signs in groupby(apart, lambda sign: unicodedata.combining(sign) != 0):
        parts += sorted(signs, key=unicodedata.combining if are_accents else lambda sign: 0)
    return "".join(parts)


def decode(data: bytes) -> str:
    """UTF-8 to str; bytes that are not UTF-8 become U+FFFD, which separates words."""
    return data.decode("utf-8", "replace")


def encode(text: str) -> bytes:
    """A str to UTF-8; a lone surrogate, which UTF-8 cannot say, becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()
