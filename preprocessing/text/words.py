# SPDX-License-Identifier: Apache-2.0
"""The tokenizer ``unicode``: the words of any script, and the signs that say something.

A word begins with a letter or a digit (Unicode categories L, N), goes on with letters, digits and combining marks (M),
and may hold single apostrophes between two such runs: ``don't``, ``l'été``. A point or comma between two ASCII digits
belongs to the number, ``3.5``, and ``#`` before a word to the word. Of scripts that are written without spaces
(Chinese, Japanese, Thai, Khmer, …) each letter with its marks is a token. So is each emoji (category So, without skin
tone), and each run of ``!`` and ``?``, of which two are kept. All else separates: other punctuation and symbols,
control characters, NUL. Typographic apostrophes become ``'``. Invisible joiners (soft hyphen, zero-width joiners)
vanish. Texts are cut in NFKC or NFC; lower case is :meth:`str.lower` of the token, in NFC again.

Two passes give one result. :meth:`UnicodeRules.split` cuts the bytes of thousands of texts at once into *chunks*, and
:func:`tokens_of` decides, once per distinct chunk, which tokens it holds. A chunk may hold several tokens, but never
half of one, nor a letter without its marks; a chunk of ASCII letters and digits is a token as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from preprocessing.text.cleaning import clean, decode, encode, nfc, nfkc, normalized, scan

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

_APOSTROPHE = ord("'")
_INVISIBLE = dict.fromkeys([0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF])
_REPLACED: dict[int, int | None] = {**_INVISIBLE, 0x2019: _APOSTROPHE, 0x02BC: _APOSTROPHE, 0xFF07: _APOSTROPHE}
_WITHOUT_SPACES = (
    *((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x1950, 0x1AB0), (0x1B00, 0x1B80)),  # Thai to Balinese
    *((0x3005, 0x3008), (0x3021, 0x3130), (0x31A0, 0x3200), (0x3400, 0xA4D0), (0xA980, 0xAAE0)),  # kana, Han, Yi, …
    *((0xF900, 0xFB00), (0xFF66, 0xFFA0), (0x16FE0, 0x18D90), (0x1AFF0, 0x1B300), (0x20000, 0x40000)),
)
"""Blocks of scripts that are written without spaces; ends are exclusive."""
_DRAWING = ((0x2500, 0x25A0), (0x2800, 0x2900))
"""Blocks of symbols that lines and pictures consist of."""
_SKIN_TONES = ((0x1F3FB, 0x1F400),)
_TOKEN = re.compile(r"(?:#(?=[wd]))?[wd][wdm]*(?:(?:'|(?<=d)\.(?=d))[wd][wdm]*)*|am*|e|!+")
"""A token in classes of characters, see :class:`_Classes`."""


class _Classes(dict[int, str]):
    """Code point → its class; filled as characters are met.

    ``w``: letter or digit; ``d``: ASCII digit; ``a``: letter of a script without spaces; ``m``: mark; ``e``: emoji or
    another symbol; ``t``: skin tone; ``!``, ``'``, ``#``, ``.``: these and their like; a space: all else.
    """

    def __missing__(self, point: int) -> str:
        category = unicodedata.category(chr(point))
        kind = {"L": "w", "N": "w", "M": "m"}.get(category[0], " ")
        if category[0] == "L" and _is_in(_WITHOUT_SPACES, point):
            kind = "a"
        elif category == "So" and not _is_in(_DRAWING, point):
            kind = "e"
        elif _is_in(_SKIN_TONES, point):
            kind = "t"
        self[point] = kind
        return kind


def _is_in(blocks: tuple[tuple[int, int], ...], point: int) -> bool:
    return any(start <= point < end for start, end in blocks)


_CLASSES = _Classes()
for _class, _characters in (("d", "0123456789"), ("!", "!?\uff01\uff1f"), (".", ".,"), ("'", "'"), ("#", "#")):
    _CLASSES |= dict.fromkeys(map(ord, _characters), _class)


def classes_of(text: str) -> str:
    """The class of each character, see :class:`_Classes`."""
    return text.translate(_CLASSES)


_AS_WRITTEN = {0xFF9E: 0x0301, 0xFF9F: 0x0301} | {
    point: 0x0301 if after is None else after for point, after in _REPLACED.items()
}
"""Half-width voicing marks and invisible joiners, which vanish, as accents; apostrophes as ``'``."""
_BETWEEN = re.compile(r"\S+")


def places_of(text: str, segments: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans of tokens in some segments of a text as it is written, and of what stands between them and spaces."""
    classes = classes_of(text.translate(_AS_WRITTEN))
    for start, end in segments:
        position = start
        for match in _TOKEN.finditer(classes, start, end):
            yield from (between.span() for between in _BETWEEN.finditer(text, position, match.start()))
            yield match.span()
            position = match.end()
        yield from (between.span() for between in _BETWEEN.finditer(text, position, end))


def tokens_of(chunk: str, spec: TextSpec) -> list[str]:
    """The tokens of a text with any characters; exact but slow."""
    chunk = nfc(normalized(chunk, spec).translate(_REPLACED))
    classes = classes_of(chunk)
    spans = [match.span() for match in _TOKEN.finditer(classes)]
    tokens = [chunk[start : min(end, start + 2) if classes[start] == "!" else end] for start, end in spans]
    return [nfc(token.lower()) for token in tokens] if spec.lowercase else tokens


_SEPARATES, _IN_WORD, _SIGN, _ALONE, _ATTACHED, _UNKNOWN = 0, 1, 2, 3, 4, 255
"""Kinds of characters for :meth:`UnicodeRules.split`: between chunks; in a word; ``!`` or ``?``; a chunk by itself;
part of what is before; not met yet."""
_KIND_OF = {"w": _IN_WORD, "!": _SIGN, "a": _ALONE, "e": _ALONE, "m": _ATTACHED, "t": _ATTACHED, " ": _SEPARATES}
_KINDS = np.full(0x110000, _UNKNOWN, np.uint8)
"""The kind of each character that is not ASCII; filled as characters are met."""
_KINDS[list(_REPLACED)] = [_ATTACHED if after is None else _IN_WORD for after in _REPLACED.values()]
_FULL_COMMA = "，".encode()
_NEAR = re.compile(r"w[wd](.*[wdm])?|!!+|a(am*)+|  [ m]*| \.{2,}")
"""Class of a character, and classes of its NFKC, where it makes no difference whether a text is normalized before it is
cut into chunks."""
_FAR = np.full(0x110000, _UNKNOWN, np.uint8)
"""1 for other characters; filled as characters are met."""
_KEPT = bytes(byte if byte >= 128 or _CLASSES[byte] != " " else 0 for byte in range(256))
_TABLES = {False: _KEPT, True: _KEPT[:128].lower() + _KEPT[128:]}
"""For each ``lowercase``: byte → the byte that a token keeps for it, or 0 where it separates."""
_BY_APOSTROPHE, _BY_POINT, _BY_HASH = 1, 2, 4
_JOINS = np.zeros(256, np.uint8)
"""What a sign is that may belong to a chunk: an apostrophe, a point or comma, a ``#``."""
_JOINS[[ord(sign) for sign in "'.,#"]] = _BY_APOSTROPHE, _BY_POINT, _BY_POINT, _BY_HASH
_AFTER = np.array([0] * 128 + [7] * 128, np.uint8)
"""By which of these a byte may be joined to what is before; :func:`tokens_of` looks closer at those beyond ASCII."""
_AFTER[[point for point in range(128) if chr(point).isalnum()]] = _BY_APOSTROPHE | _BY_HASH
_AFTER[[*b"0123456789"]] |= _BY_POINT
_BEFORE = _AFTER | _BY_HASH


def _kinds(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each byte, and where characters begin that are chunks by themselves."""
    kind = (kept != 0).astype(np.uint8)  # _IN_WORD or _SEPARATES
    at = np.flatnonzero((kept - 1 < ord("0") - 1) | (kept == ord("?")))  # all signs that the tables keep
    sign = kept.take(at)
    joins = _BEFORE.take(kept.take(at - 1)) & _JOINS.take(sign) & _AFTER.take(kept.take(at + 1))
    kind[at] = np.where((sign == ord("!")) | (sign == ord("?")), _SIGN, joins != 0)
    return kind, _put_kinds(kept, kind)


def _put_kinds(kept: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Put the kinds of characters beyond ASCII into ``kind``, at all their bytes; returns where those begin that are
    chunks by themselves.
    """
    places, begins, points = _points(kept)
    kinds = _known(_KINDS, points, lambda point: _KIND_OF[_CLASSES[point]])
    sizes = 2 + (points >= 0x800) + (points >= 0x10000)
    kind[places] = np.repeat(kinds, sizes)
    if len(marks := np.flatnonzero(kinds == _ATTACHED)):
        before = begins[marks] - 1
        before[1:][before[1:] == (begins + sizes)[marks[:-1]] - 1] = 0  # a mark after a mark is as that one
        kinds[marks] = kind[np.maximum.accumulate(before)]
        kind[places] = np.repeat(kinds, sizes)
        kinds[marks] = _ATTACHED
    return begins[kinds == _ALONE]


def _points(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places of bytes beyond ASCII, those where characters begin, and the code points of these."""
    places = np.flatnonzero(kept >= 0x80)
    high = kept.take(places)
    points = np.frombuffer(high.tobytes().decode().encode("utf-32-le"), np.uint32)
    return places, np.compress(high >= 0xC0, places), points


def _known(table: np.ndarray, points: np.ndarray, of: Callable[[int], int]) -> np.ndarray:
    """The values of code points in a ``table``, to which ``of`` adds those that have not been met."""
    if len(new := np.unique(points[table.take(points) == _UNKNOWN])):
        table[new] = [of(point) for point in new.tolist()]
    return table.take(points)


def join(texts: pa.Array, spec: TextSpec) -> tuple[bytes, np.ndarray]:
    """All texts as one byte string, NUL before, between and after (two at the end), and where each begins.

    In NFKC, commas of full width, of which Chinese texts are full, are ASCII's. The second is int64 [texts + 1]: text i
    with its final NUL is ``joined[starts[i]:starts[i + 1]]``.
    """
    parts = texts.cast(pa.large_binary()).to_pylist()
    if spec.normalize == "nfkc":
        parts = [part.replace(_FULL_COMMA, b",") for part in parts]
    return b"\0".join([b"", *parts, b"", b""]), np.cumsum([1, *(len(part) + 1 for part in parts)])


def _texts_at(positions: np.ndarray, starts: np.ndarray) -> list[int]:
    """The numbers of the texts at some positions."""
    found: list[int] = np.unique(np.searchsorted(starts, positions, side="right") - 1).tolist()
    return found


def _normalized(kept: np.ndarray, starts: np.ndarray, table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Put the texts with characters that are not ``_NEAR`` into NFKC; :func:`tokens_of` does the others by chunk.

    What :meth:`UnicodeRules.split` has blanked combines with no mark, or is blanked again.
    """
    _, begins, points = _points(kept)
    texts = _texts_at(begins[_known(_FAR, points, _is_far) == 1], starts)
    written = ((text, decode(kept[starts[text] : starts[text + 1] - 1].tobytes())) for text in texts)
    return _replaced(kept, starts, {text: encode(nfkc(content)).translate(table) for text, content in written})


def _is_far(point: int) -> bool:
    sign = chr(point)
    normal = nfkc(sign)
    return normal != nfc(sign) and point not in _REPLACED and not _NEAR.fullmatch(classes_of(sign + normal))


def _replaced(kept: np.ndarray, starts: np.ndarray, new: dict[int, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """``kept`` and ``starts`` with the bytes of some texts, in order, replaced by new ones."""
    if not new:
        return kept, starts
    parts, position = [], 0
    lengths = np.diff(starts)
    for text, content in new.items():
        parts += [kept[position : starts[text]], np.frombuffer(content, np.uint8)]
        lengths[text] = len(content) + 1
        position = starts[text + 1] - 1
    parts.append(kept[position:])
    return np.concatenate(parts), np.concatenate([starts[:1], starts[0] + np.cumsum(lengths)])


@dataclass(frozen=True)
class UnicodeRules:
    """The tokenizer ``unicode`` as :class:`preprocessing.text.tokenizer.Rules`."""

    spec: TextSpec

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Cut texts into chunks, after the markup is removed and characters are normalized as the specification says.

        ``texts`` is a string or large_string array without nulls, at most 1 GiB in all. Returns the chunks of all texts
        in order, a binary array that shares no memory with the input, and int64 [texts + 1] offsets into it.
        """
        joined, starts = join(texts, self.spec)
        table = _TABLES[self.spec.lowercase]
        kept = np.frombuffer(bytearray(joined.translate(table)), np.uint8)
        if self.spec.html:
            tags, markup = scan(joined)
            kept[tags] = 0
            written = (
                (text, decode(joined[starts[text] : starts[text + 1] - 1])) for text in _texts_at(markup, starts)
            )
            kept, starts = _replaced(kept, starts, {text: encode(clean(its)).translate(table) for text, its in written})
        if self.spec.normalize == "nfkc":
            kept, starts = _normalized(kept, starts, table)
        kind, alone = _kinds(kept)
        begins = np.append(False, kind[1:] != kind[:-1])
        begins[alone] = True
        within = np.flatnonzero(kind != _SEPARATES)
        offsets = np.append(np.flatnonzero(begins.take(within)), len(within))
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(kept.take(within))]
        chunks = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
        return chunks, np.searchsorted(offsets[:-1], np.searchsorted(within, starts))

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """A chunk of ASCII letters and digits is a token as it stands."""
        spec = self.spec
        return [[chunk.decode()] if chunk.isalnum() else tokens_of(decode(chunk), spec) for chunk in surfaces]
