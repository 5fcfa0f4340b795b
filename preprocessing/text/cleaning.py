# SPDX-License-Identifier: Apache-2.0
"""From bytes and markup to clean text: UTF-8, HTML, Unicode's normal forms in linear time.

HTML: markup becomes one space, entities become their characters, everything else survives.

What counts as markup follows the HTML standard (section "Tokenization", tag open state): ``<`` followed by an ASCII
letter, by ``/`` and a letter, by ``!`` or by ``?``. So ``a < b`` and ``x<3`` are text. Where a text is broken:

- A construct that never closes (``<b`` at the end, ``<!--`` without ``-->``) is text, not markup; the words stay.
- ``>`` inside a quoted attribute value does not end a tag. If such a value never closes, or no ``>`` follows it, quotes
  are ignored from there on.
- ``<script>`` and ``<style>`` disappear with their contents; without a closing tag only the opening tag disappears.
- Entities are decoded after the tags are gone, by the rules of :func:`html.unescape`: ``&lt;b&gt;`` is text, ``<b>``.

NFC and NFKC: Python sorts the accents of one letter by combining class in quadratic time. In a text with long runs they
are therefore sorted first (Unicode Standard Annex 15, "Canonical Ordering Algorithm"); the result is the same.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

_OPEN = re.compile(r"<(?=[A-Za-z!?]|/[A-Za-z])")
_TAG_STOP = re.compile(r"""(>)|=[ \t\n\f\r]*(["'])""")
_RAW_TEXT = re.compile(r"<(script|style)(?=[\s/>])", re.IGNORECASE | re.ASCII)
_RAW_END = {name: re.compile(rf"</{name}(?=[\s/>])[^>]*>", re.IGNORECASE | re.ASCII) for name in ("script", "style")}


def clean(text: str) -> str:
    """The text without tags, comments, scripts and styles (each becomes one space), entities decoded."""
    if "<" in text:
        text = " ".join(text[start:end] for start, end in visible_spans(text))
    if "&" in text:
        text = html.unescape(_LONG_NUMBER.sub(_short_number, text))
    return text


def visible_spans(text: str) -> list[tuple[int, int]]:
    """Spans of a text that are not markup, in order, ends exclusive; :func:`clean` joins them with spaces."""
    markup, position = _Markup(text), 0
    spans: list[tuple[int, int]] = []
    for match in _OPEN.finditer(text):
        if match.start() >= position and (end := markup.end(match.start())) >= 0:
            spans.append((position, match.start()))
            position = end
        elif ">" in markup.absent_closers:
            break
    return [*spans, (position, len(text))]


class _Markup:
    """One left-to-right pass over a text; keeps which closers do not occur any more, so it stays linear."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.has_quotes = True  # False once a quoted attribute value never closes, or no ">" follows it
        self.absent_closers: set[str] = set()  # do not occur from the current position to the end

    def end(self, start: int) -> int:
        """Where the construct that opens at ``start`` ends (exclusive), or -1 if it never does."""
        text = self.text
        if text.startswith("<!--", start):
            return self._find("-->", start + 4)
        if text[start + 1] in "!?":
            return self._find(">", start)
        end = self._tag_end(start)
        raw = _RAW_TEXT.match(text, start)
        if end >= 0 and raw is not None:
            name = raw[1].lower()
            closer = None if name in self.absent_closers else _RAW_END[name].search(text, end)
            if closer is not None:
                return closer.end()
            self.absent_closers.add(name)
        return end

    def _tag_end(self, start: int) -> int:
        position = start
        while self.has_quotes:
            stop = _TAG_STOP.search(self.text, position)
            if stop is not None and stop[1]:
                return stop.end()
            close = -1 if stop is None else self.text.find(stop[2], stop.end())
            self.has_quotes = close >= 0
            position = close + 1
        return self._find(">", start)

    def _find(self, closer: str, start: int) -> int:
        position = -1 if closer in self.absent_closers else self.text.find(closer, start)
        if position < 0:
            self.absent_closers.add(closer)
            return -1
        return position + len(closer)


_LONG_NUMBER = re.compile("&#(?=[0-9]{9})0*([0-9]*)")


def _short_number(entity: re.Match[str]) -> str:
    """A numeric entity without leading zeros, cut to eight digits: no character has more than seven.

    Python refuses to parse thousands of digits.
    """
    return f"&#{entity[1][:8] or '0'}"


_LETTER = np.isin(np.arange(256), [*string.ascii_letters.encode()])
_BEGINS_MARKUP = _LETTER | np.isin(np.arange(256), [*b"!?/#"])
"""Which bytes after ``<`` or ``&`` may begin markup."""
_NEEDS_CLEAN = np.isin(np.arange(256), [*b"\"'\0"])
"""Which bytes inside a tag need :func:`clean`: quotes, and the end of the text."""


def find_tags(joined: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Find the simple tags of texts that are joined by NUL and end with two: the positions of all their bytes, and
    those where other markup begins. :func:`clean` of a text without other markup is that text with its tags blanked.
    """
    data = np.frombuffer(joined, np.uint8)
    begins = np.flatnonzero((data == ord("<")) | (data == ord("&")))
    begins = begins[_BEGINS_MARKUP[data[begins + 1]]]
    name = begins + 1 + (data[begins + 1] == ord("/"))
    script = (data[name] | 32 == ord("s")) & np.isin(data[name + 1] | 32, [*b"ct"])  # or a style
    simple = (data[begins] == ord("<")) & _LETTER[data[name]] & ~script
    closes = np.flatnonzero(data == ord(">"))
    nearest = np.searchsorted(closes, begins)
    simple &= (nearest < len(closes)) & (np.diff(nearest, append=-1) != 0)  # nothing else begins inside
    if not simple.any():
        return begins[:0], begins
    opens = begins[simple]
    lengths = closes[nearest[simple]] + 1 - opens
    offsets = np.cumsum(lengths) - lengths
    tag_bytes = np.arange(lengths.sum()) + np.repeat(opens - offsets, lengths)
    needs_clean = np.logical_or.reduceat(_NEEDS_CLEAN[data[tag_bytes]], offsets)
    return tag_bytes[np.repeat(~needs_clean, lengths)], np.concatenate([begins[~simple], opens[needs_clean]])


_LONG_RUN = re.compile(r"[^\w\s\x00-\x7f]{64}")
"""Many accents, or other signs."""
_ACCENT = re.compile("[\u0300-\u036f]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def nfc(text: str) -> str:
    """The text in NFC."""
    return _to_form("NFC", text)


def nfkc(text: str) -> str:
    """The text in NFKC."""
    return _to_form("NFKC", text)


def normalize(text: str, spec: TextSpec) -> str:
    """The text in the normal form of ``spec``, without accents if ``spec.strip_accents``."""
    form = "NFKC" if spec.normalize == "nfkc" else "NFC"
    if spec.strip_accents and not text.isascii():
        text = _ACCENT.sub("", _to_form(form.replace("C", "D"), text))
    return _to_form(form, text)


def _to_form(form: Any, text: str) -> str:
    if text.isascii():
        return text
    if "K" in form:  # half-width voicing marks: the only letters that become accents
        text = text.replace("\uff9e", "\u3099").replace("\uff9f", "\u309a")
    if _LONG_RUN.search(text):
        signs = (sign for letter in text for sign in unicodedata.normalize(form.replace("C", "D"), letter))
        groups = groupby(signs, lambda sign: unicodedata.combining(sign) != 0)
        text = "".join("".join(sorted(group, key=unicodedata.combining)) for _, group in groups)
    return unicodedata.normalize(form, text)


def decode(data: bytes) -> str:
    """UTF-8 to str; bytes that are not UTF-8 become U+FFFD, which separates words."""
    return data.decode("utf-8", "replace")


def encode(text: str) -> bytes:
    """A str to UTF-8; a lone surrogate, which UTF-8 cannot encode, becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text).encode()


def clean_text(text: str, spec: TextSpec) -> str:
    """The text without markup, normalized and in lower case, as ``spec`` has it."""
    text = normalize(clean(text) if spec.html else text, spec)
    return nfc(text.lower()) if spec.lowercase else text
