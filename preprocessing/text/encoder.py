# SPDX-License-Identifier: Apache-2.0
"""The one text → ids function (law 1). Shards, predictions and exports all call :class:`Encoder`.

The steps: HTML → normal form → lower case → words → stop words → lemmas → vocabulary.

Explanations and reports need the position of each token in its text (:func:`spans_of`). The pipeline processes
thousands of texts at once and keeps no positions. So each word of a text, and each run of signs between two words, is
tokenized separately, and its tokens get its position. Together they are the tokens of the text, except where a
tokenizer reads further, as NLTK's does at quotes and hyphens; there the two lists are aligned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from preprocessing.text.characters import num_head_tokens, visible_spans, word_spans
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Texts, Tokenizer
from preprocessing.text.vocabulary import RESERVED, UNK, Vocabulary


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as ids: text i is ``ids[offsets[i]:offsets[i + 1]]``, at least one id long."""

    ids: np.ndarray
    """int32 ``[ids]`` after truncation, without padding; a text without tokens is one ``<unk>``."""
    offsets: np.ndarray
    """int64 ``[texts + 1]`` into ``ids``."""
    num_tokens: np.ndarray
    """int64 ``[texts]`` before truncation, 0 where nothing was left of the text."""


def truncate(ids: np.ndarray, offsets: np.ndarray, spec: TextSpec) -> Encoded:
    """Cut each text's ids to ``spec.max_tokens``; a text without ids becomes one ``<unk>``."""
    num_tokens = np.diff(offsets)
    lengths = np.minimum(num_tokens, spec.max_tokens)
    ids = np.insert(ids[mask_kept(offsets, spec)], np.cumsum(lengths)[num_tokens == 0], np.int32(UNK))
    return Encoded(ids, np.concatenate([[0], np.cumsum(np.maximum(lengths, 1))]), num_tokens)


def mask_kept(offsets: np.ndarray, spec: TextSpec) -> np.ndarray:
    """bool ``[tokens]``: which tokens ``spec.truncate`` keeps of texts with these ``offsets``."""
    limit, head = spec.max_tokens, num_head_tokens(spec)
    is_kept = np.ones(offsets[-1], bool)
    for row in np.flatnonzero(np.diff(offsets) > limit):
        is_kept[offsets[row] + head : offsets[row + 1] - (limit - head)] = False
    return is_kept


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
        self.tokenizer = Tokenizer(pipeline)

    def __call__(self, texts: Texts) -> Encoded:
        """The ids of ``texts``. Accepts the same forms as :class:`Tokenizer`, and raises the same errors."""
        tokens = self.tokenizer(texts)
        ids = self.vocabulary.lookup(tokens.types)[tokens.codes]
        return truncate(ids, tokens.offsets, self.pipeline.spec)

    def encode_each(self, texts: Texts) -> list[np.ndarray]:
        """int32 ``[ids]`` for each text."""
        encoded = self(texts)
        return np.split(encoded.ids, encoded.offsets[1:-1]) if len(texts) else []


Span = tuple[int, int]
"""Start and end (exclusive) of a token in its text, in code points."""
_LOOK_AHEAD = 24
"""Two lists are aligned if one has at most so many tokens more than twice the other's."""


def spans_of(text: str, tokens: Sequence[str], tokenizer: Tokenizer) -> list[Span | None]:
    """The spans of the ``tokens`` that a model has read of a text, of which unknown ones are ``<unk>``; None for one
    that is not found.

    The tokens of one word (NLTK's do and n't) get the span of the word.
    """
    spec = tokenizer.pipeline.spec
    head = num_head_tokens(spec) if len(tokens) >= spec.max_tokens else len(tokens)
    positions = [*word_spans(text, visible_spans(text) if spec.html else [(0, len(text))])]
    words = tokenizer([text[start:end] for start, end in positions]).to_lists()
    model_tokens = {*tokens}
    text_tokens, spans = list[str](), list[Span]()
    for span, word in zip(positions, words, strict=True):
        for token in word:
            text_tokens.append(token if token in model_tokens else RESERVED[UNK])
        spans += [span] * len(word)
    end = _align_spans(tokens[head:][::-1], text_tokens[::-1], spans[::-1])[::-1]
    return _align_spans(tokens[:head], text_tokens, spans) + end


def _align_spans(tokens: Sequence[str], text_tokens: list[str], text_spans: list[Span]) -> list[Span | None]:
    """The span of each token, by aligning ``tokens`` to ``text_tokens``, an almost equal list that may be longer."""
    spans: list[Span | None] = [None] * len(tokens)
    text_tokens = text_tokens[: 2 * len(tokens) + _LOOK_AHEAD]
    matcher = SequenceMatcher(None, tokens, text_tokens, autojunk=False)
    for kind, start, end, text_start, text_end in matcher.get_opcodes():
        matches = text_spans[text_start:text_end]
        if kind == "equal":
            spans[start:end] = matches
        elif matches:
            starts, ends = zip(*matches, strict=True)
            spans[start:end] = [(min(starts), max(ends))] * (end - start)
    return spans
