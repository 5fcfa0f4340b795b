# SPDX-License-Identifier: Apache-2.0
"""The one text → ids function (law 1). Shards, predictions and exports all call :class:`Encoder`.

The steps: HTML → normal form → lower case → words → stop words → lemmas → subwords → vocabulary.

Explanations and reports need the position of each token in its text (:func:`spans_of`). The pipeline processes
thousands of texts at once and keeps no positions. So each word of a text, and what stands between two words, is
tokenized alone, and its tokens get its position. Together they are the tokens of the text, except where a tokenizer
looks further, as NLTK's does at quotes and hyphens; there the two lists are aligned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from preprocessing.text.cleaning import visible
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Texts, Tokenizer
from preprocessing.text.vocabulary import RESERVED, UNK, Vocabulary
from preprocessing.text.words import places_of


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
_LOOK_AHEAD = 24
"""Two lists are aligned if one has at most so many tokens more than twice the other's."""


def spans_of(text: str, tokens: Sequence[str], tokenizer: Tokenizer) -> list[Span | None]:
    """The spans of the ``tokens`` that a model has read of a text, of which unknown ones are ``<unk>``; None for one
    that is not found.

    The tokens of one word (its pieces, NLTK's do and n't) get the span of the word.
    """
    spec = tokenizer.pipeline.spec
    head = kept_at_head(spec) if len(tokens) >= spec.max_tokens else len(tokens)
    places = [*places_of(text, visible(text) if spec.html else [(0, len(text))])]
    found, known = tokenizer([text[start:end] for start, end in places]).to_lists(), {*tokens}
    words = [token if token in known else RESERVED[UNK] for own in found for token in own]
    spans = [place for place, own in zip(places, found, strict=True) for _ in own]
    return _beside(tokens[:head], words, spans) + _beside(tokens[head:][::-1], words[::-1], spans[::-1])[::-1]


def _beside(tokens: Sequence[str], others: list[str], spans: list[Span]) -> list[Span | None]:
    """The span of each token, by aligning ``tokens`` to ``others``, an almost equal list that may be longer."""
    result: list[Span | None] = [None] * len(tokens)
    others = others[: 2 * len(tokens) + _LOOK_AHEAD]
    for kind, start, end, other, other_end in SequenceMatcher(None, tokens, others, autojunk=False).get_opcodes():
        between = spans[other:other_end]
        if kind == "equal":
            result[start:end] = between
        elif between:
            whole = min(first for first, _ in between), max(last for _, last in between)
            result[start:end] = [whole] * (end - start)
    return result
