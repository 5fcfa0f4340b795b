# SPDX-License-Identifier: Apache-2.0
"""From a text to tokens, by the standard library alone: an ONNX export holds a copy of this file.

**Cleaning.** HTML: markup becomes one space, entities become their characters, everything else survives.

What counts as markup follows the HTML standard (section "Tokenization", tag open state): ``<`` followed by an ASCII
letter, by ``/`` and a letter, by ``!`` or by ``?``. So ``a < b`` and ``x<3`` are text. Where a text is broken:

- A construct that never closes (``<b`` at the end, ``<!--`` without ``-->``) is text, not markup; the words stay.
- ``>`` inside a quoted attribute value does not end a tag. If such a value never closes, or no ``>`` follows it, quotes
  are ignored from there on.
- ``<script>`` and ``<style>`` disappear with their contents; without a closing tag only the opening tag disappears.
- Entities are decoded after the tags are gone, by the rules of :func:`html.unescape`: ``&lt;b&gt;`` is text, ``<b>``.

NFC and NFKC: Python sorts the accents of one letter by combining class in quadratic time. In a text with long runs they
are therefore sorted first (Unicode Standard Annex 15, "Canonical Ordering Algorithm"); the result is the same.

**The tokenizer** ``unicode``: the words of any script, emoji, and runs of ``!`` and ``?``.

A word begins with a letter or a digit (Unicode categories L, N), goes on with letters, digits and combining marks (M),
and may hold single apostrophes between two such runs: ``don't``, ``l'été``. A point or comma between two ASCII digits
belongs to the number, ``3.5``, and ``#`` before a word to the word. Of scripts that are written without spaces
(Chinese, Japanese, Thai, Khmer, …) each letter with its marks is a token. So is each emoji (category So, without skin
tone), and each run of ``!`` and ``?``, of which two are kept. All else separates: other punctuation and symbols,
control characters, NUL. Typographic apostrophes become ``'``. Invisible joiners (soft hyphen, zero-width joiners)
are removed. Texts are cut in NFKC or NFC; lower case is :meth:`str.lower` of the token, in NFC again.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

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


_LONG_RUN = re.compile(r"[^\w\s\x00-\x7f]{64}")
"""Many accents, or other signs."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def normalize(text: str, form: Literal["nfc", "nfkc"]) -> str:
    """The text in a normal form of Unicode."""
    if text.isascii():
        return text
    composed: Any = form.upper()
    if form == "nfkc":  # half-width voicing marks: the only letters that become accents
        text = text.replace("\uff9e", "\u3099").replace("\uff9f", "\u309a")
    if _LONG_RUN.search(text):
        signs = (sign for letter in text for sign in unicodedata.normalize(composed.replace("C", "D"), letter))
        groups = groupby(signs, lambda sign: unicodedata.combining(sign) != 0)
        text = "".join("".join(sorted(group, key=unicodedata.combining)) for _, group in groups)
    return unicodedata.normalize(composed, text)


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
    text = normalize(clean(text) if spec.html else text, spec.normalize)
    return normalize(text.lower(), "nfc") if spec.lowercase else text


_APOSTROPHE = ord("'")
INVISIBLE = dict.fromkeys([0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF])
REPLACEMENTS: dict[int, int | None] = {**INVISIBLE, 0x2019: _APOSTROPHE, 0x02BC: _APOSTROPHE, 0xFF07: _APOSTROPHE}
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u1aaf\u1b00-\u1b7f"  # Thai to Balinese
    "\u3005-\u3007\u3021-\u312f\u31a0-\u31ff\u3400-\ua4cf\ua980-\uaadf"  # kana, Han, Yi, …
    "\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U00018d8f\U0001aff0-\U0001b2ff\U00020000-\U0003ffff]"
)
"""Blocks of scripts that are written without spaces."""
_DRAWING = re.compile("[\u2500-\u259f\u2800-\u28ff]")
"""Blocks of symbols for drawing lines and pictures."""
_SKIN_TONE = re.compile("[\U0001f3fb-\U0001f3ff]")
_TOKEN = re.compile(r"(?:#(?=[wd]))?[wd][wdm]*(?:(?:'|(?<=d)\.(?=d))[wd][wdm]*)*|am*|e|!+")
"""A token in classes of characters, see :class:`_Classes`."""


class _Classes(dict[int, str]):
    """Code point → its class; an entry is added when a character first occurs.

    ``w``: letter or digit; ``d``: ASCII digit; ``a``: letter of a script without spaces; ``m``: mark; ``e``: emoji or
    another symbol; ``t``: skin tone; ``!``, ``'``, ``#``, ``.``: these and similar signs; a space: all else.
    """

    def __missing__(self, point: int) -> str:
        sign = chr(point)
        category = unicodedata.category(sign)
        kind = {"L": "w", "N": "w", "M": "m"}.get(category[0], " ")
        if category[0] == "L" and _SPACELESS.match(sign):
            kind = "a"
        elif category == "So" and not _DRAWING.match(sign):
            kind = "e"
        elif _SKIN_TONE.match(sign):
            kind = "t"
        self[point] = kind
        return kind


CLASSES = _Classes()
for _class, _characters in (("d", "0123456789"), ("!", "!?\uff01\uff1f"), (".", ".,"), ("'", "'"), ("#", "#")):
    CLASSES |= dict.fromkeys(map(ord, _characters), _class)


def classes_of(text: str) -> str:
    """The class of each character, see :class:`_Classes`."""
    return text.translate(CLASSES)


_SAME_LENGTH = REPLACEMENTS | dict.fromkeys([0xFF9E, 0xFF9F, *INVISIBLE], 0x0301)
"""Replacements that keep positions: half-width voicing marks and invisible joiners become accents."""
_SIGNS = re.compile(r"\S+")


def word_spans(text: str, segments: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans of tokens in some segments of a text before normalization, and of runs of other signs."""
    classes = classes_of(text.translate(_SAME_LENGTH))
    for start, end in segments:
        position = start
        for match in _TOKEN.finditer(classes, start, end):
            yield from (signs.span() for signs in _SIGNS.finditer(text, position, match.start()))
            yield match.span()
            position = match.end()
        yield from (signs.span() for signs in _SIGNS.finditer(text, position, end))


def tokens_of(chunk: str, spec: TextSpec) -> list[str]:
    """The tokens of a text with any characters; exact but slow."""
    chunk = normalize(normalize(chunk, spec.normalize).translate(REPLACEMENTS), "nfc")
    classes = classes_of(chunk)
    tokens = []
    for match in _TOKEN.finditer(classes):
        start, end = match.span()
        if classes[start] == "!":
            end = min(end, start + 2)
        tokens.append(chunk[start:end])
    if spec.lowercase:
        tokens = [normalize(token.lower(), "nfc") for token in tokens]
    return tokens


def num_head_tokens(spec: TextSpec) -> int:
    """Number of tokens from the head of a text that is too long; the others of ``spec.max_tokens`` are its end."""
    limit = spec.max_tokens
    return {"head": limit, "tail": 0, "both": limit - limit // 2}[spec.truncate]
