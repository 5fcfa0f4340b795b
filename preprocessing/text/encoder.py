# SPDX-License-Identifier: Apache-2.0
"""The one text → ids function (law 1). Shards, predictions and exports all call :class:`Encoder`.

The order of work is the notebook's: HTML → NFC → lower case → tokens → stop words → lemmas → vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizer import Texts, Tokenizer, Tokens
from preprocessing.text.vocabulary import UNK, Vocabulary


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
    """Texts as all of their ids, cut to ``spec.max_tokens``; one without ids becomes one ``<unk>``."""
    num_tokens = np.diff(offsets)
    limit, head = spec.max_tokens, kept_at_head(spec)
    long = np.flatnonzero(num_tokens > limit)
    if len(long):
        kept = np.ones(len(ids), bool)
        for start, end in zip(offsets[long].tolist(), offsets[long + 1].tolist(), strict=True):
            kept[start + head : end - (limit - head)] = False
        ids = ids[kept]
    lengths = np.minimum(num_tokens, limit)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    empty = np.flatnonzero(num_tokens == 0)
    if len(empty):
        ids = np.insert(ids, offsets[empty], np.int32(UNK))
        offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths, 1))])
    return Encoded(ids, offsets, num_tokens)


def kept_at_head(spec: TextSpec) -> int:
    """How many tokens a text that is too long keeps at its head; the rest of ``spec.max_tokens`` is its end."""
    limit = spec.max_tokens
    return {"head": limit, "tail": 0, "both": limit - limit // 2}[spec.truncate]


def text_hash(pipeline: TextPipeline, vocabulary_hash: str) -> str:
    """What tells one text→ids function from another (law 1)."""
    return hashlib.sha256(f"{pipeline.hash} {vocabulary_hash}".encode()).hexdigest()


class Encoder:
    """``Encoder(pipeline, vocabulary)(texts)`` → :class:`Encoded`: what shards, predictions and exports all use.

    Raises :class:`DataError` when the resources installed here are not those the pipeline was resolved with.
    """

    def __init__(self, pipeline: TextPipeline, vocabulary: Vocabulary) -> None:
        self.pipeline = pipeline
        self.vocabulary = vocabulary
        self.hash = text_hash(pipeline, vocabulary.hash)
        self._tokenizer = Tokenizer(pipeline)

    def __call__(self, texts: Texts) -> Encoded:
        """The ids of ``texts``. Accepts the same forms as :class:`Tokenizer`, and raises the same errors."""
        return self.encode(self.tokens(texts))

    def each(self, texts: Texts) -> list[np.ndarray]:
        """The ids of each text, apart."""
        encoded = self(texts)
        return np.split(encoded.ids, encoded.offsets[1:-1]) if len(encoded.offsets) > 1 else []

    def tokens(self, texts: Texts) -> Tokens:
        """The words that ``texts`` become, before the vocabulary is asked; ``encode`` does the rest."""
        return self._tokenizer(texts)

    def encode(self, tokens: Tokens) -> Encoded:
        """The ids of texts that are tokens already."""
        ids = self.vocabulary.lookup(tokens.types)[tokens.codes]
        return truncated(ids, tokens.offsets, self.pipeline.spec)
