# SPDX-License-Identifier: Apache-2.0
"""The tokenizer ``unicode`` for thousands of texts at once; :mod:`preprocessing.text.characters` says what a token is.

Two passes give one result. :meth:`UnicodeRules.split` cuts the bytes of thousands of texts at once into *chunks*, and
:func:`tokens_of` decides, once per distinct chunk, which tokens it holds. A chunk may hold several tokens, but never
half of one, nor a letter without its marks; a chunk of ASCII letters and digits is a token unchanged.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from preprocessing.text.characters import (
    CLASSES,
    INVISIBLE,
    REPLACEMENTS,
    classes_of,
    clean,
    decode,
    encode,
    normalize,
    tokens_of,
)

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

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


_SEPARATOR, _WORD, _SIGN, _SINGLE, _ATTACHED, _UNSET = 0, 1, 2, 3, 4, 255
"""Kinds of characters for :meth:`UnicodeRules.split`: between chunks; in a word; ``!`` or ``?``; a chunk by itself;
part of the chunk of the previous character; not computed yet."""
_KIND_OF = {"w": _WORD, "!": _SIGN, "a": _SINGLE, "e": _SINGLE, "m": _ATTACHED, "t": _ATTACHED, " ": _SEPARATOR}
_KINDS = np.full(0x110000, _UNSET, np.uint8)
"""The kind of each character that is not ASCII; computed when it first occurs."""
_KINDS[[*REPLACEMENTS]] = _WORD
_KINDS[[*INVISIBLE]] = _ATTACHED
_FULL_COMMA = "，".encode()
_CUT_ALIKE = re.compile(r"w[wd](.*[wdm])?|!!+|a(am*)+|  [ m]*| \.{2,}")
"""Class of a character, and classes of its NFKC, where it makes no difference whether a text is normalized before it is
cut into chunks."""
_NEEDS_NFKC = np.full(0x110000, _UNSET, np.uint8)
"""1 for other characters; computed when one first occurs."""
_SEPARATORS = bytes(byte for byte in range(128) if CLASSES[byte] == " ")
_CASED = bytes.maketrans(_SEPARATORS, bytes(len(_SEPARATORS)))
_TABLES = {False: _CASED, True: _CASED[:128].lower() + _CASED[128:]}
"""For each ``lowercase``: byte → the byte that a token has for it, or 0 where it separates."""
_BY_APOSTROPHE, _BY_POINT, _BY_HASH = 1, 2, 4
_JOINTS = np.zeros(256, np.uint8)
"""Kind of a sign that may belong to a chunk: an apostrophe, a point or comma, a ``#``."""
_JOINTS[[ord(sign) for sign in "'.,#"]] = _BY_APOSTROPHE, _BY_POINT, _BY_POINT, _BY_HASH
_RIGHT_JOINTS = np.array([0] * 128 + [7] * 128, np.uint8)
"""Kinds of signs that may join a byte to the previous one; :func:`tokens_of` is exact for those beyond ASCII."""
_RIGHT_JOINTS[[point for point in range(128) if chr(point).isalnum()]] = _BY_APOSTROPHE | _BY_HASH
_RIGHT_JOINTS[[*b"0123456789"]] |= _BY_POINT
_LEFT_JOINTS = _RIGHT_JOINTS | _BY_HASH


def _classify_bytes(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kind of each byte, and where characters begin that are chunks by themselves."""
    kinds = (data != 0).astype(np.uint8)  # _WORD or _SEPARATOR
    positions = np.flatnonzero((data - 1 < ord("0") - 1) | (data == ord("?")))  # all signs that the tables keep
    signs = data.take(positions)
    left_joints, right_joints = (
        _LEFT_JOINTS.take(data.take(positions - 1)),
        _RIGHT_JOINTS.take(data.take(positions + 1)),
    )
    is_joint = (left_joints & _JOINTS.take(signs) & right_joints) != 0
    kinds[positions] = np.where((signs == ord("!")) | (signs == ord("?")), _SIGN, is_joint)
    return kinds, _classify_characters(data, kinds)


def _classify_characters(data: np.ndarray, byte_kinds: np.ndarray) -> np.ndarray:
    """Put the kinds of characters beyond ASCII into ``byte_kinds``, at all their bytes; returns where those begin that
    are chunks by themselves.
    """
    positions, begins, points = _code_points(data)
    kinds = _look_up(_KINDS, points, lambda point: _KIND_OF[CLASSES[point]])
    sizes = 2 + (points >= 0x800) + (points >= 0x10000)
    byte_kinds[positions] = np.repeat(kinds, sizes)
    marks = np.flatnonzero(kinds == _ATTACHED)
    if len(marks):
        previous = begins[marks] - 1
        previous[1:][previous[1:] == (begins + sizes)[marks[:-1]] - 1] = 0  # a mark after a mark has the kind of that
        kinds[marks] = byte_kinds[np.maximum.accumulate(previous)]
        byte_kinds[positions] = np.repeat(kinds, sizes)
        kinds[marks] = _ATTACHED
    return begins[kinds == _SINGLE]


def _code_points(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The positions of bytes beyond ASCII, those where characters begin, and the code points of these."""
    positions = np.flatnonzero(data >= 0x80)
    high = data.take(positions)
    points = np.frombuffer(high.tobytes().decode().encode("utf-32-le"), np.uint32)
    return positions, np.compress(high >= 0xC0, positions), points


def _look_up(table: np.ndarray, points: np.ndarray, compute: Callable[[int], int]) -> np.ndarray:
    """The values of code points in a ``table``; those that are not set are computed and put there."""
    unset = np.unique(points[table.take(points) == _UNSET])
    if len(unset):
        table[unset] = [compute(point) for point in unset.tolist()]
    return table.take(points)


def join_texts(texts: pa.Array, spec: TextSpec) -> tuple[bytes, np.ndarray]:
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
    texts: list[int] = np.unique(np.searchsorted(starts, positions, side="right") - 1).tolist()
    return texts


def _normalize_texts(data: np.ndarray, starts: np.ndarray, table: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Put the texts with characters that are not ``_CUT_ALIKE`` into NFKC; :func:`tokens_of` does the others by chunk.

    A byte that :meth:`UnicodeRules.split` has blanked combines with no mark, or is blanked again.
    """
    _, begins, points = _code_points(data)
    contents = {}
    for text in _texts_at(begins[_look_up(_NEEDS_NFKC, points, _needs_nfkc) == 1], starts):
        content = decode(data[starts[text] : starts[text + 1] - 1].tobytes())
        contents[text] = encode(normalize(content, "nfkc")).translate(table)
    return _replace_texts(data, starts, contents)


def _needs_nfkc(point: int) -> bool:
    sign = chr(point)
    normal = normalize(sign, "nfkc")
    is_changed = normal != normalize(sign, "nfc") and point not in REPLACEMENTS
    return is_changed and not _CUT_ALIKE.fullmatch(classes_of(sign + normal))


def _replace_texts(data: np.ndarray, starts: np.ndarray, contents: dict[int, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """``data`` and ``starts`` with some texts, in order, replaced by these ``contents``."""
    if not contents:
        return data, starts
    parts, position = [], 0
    lengths = np.diff(starts)
    for text, content in contents.items():
        parts += [data[position : starts[text]], np.frombuffer(content, np.uint8)]
        lengths[text] = len(content) + 1
        position = starts[text + 1] - 1
    parts.append(data[position:])
    return np.concatenate(parts), np.concatenate([starts[:1], starts[0] + np.cumsum(lengths)])


@dataclass(frozen=True)
class UnicodeRules:
    """The tokenizer ``unicode`` as :class:`preprocessing.text.tokenizer.Rules`."""

    spec: TextSpec

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Cut texts into chunks, after the markup is removed and characters are normalized as in the specification.

        ``texts`` is a string or large_string array without nulls, at most 1 GiB in all. Returns the chunks of all texts
        in order, a binary array that shares no memory with the input, and int64 [texts + 1] offsets into it.
        """
        joined, starts = join_texts(texts, self.spec)
        table = _TABLES[self.spec.lowercase]
        data = np.frombuffer(bytearray(joined.translate(table)), np.uint8)
        if self.spec.html:
            tags, markup = find_tags(joined)
            data[tags] = 0
            contents = {}
            for text in _texts_at(markup, starts):
                content = decode(joined[starts[text] : starts[text + 1] - 1])
                contents[text] = encode(clean(content)).translate(table)
            data, starts = _replace_texts(data, starts, contents)
        if self.spec.normalize == "nfkc":
            data, starts = _normalize_texts(data, starts, table)
        kinds, singles = _classify_bytes(data)
        begins_chunk = np.append(False, kinds[1:] != kinds[:-1])
        begins_chunk[singles] = True
        positions = np.flatnonzero(kinds != _SEPARATOR)
        offsets = np.append(np.flatnonzero(begins_chunk.take(positions)), len(positions))
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data.take(positions))]
        chunks = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, buffers)
        return chunks, np.searchsorted(offsets[:-1], np.searchsorted(positions, starts))

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """A chunk of ASCII letters and digits is a token unchanged."""
        word_lists = list[list[str]]()
        for chunk in surfaces:
            if chunk.isalnum():
                word_lists.append([chunk.decode()])
            else:
                word_lists.append(tokens_of(decode(chunk), self.spec))
        return word_lists
