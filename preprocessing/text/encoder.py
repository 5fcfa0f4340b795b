# SPDX-License-Identifier: Apache-2.0
"""The one text → ids function (law 1). Shards, predictions and exports all call :class:`Encoder`.

The steps: HTML → normal form → lower case → words → stop words → lemmas → subwords → vocabulary.

Explanations and reports need the position of each token in its text (:func:`spans_of`). The pipeline processes
thousands of texts at once and keeps no positions. So each chunk of a text between two spaces is tokenized alone, and
its tokens are searched in it. Together they are the tokens of the text, except where a tokenizer looks at neighbouring
chunks, as NLTK's does at quotes; there the two lists are aligned.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from preprocessing.text.cleaning import LONG, normalized, visible
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Texts, Tokenizer
from preprocessing.text.vocabulary import INSIDE, RESERVED, UNK, Vocabulary


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as ids: text i is ``ids[offsets[i]:offsets[i + 1]]``, at least one id long."""

    ids: np.ndarray
    """int32 ``[ids]`` after truncation, without padding; a text without tokens is one ``<unk>``."""
    offsets: np.ndarray
    """int64 ``[texts + 1]`` into ``ids``."""
    num_tokens: np.ndarray
    """int64 ``[texts]`` before truncation, 0 where nothing was left of the text."""

    def __len__(self) -> int:
        return len(self.num_tokens)


def truncated(ids: np.ndarray, offsets: np.ndarray, spec: TextSpec) -> Encoded:
    """Cut each text's ids to ``spec.max_tokens``; a text without ids becomes one ``<unk>``."""
    num_tokens = np.diff(offsets)
    limit, head = spec.max_tokens, kept_at_head(spec)
    kept = np.ones(len(ids), bool)
    for row in np.flatnonzero(num_tokens > limit):
        kept[offsets[row] + head : offsets[row + 1] - (limit - head)] = False
    lengths = np.minimum(num_tokens, limit)
    ids = np.insert(ids[kept], np.cumsum(lengths)[num_tokens == 0], np.int32(UNK))
    return Encoded(ids, np.concatenate([[0], np.cumsum(np.maximum(lengths, 1))]), num_tokens)


def kept_at_head(spec: TextSpec) -> int:
    """How many tokens a text that is too long keeps at its head; the rest of ``spec.max_tokens`` is its end."""
    limit = spec.max_tokens
    return {"head": limit, "tail": 0, "both": limit - limit // 2}[spec.truncate]


def text_hash(pipeline: TextPipeline, vocabulary_hash: str) -> str:
    """Identifies a text→ids function (law 1)."""
    return hashlib.sha256(f"{pipeline.hash} {vocabulary_hash}".encode()).hexdigest()


class Encoder:
    """``Encoder(pipeline, vocabulary)(texts)`` → :class:`Encoded`: what shards, predictions and exports all use.

    Raises :class:`DataError` when the resources installed here are not those the pipeline was resolved with.
    """

    def __init__(self, pipeline: TextPipeline, vocabulary: Vocabulary) -> None:
        self.pipeline = pipeline
        self.vocabulary = vocabulary
        self.hash = text_hash(pipeline, vocabulary.hash)
        self.tokenizer = Tokenizer(pipeline, vocabulary)

    def __call__(self, texts: Texts) -> Encoded:
        """The ids of ``texts``. Accepts the same forms as :class:`Tokenizer`, and raises the same errors."""
        tokens = self.tokenizer(texts)
        ids = self.vocabulary.lookup(tokens.types)[tokens.codes]
        return truncated(ids, tokens.offsets, self.pipeline.spec)

    def each(self, texts: Texts) -> list[np.ndarray]:
        """The ids of each text as an array of its own."""
        encoded = self(texts)
        return np.split(encoded.ids, encoded.offsets[1:-1]) if len(encoded) else []


Span = tuple[int, int]
"""Start and end (exclusive) of a token in its text, in code points."""
TokensOf = Callable[[list[str]], list[list[str]]]
"""The tokens of each of some texts."""
_CHUNK = re.compile(r"\S+")
_ENTITY = re.compile(r"&#?\w{1,32};")
_LOOK_AHEAD = 24
"""Most tokens by which two lists may be shifted and still be aligned."""


def spans_of(
    text: str, first: Sequence[str], last: Sequence[str], tokens_of: TokensOf, spec: TextSpec
) -> list[Span | None]:
    """The spans of a text's ``first`` and ``last`` tokens, of which unknown ones are ``<unk>``; None for one that is
    not found.

    If the text is not truncated, ``first`` holds all tokens. ``tokens_of`` tokenizes as the pipeline with ``spec``
    does. Tokens that are not found in their chunk get its whole span.
    """
    segments = visible(text) if spec.html else [(0, len(text))]
    chunks = [match.span() for start, end in segments for match in _CHUNK.finditer(text, start, end)]
    found, known = tokens_of([text[start:end] for start, end in chunks]), {*first, *last}
    words = [token if token in known else RESERVED[UNK] for own in found for token in own]
    spans = [span for chunk, own in zip(chunks, found, strict=True) for span in _inside(text, chunk, own, spec)]
    return _beside(first, words, spans) + _beside(last[::-1], words[::-1], spans[::-1])[::-1]


def _inside(text: str, chunk: Span, tokens: list[str], spec: TextSpec) -> list[Span]:
    """The span of each token in its chunk; the whole chunk for each if one is not found."""
    start, end = chunk
    written, whole = text[start:end], chunk
    if spec.html and "&" in written:
        written = _ENTITY.sub(lambda entity: " " * len(entity[0]), written)
    else:
        kept = [place for place in range(start, end) if _is_kept(text[place])]
        whole = (kept[0], kept[-1] + 1) if kept else chunk  # without punctuation around it
        if len(tokens) == 1:  # perhaps a lemma
            return [whole]
    position, result = 0, []
    folded, places = _folded(written, spec)
    for token in tokens:
        piece = token.removeprefix(INSIDE if spec.subwords != "none" else "").lower()
        position = folded.find(piece, position)
        if position < 0:
            return [whole] * len(tokens)
        position += len(piece)
        result.append((start + places[position - len(piece)][0], start + places[position - 1][1]))
    return result


def _folded(written: str, spec: TextSpec) -> tuple[str, list[Span]]:
    """A text as tokens are spelt, in lower case, and for each of its characters the span that it comes from."""

    def fold(part: str) -> str:
        return normalized(part, spec).lower()

    folded, places, start = "", list[Span](), 0
    for end in range(1, len(written) + 1):
        here, more = fold(written[start:end]), written[end : end + 1]
        joins = more and (not (alone := fold(more)) or fold(written[start : end + 1]) != here + alone)
        if not joins or end - start == LONG:
            folded += here
            places += [(start, end)] * len(here)
            start = end
    return folded, places


def _is_kept(character: str) -> bool:
    """Whether a token may begin or end with it."""
    return unicodedata.category(character).startswith(("L", "M", "N", "So")) or character in "!?#\uff01\uff1f"


def _beside(tokens: Sequence[str], others: list[str], spans: list[Span]) -> list[Span | None]:
    """The span of each token, by aligning ``tokens`` to ``others``, an almost equal list that may be longer."""
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
