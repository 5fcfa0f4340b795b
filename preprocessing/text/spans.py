# SPDX-License-Identifier: Apache-2.0
"""Where in a text its tokens stand, for explanations and reports.

The text pipeline works on bytes of thousands of texts at once and keeps no places. Here each piece of a text between
two blanks goes through the same pipeline by itself; where it becomes several tokens, they are searched in it. The
tokens of all pieces are those of the text, in its order, but where a tokenizer looks at a piece's neighbours, as NLTK's
does at quotes; there both lists are laid beside each other, and go on where they agree again.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

from preprocessing.text.cleaning import visible

Span = tuple[int, int]
"""The first character of a token in its text, and the one behind its last, counted in code points."""
TokensOf = Callable[[list[str]], list[list[str]]]
"""The tokens of each of some texts."""
_CHUNK = re.compile(r"\S+")
_ENTITY = re.compile(r"&#?\w{1,32};")
_LOOK_AHEAD = 24
"""Tokens by which two lists may be apart and find together again."""


def spans_of(
    text: str, first: Sequence[str], last: Sequence[str], tokens_of: TokensOf, *, strip_html: bool
) -> list[Span | None]:
    """The places of the tokens that a text has ``first`` and ``last``; None where one is not found.

    A text that is not truncated has all of its tokens first. ``tokens_of`` is the pipeline up to its tokens, and
    ``strip_html`` whether it removes markup. Tokens of one piece that cannot be told apart have its whole span.
    """
    segments = visible(text) if strip_html else [(0, len(text))]
    chunks = [match.span() for start, end in segments for match in _CHUNK.finditer(text, start, end)]
    found = tokens_of([text[start:end] for start, end in chunks])
    words = [token for own in found for token in own]
    spans = [span for chunk, own in zip(chunks, found, strict=True) for span in _inside(text, chunk, own, strip_html)]
    return _beside(first, words, spans) + _beside(last[::-1], words[::-1], spans[::-1])[::-1]


def _inside(text: str, chunk: Span, tokens: list[str], entities: bool) -> list[Span]:
    """The tokens of a chunk as they are written in it, one behind the other; the chunk for each if one is not."""
    start, end = chunk
    if entities and "&" in text[start:end]:
        written, whole = _ENTITY.sub(lambda entity: " " * len(entity[0]), text[start:end]), chunk
    else:
        written, whole = text[start:end], _trimmed(text, chunk)
        if len(tokens) == 1:  # perhaps a lemma
            return [whole]
    position, result, written = 0, [], written.lower()
    for token in tokens:
        position = written.find(token.lower(), position)
        if position < 0 or len(written) != end - start:
            return [whole] * len(tokens)
        result.append((start + position, start + position + len(token)))
        position += len(token)
    return result


def _trimmed(text: str, chunk: Span) -> Span:
    """A chunk without the signs before and after it, if there is more than signs."""
    of_words = [place for place in range(*chunk) if unicodedata.category(text[place])[0] in "LNM"]
    return (of_words[0], of_words[-1] + 1) if of_words else chunk


def _beside(tokens: Sequence[str], others: list[str], spans: list[Span]) -> list[Span | None]:
    """The span of each token, from those of almost the same list of ``others``, which may go on longer."""
    if list(tokens) == others[: len(tokens)]:
        return [*spans[: len(tokens)]]
    result: list[Span | None] = [None] * len(tokens)
    others = others[: len(tokens) + _LOOK_AHEAD]
    for kind, start, end, other, other_end in SequenceMatcher(None, tokens, others, autojunk=False).get_opcodes():
        between = spans[other:other_end]
        if kind == "equal":
            result[start:end] = between
        elif between:
            whole = min(first for first, _ in between), max(last for _, last in between)
            result[start:end] = [whole] * (end - start)
    return result
