# SPDX-License-Identifier: Apache-2.0
"""Where in a text its tokens stand, for explanations and reports.

The text pipeline works on bytes of thousands of texts at once and keeps no places. Here each piece of a text between
two blanks goes through the same pipeline by itself, and each finer piece of it, a word or a sign, where it is several
tokens. The tokens of all pieces are those of the text, in its order, but where a tokenizer looks at a piece's
neighbours, as NLTK's does at quotes; there both lists are laid beside each other, and go on where they agree again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import partial
from itertools import chain

from preprocessing.text import html

Span = tuple[int, int]
"""The first character of a token in its text, and the one behind its last, counted in code points."""
TokensOf = Callable[[list[str]], list[list[str]]]
"""The tokens of each of some texts."""
_CHUNK = re.compile(r"\S+")
_ENTITY = re.compile(r"&#?\w{1,32};")
_FINE = re.compile("e+|w+(?:'w+)*|.", re.DOTALL)
_LOOK_AHEAD = 24
"""Tokens by which two lists may be apart and find together again."""


class _Kinds(dict[int, str]):
    """Code point → ``w`` (what words are written in), ``'`` or ``s`` (a sign); filled as characters are met."""

    def __missing__(self, point: int) -> str:
        kind = "w" if unicodedata.category(chr(point))[0] in "LNM" or point in _JOINERS else "s"
        self[point] = kind = "'" if point in _APOSTROPHES else kind
        return kind


_JOINERS = {0x00AD, 0x200C, 0x200D, 0x2060}
_APOSTROPHES = {0x0027, 0x2019, 0x02BC, 0xFF07}
_KINDS = _Kinds()


def spans_of(
    text: str, first: Sequence[str], last: Sequence[str], tokens_of: TokensOf, *, strip_html: bool
) -> list[Span | None]:
    """The places of the tokens that a text has ``first`` and ``last``; None where one is not found.

    A text that is not truncated has all of its tokens first. ``tokens_of`` is the pipeline up to its tokens, and
    ``strip_html`` whether it removes markup. Tokens of one piece that cannot be told apart have its whole span.
    """
    segments = html.visible(text) if strip_html else [(0, len(text))]
    chunks = [match.span() for start, end in segments for match in _CHUNK.finditer(text, start, end)]
    place = partial(_placed, text, tokens_of=tokens_of, entities=strip_html)
    found = _beside(first, *_enough(chunks, len(first), place))
    chunks.reverse()
    words, spans = _enough(chunks, len(last), lambda some: place(some[::-1]), backwards=True)
    return found + _beside(last[::-1], words, spans)[::-1]


def _enough(
    chunks: list[Span],
    wanted: int,
    place: Callable[[list[Span]], tuple[list[str], list[Span]]],
    backwards: bool = False,
) -> tuple[list[str], list[Span]]:
    """The tokens of as many chunks as hold the ``wanted`` ones, and where they stand."""
    words: list[str] = []
    spans: list[Span] = []
    size = wanted + _LOOK_AHEAD
    for start in range(0, len(chunks), size):
        if len(words) >= wanted + _LOOK_AHEAD or not wanted:
            break
        some, places = place(chunks[start : start + size])
        words += some[::-1] if backwards else some
        spans += places[::-1] if backwards else places
    return words, spans


def _placed(text: str, chunks: list[Span], *, tokens_of: TokensOf, entities: bool) -> tuple[list[str], list[Span]]:
    """The tokens of some chunks, and where they stand."""
    found = tokens_of([text[start:end] for start, end in chunks])
    hard = [
        (chunk, own)
        for chunk, own in zip(chunks, found, strict=True)
        if len(own) > 1 or (own and entities and "&" in text[slice(*chunk)])
    ]
    finer = _apart(text, hard, tokens_of, entities)
    words: list[str] = []
    spans: list[Span] = []
    for chunk, own in zip(chunks, found, strict=True):
        words += own
        spans += finer.get(chunk) or [_trimmed(text, chunk)] * len(own)
    return words, spans


def _apart(
    text: str, chunks: list[tuple[Span, list[str]]], tokens_of: TokensOf, entities: bool
) -> dict[Span, list[Span]]:
    """The span of each token of the ``chunks``, which come with their tokens."""
    inner = [_fine(text, chunk, entities) for chunk, _ in chunks]
    tokens = iter(tokens_of([text[start:end] for start, end in chain.from_iterable(inner)]))
    result = {}
    for (chunk, wanted), pieces in zip(chunks, inner, strict=True):
        spans: list[Span] = []
        for piece in pieces:
            own = next(tokens)
            spans += [piece] if len(own) == 1 else _searched(text, piece, own)
        result[chunk] = spans if len(spans) == len(wanted) else _searched(text, chunk, wanted)
    return result


def _fine(text: str, chunk: Span, entities: bool) -> list[Span]:
    """The entities, words and signs of a chunk."""
    written = text[slice(*chunk)]
    kinds = written.translate(_KINDS)
    for match in _ENTITY.finditer(written) if entities else ():
        kinds = kinds[: match.start()] + "e" * len(match[0]) + kinds[match.end() :]
    return [(chunk[0] + match.start(), chunk[0] + match.end()) for match in _FINE.finditer(kinds)]


def _searched(text: str, chunk: Span, tokens: list[str]) -> list[Span]:
    """The tokens of a chunk as they are written in it, one behind the other; the chunk for each if one is not."""
    written, position, result = text[slice(*chunk)].lower(), 0, []
    for token in tokens:
        position = written.find(token.lower(), position)
        if position < 0 or len(written) != chunk[1] - chunk[0]:
            return [_trimmed(text, chunk)] * len(tokens)
        result.append((chunk[0] + position, chunk[0] + position + len(token)))
        position += len(token)
    return result


def _trimmed(text: str, chunk: Span) -> Span:
    """A chunk without the signs before and after it, if there is more than signs."""
    kinds = text[slice(*chunk)].translate(_KINDS)
    first, last = kinds.find("w"), kinds.rfind("w")
    return chunk if first < 0 or "&" in text[slice(*chunk)] else (chunk[0] + first, chunk[0] + last + 1)


def _beside(tokens: Sequence[str], others: list[str], spans: list[Span]) -> list[Span | None]:
    """The span of each token, from those of almost the same list of ``others``, which may go on longer."""
    if list(tokens) == others[: len(tokens)]:
        return [*spans[: len(tokens)]]
    result: list[Span | None] = [None] * len(tokens)
    for kind, start, end, other, other_end in SequenceMatcher(None, tokens, others, autojunk=False).get_opcodes():
        between = spans[other:other_end]
        if kind == "equal":
            result[start:end] = between
        elif between:
            whole = min(first for first, _ in between), max(last for _, last in between)
            result[start:end] = [whole] * (end - start)
    return result
