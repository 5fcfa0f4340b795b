# SPDX-License-Identifier: Apache-2.0
"""The ``word`` tokenizer: letters and digits of any script, with their marks and inner apostrophes.

A word begins with a letter or a digit (Unicode categories L, N), goes on with letters, digits and combining marks (M),
and may hold single apostrophes between two such runs: ``don't``, ``l'été``. Typographic apostrophes become ``'``.
Invisible joiners (soft hyphen, zero-width joiners) vanish. All else separates: punctuation, symbols, emoji, control
characters, NUL. Words are in NFC; lower case is :meth:`str.lower` of the word, in NFC again.

Two passes give one result. :func:`split` cuts bytes of thousands of texts at once into *chunks* with a byte-class
table: an ASCII chunk is a word as it stands; every non-ASCII byte belongs to a chunk, and :func:`words_of` decides,
once per distinct chunk, which words it holds. That is exact, since a chunk ends at an ASCII character that never
belongs to a word and never composes with what follows into a letter.
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

_APOSTROPHE = ord("'")
_INVISIBLE = dict.fromkeys([0x00AD, 0x200C, 0x200D, 0x2060, 0xFEFF])
_REPLACED: dict[int, int | None] = {**_INVISIBLE, 0x2019: _APOSTROPHE, 0x02BC: _APOSTROPHE, 0xFF07: _APOSTROPHE}
_WORD = re.compile("w[wm]*(?:'w[wm]*)*")


class _Classes(dict[int, str]):
    """Code point → ``w`` (letter, digit), ``m`` (mark), ``'`` or space; filled as characters are met."""

    def __missing__(self, point: int) -> str:
        category = unicodedata.category(chr(point))[0]
        kind = "w" if category in "LN" else "m" if category == "M" else "'" if point == _APOSTROPHE else " "
        self[point] = kind
        return kind


_CLASSES = _Classes()


def words_of(chunk: str, lowercase: bool) -> list[str]:
    """The words of a text with any characters; exact but slow."""
    chunk = nfc(chunk.translate(_REPLACED))
    spans = (match.span() for match in _WORD.finditer(chunk.translate(_CLASSES)))
    if not lowercase:
        return [chunk[start:end] for start, end in spans]
    return [nfc(chunk[start:end].lower()) for start, end in spans]


def _table(lowercase: bool) -> bytes:
    """Byte → the byte a word keeps for it, or 0 where it separates; non-ASCII bytes stay."""
    kept = [point if point >= 128 or chr(point).isalnum() or point == _APOSTROPHE else 0 for point in range(256)]
    table = bytes(kept)
    return table[:128].lower() + table[128:] if lowercase else table


_TABLES = {lowercase: _table(lowercase) for lowercase in (False, True)}


def split(texts: pa.Array, strip_html: bool, lowercase: bool) -> tuple[pa.Array, np.ndarray]:
    """Cut texts into chunks.

    ``texts`` is a string or large_string array without nulls, at most 1 GiB in all. Returns the chunks of all texts in
    order, a binary array that shares no memory with the input, and int64 [texts + 1] offsets into it.
    """
    joined, starts = join(texts)
    table = _TABLES[lowercase]
    kept = np.frombuffer(bytearray(joined.translate(table)), np.uint8)
    if strip_html:
        kept, starts = _without_html(joined, kept, starts, table)
    inside = kept != 0
    _drop_outer_apostrophes(kept, inside)
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    first, end = edges[0::2], edges[1::2]  # chunk i is kept[first[i] + 1 : end[i] + 1]
    offsets = np.zeros(len(first) + 1, np.int32)
    np.cumsum(end - first, out=offsets[1:], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.compress(inside, kept))]
    return pa.Array.from_buffers(pa.binary(), len(first), buffers), np.searchsorted(first, starts - 1)


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


def _drop_outer_apostrophes(kept: np.ndarray, inside: np.ndarray) -> None:
    """An apostrophe stays in a chunk only between two bytes of the chunk that are no apostrophes."""
    at = np.flatnonzero(kept == _APOSTROPHE)
    before, after = kept[at - 1], kept[at + 1]
    inner = (before != 0) & (before != _APOSTROPHE) & (after != 0) & (after != _APOSTROPHE)
    inside[at[~inner]] = False


class WordRules:
    """:func:`split` and :func:`words_of` as :class:`preprocessing.text.tokenizer.Rules`."""

    def __init__(self, spec: TextSpec) -> None:
        self._spec = spec

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Chunks, see :func:`split`."""
        return split(texts, self._spec.html, self._spec.lowercase)

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """An ASCII chunk is a word as it stands."""
        lowercase = self._spec.lowercase
        return [[chunk.decode()] if chunk.isascii() else words_of(decode(chunk), lowercase) for chunk in surfaces]
