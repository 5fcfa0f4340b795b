# SPDX-License-Identifier: Apache-2.0
"""Keys of the model and of what it begins with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.settings.auto import IntOrAuto, is_auto
from preprocessing.base.errors import require

MOST_FEATURES, MOST_LAYERS = 1 << 20, 128
"""Beyond what any machine trains; whether a network fits this one, ``harness.training.preflight`` computes."""
MOST_BUCKETS = 1 << 26
"""A quarter of a gigabyte for each output of the wide part."""
MOST_NGRAM = 8
"""Longer sequences of words hardly occur twice."""
MOST_TAIL = 1024
"""No end of a text is longer."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Embedding, recurrent layers, pooling, one linear layer; a linear part beside them."""

    cell: str = "lstm"
    """The recurrent cell: lstm, or gru, which has three gates for four."""
    embedding_dim: int = 128
    """Size of a token's vector."""
    embedding_std: float = 1.0
    """Standard deviation of the vectors before training. A rare word's vector hardly moves from its start, which is
    noise: a small start keeps that noise small."""
    hidden_size: int = 128
    """Size of the state, for each direction."""
    num_layers: int = 1
    """Recurrent layers, one above the other."""
    bidirectional: bool = True
    """Read every text from both ends."""
    pooling: str = "max"
    """How a sequence of states becomes one vector: last, the final state; max, mean or max+mean over real tokens."""
    dropout: float = 0.0
    """Chance to drop a feature of the embeddings, between layers and before the last layer; one mask per text."""
    word_dropout: float = 0.0
    """Chance that training reads a token as <unk>."""
    wide: IntOrAuto = 0
    """Buckets of a linear part over hashed n-grams, whose logits are added to the network's; 0: none. auto: by the
    tokens of the corpus."""
    wide_ngrams: int = 2
    """Words of the longest n-grams of the linear part: 2, words and pairs. With 3 and more, which long texts are the
    better for, a bucket belongs to the most frequent of its n-grams."""
    wide_tail: int = 0
    """Last tokens of a text whose words and pairs are features of the linear part once more, apart from the same ones
    anywhere: people say last what they mean. 0: none."""
    wide_tf: Literal["log", "binary"] = "log"
    """What a feature of the linear part counts that a text has several times: 1 + ln of how often (log), or as much as
    one that it has once (binary)."""
    freeze_embedding: int | Literal["always"] | None = None
    """Optimizer steps, from the first, during which the vectors stay what they are; always: to the end; null: none."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name, most in (
            ("embedding_dim", MOST_FEATURES),
            ("hidden_size", MOST_FEATURES),
            ("num_layers", MOST_LAYERS),
        ):
            value = getattr(self, name)
            require(1 <= value <= most, f"model.{name}", value, f"from 1 to {most:,}")
        fits = 0 < self.embedding_std < math.inf
        require(fits, "model.embedding_std", self.embedding_std, "above 0, and finite")
        for name in ("dropout", "word_dropout"):
            require(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "at least 0 and below 1")
        wide = self.wide
        fits = is_auto(wide) or wide == 0 or (2 <= wide <= MOST_BUCKETS and wide.bit_count() == 1)
        require(fits, "model.wide", wide, f"a power of two up to {MOST_BUCKETS}, 0 for none, or auto")
        longest = f"from 1 to {MOST_NGRAM}"
        require(1 <= self.wide_ngrams <= MOST_NGRAM, "model.wide_ngrams", self.wide_ngrams, longest)
        require(0 <= self.wide_tail <= MOST_TAIL, "model.wide_tail", self.wide_tail, f"from 0 to {MOST_TAIL}")
        frozen = self.freeze_embedding
        fits = frozen in (None, "always") or (isinstance(frozen, int) and frozen >= 1)
        require(fits, "model.freeze_embedding", frozen, "a number of optimizer steps, always, or null")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """What the weights are before the first step, where they are not drawn from the seed."""

    vectors: str = "none"
    """Word vectors that the embedding starts from, scaled to model.embedding_std: none: random ones; own: those of the
    dataset's own texts, kept beside it, and learned before training if they are not there yet; auto: own where there
    are a million tokens to learn them from, else none; or a FILE as word2vec (text or binary), GloVe or fastText (.vec)
    have it, .gz too. Words without a vector start random."""
    weights: str | None = None
    """Run or bundle, also of another dataset or of a language model, whose weights the model starts from: vectors of
    the tokens that both know, at their own scale, recurrent layers, and the last layer if the classes are the same.
    null: none."""

    def __post_init__(self) -> None:
        """Refuse what names nothing."""
        require(bool(self.vectors), "init.vectors", self.vectors, "none, own, auto or a file's name")
        require(self.weights != "", "init.weights", self.weights, "the directory of a run or bundle, or null")
