# SPDX-License-Identifier: Apache-2.0
"""The tokenizers ``word`` and ``unicode``.

``word``: letters and digits of any script, with their marks and inner apostrophes. A word begins with a letter or a
digit (Unicode categories L, N), goes on with letters, digits and combining marks (M), and may hold single apostrophes
between two such runs: ``don't``, ``l'été``. Typographic apostrophes become ``'``. Invisible joiners (soft hyphen,
zero-width joiners) vanish. All else separates: punctuation, symbols, emoji, control characters, NUL. Words are in NFC;
lower case is :meth:`str.lower` of the word, in NFC again.

``unicode`` also has what these lose. Of scripts that are written without spaces (Chinese, Japanese, Thai, Khmer, …)
each letter with its marks is a token. So is each emoji (category So, without skin tone), and each run of ``!`` and
``?``, of which two are kept. ``#`` before a word belongs to it; a point or comma joins two ASCII digits: ``3.5``.

Two passes give one result. :func:`split` cuts bytes of thousands of texts at once into *chunks*, which end where a
token ends, and never before a mark. :func:`words_of` decides, once per distinct chunk, which words it holds; a chunk of
ASCII letters and digits is a word as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from preprocessing.text.cleaning import clean, decode, encode, nfc, scan

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

_APOSTROPHE, _HASH = ord("'"), ord("#")
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
_CLASS_OF = {
    **dict.fromkeys(map(ord, "!?\uff01\uff1f"), "!"),
    _APOSTROPHE: "'",
    _HASH: "#",
    ord("."): ".",
    ord(","): ".",
}
_WORD = re.compile("[wda][wdam]*(?:'[wda][wdam]*)*")
_TOKEN = re.compile(r"(?:#(?=[wd]))?[wd][wdm]*(?:(?:'|(?<=d)\.(?=d))[wd][wdm]*)*|am*|e|!+")


class _Classes(dict[int, str]):
    """Code point → its class, as in the patterns above; filled as characters are met.

    ``w``: letter or digit; ``d``: ASCII digit; ``a``: letter of a script without spaces; ``m``: mark; ``e``: emoji or
    another symbol; ``t``: skin tone; ``!``, ``'``, ``#``, ``.``: these and their like; a space: all else.
    """

    def __missing__(self, point: int) -> str:
        category = unicodedata.category(chr(point))
        if category[0] == "L":
            kind = "a" if _is_in(_WITHOUT_SPACES, point) else "w"
        elif category[0] in "NM":
            kind = "m" if category[0] == "M" else "d" if point < 128 else "w"
        elif category == "So" and not _is_in(_DRAWING, point):
            kind = "e"
        else:
            kind = "t" if _is_in(_SKIN_TONES, point) else _CLASS_OF.get(point, " ")
        self[point] = kind
        return kind


def _is_in(blocks: tuple[tuple[int, int], ...], point: int) -> bool:
    return any(start <= point < end for start, end in blocks)


_CLASSES = _Classes()


def words_of(chunk: str, lowercase: bool, pattern: re.Pattern[str] = _WORD) -> list[str]:
    """The tokens of a text with any characters, exact but slow; ``pattern`` is ``_WORD`` or ``_TOKEN``."""
    chunk = nfc(chunk.translate(_REPLACED))
    classes = chunk.translate(_CLASSES)
    spans = [match.span() for match in pattern.finditer(classes)]
    words = [chunk[start : min(end, start + 2) if classes[start] == "!" else end] for start, end in spans]
    return [nfc(word.lower()) for word in words] if lowercase else words


def _table(lowercase: bool, kept: bytes) -> bytes:
    """Byte → the byte a word keeps for it, or 0 where it separates; non-ASCII bytes stay, and ``kept`` does."""
    table = bytes(point if point >= 128 or chr(point).isalnum() or point in kept else 0 for point in range(256))
    return table[:128].lower() + table[128:] if lowercase else table


_TABLES = {lowercase: _table(lowercase, b"'") for lowercase in (False, True)}
_UNICODE_TABLES = {lowercase: _table(lowercase, b"'#.,!?") for lowercase in (False, True)}
_SEPARATES, _WITHIN, _ATTACHED, _SIGN, _ALONE, _POINT, _HASHES, _UNKNOWN = 0, 1, 2, 3, 4, 5, 6, 255
"""Kinds of bytes: between tokens, in a word, part of what is before, ``!`` or ``?``, a token by itself, in a number or
between tokens, before a word or between tokens."""
_KIND_OF = {" ": _SEPARATES, "m": _ATTACHED, "t": _ATTACHED, "!": _SIGN, "a": _ALONE, "e": _ALONE}
_KIND_OF |= {".": _POINT, "#": _HASHES}
_KINDS = np.full(0x110000, _UNKNOWN, np.uint8)
"""The kind of each character; filled as characters are met."""
_KINDS[list(_INVISIBLE)] = _ATTACHED
_KINDS[list(_REPLACED.keys() - _INVISIBLE.keys())] = _WITHIN
_KINDS_OF_BYTES = bytes([*(_KIND_OF.get(_CLASSES[byte], _WITHIN) for byte in range(128)), *[_WITHIN] * 128])


def split(texts: pa.Array, strip_html: bool, lowercase: bool, unicode: bool = False) -> tuple[pa.Array, np.ndarray]:
    """Cut texts into chunks.

    ``texts`` is a string or large_string array without nulls, at most 1 GiB in all. Returns the chunks of all texts in
    order, a binary array that shares no memory with the input, and int64 [texts + 1] offsets into it.
    """
    joined, starts = join(texts)
    table = (_UNICODE_TABLES if unicode else _TABLES)[lowercase]
    kept = np.frombuffer(bytearray(joined.translate(table)), np.uint8)
    if strip_html:
        kept, starts = _without_html(joined, kept, starts, table)
    kind, begins = _kinds(kept) if unicode else ((kept != 0).view(np.uint8), None)
    _drop_outer_apostrophes(kept, kind)
    edge = kind[1:] != kind[:-1]
    if begins is not None:
        edge[begins - 1] = True
    edges = np.flatnonzero(edge)
    within = kind[edges[:-1] + 1] != 0
    first, end = edges[:-1][within], edges[1:][within]  # chunk i is kept[first[i] + 1 : end[i] + 1]
    offsets = np.zeros(len(first) + 1, np.int32)
    np.cumsum(end - first, out=offsets[1:], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.compress(kind, kept))]
    return pa.Array.from_buffers(pa.binary(), len(first), buffers), np.searchsorted(first, starts - 1)


def _kinds(kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For ``unicode``: the kind of each byte, and where a chunk begins although the byte before is of the same kind."""
    kind = np.frombuffer(bytearray(kept.tobytes().translate(_KINDS_OF_BYTES)), np.uint8)
    lead = np.flatnonzero(kept >= 0xC0)
    alone = lead[_put_kinds(kept, lead, kind) == _ALONE]
    special = np.flatnonzero(kind >= _POINT)
    point, tag = special[kind[special] == _POINT], special[kind[special] == _HASHES]
    numbers = [(kept[at] - ord("0") < 10) | (kind[at] == _ATTACHED) for at in (point - 1, point + 1)]
    kind[point] = np.where(numbers[0] & numbers[1], _WITHIN, _SEPARATES)
    tag = tag[(kind[tag + 1] == _WITHIN) | (kind[tag + 1] == _ATTACHED)]
    kind[special[kept[special] == _HASH]] = _SEPARATES
    kind[tag] = _WITHIN
    attached = kind == _ATTACHED
    if len(lead) and attached.any():
        kind = kind[np.maximum.accumulate(np.where(attached, 0, np.arange(len(kind))))]
    return kind, np.concatenate((alone, tag))


def _put_kinds(kept: np.ndarray, lead: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """The kinds of the characters whose first bytes are at ``lead``; also put into ``kind``, for all their bytes."""
    first = kept[lead]
    one, two, three = (kept[lead + place].astype(np.uint32) & 63 for place in (1, 2, 3))
    of_two, of_three = (first & 31).astype(np.uint32) << 6 | one, (first & 15).astype(np.uint32) << 12 | one << 6 | two
    of_four = (first & 7).astype(np.uint32) << 18 | one << 12 | two << 6 | three
    point = np.where(first < 0xE0, of_two, np.where(first < 0xF0, of_three, of_four))
    found = _KINDS[point]
    if len(new := np.unique(point[found == _UNKNOWN])):
        _KINDS[new] = [_KIND_OF.get(_CLASSES[one], _WITHIN) for one in new.tolist()]
        found = _KINDS[point]
    for place, least in enumerate((0, 0, 0xE0, 0xF0)):
        longer = first >= least
        kind[lead[longer] + place] = found[longer]
    return found


def join(texts: pa.Array) -> tuple[bytes, np.ndarray]:
    """All texts as one byte string, NUL before, between and after (two at the end), and where each begins.

    The second is int64 [texts + 1]: text i with its final NUL is ``joined[starts[i]:starts[i + 1]]``.
    """
    parts = texts.cast(pa.large_binary()).to_pylist()
    return b"\0".join([b"", *parts, b"", b""]), np.cumsum([1, *(len(part) + 1 for part in parts)])


def _without_html(joined: bytes, kept: np.ndarray, starts: np.ndarray, table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Blank the tags; texts that need more go through :func:`clean`."""
    tag_starts, tag_ends, hard = scan(np.frombuffer(joined, np.uint8), starts)
    if len(tag_starts):
        lengths = tag_ends - tag_starts
        before = np.cumsum(lengths) - lengths
        kept[np.arange(lengths.sum()) + np.repeat(tag_starts - before, lengths)] = 0
    if not len(hard):
        return kept, starts
    parts, position = [], 0
    lengths = np.diff(starts)
    for text in hard.tolist():
        start, end = int(starts[text]), int(starts[text + 1]) - 1
        cleaned = encode(clean(decode(joined[start:end]))).translate(table)
        parts += [kept[position:start], np.frombuffer(cleaned, np.uint8)]
        lengths[text] = len(cleaned) + 1
        position = end
    parts.append(kept[position:])
    return np.concatenate(parts), np.concatenate([starts[:1], starts[0] + np.cumsum(lengths)])


def _drop_outer_apostrophes(kept: np.ndarray, kind: np.ndarray) -> None:
    """An apostrophe stays in a chunk only between two bytes of the chunk that are no apostrophes."""
    at = np.flatnonzero(kept == _APOSTROPHE)
    before, after = kept[at - 1], kept[at + 1]
    inner = (before != 0) & (before != _APOSTROPHE) & (after != 0) & (after != _APOSTROPHE)
    kind[at[~inner]] = 0


class WordRules:
    """:func:`split` and :func:`words_of` as :class:`preprocessing.text.tokenizer.Rules`."""

    def __init__(self, spec: TextSpec) -> None:
        self._spec = spec
        self._unicode = spec.tokenizer == "unicode"

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Chunks, see :func:`split`."""
        return split(texts, self._spec.html, self._spec.lowercase, self._unicode)

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """An ASCII chunk of letters and digits is a word as it stands; any, of ``word``."""
        lowercase, pattern = self._spec.lowercase, _TOKEN if self._unicode else _WORD
        return [
            [chunk.decode()] if chunk.isalnum() else words_of(decode(chunk), lowercase, pattern) for chunk in surfaces
        ]
