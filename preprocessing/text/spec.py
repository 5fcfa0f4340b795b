# SPDX-License-Identifier: Apache-2.0
"""The one text → ids function (law 1): what the user asks for, what that resolves to here, and the encoder made of it.

The order of work is the notebook's: HTML → NFC → lower case → tokens → stop words → lemmas → vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args, get_type_hints

import numpy as np

from preprocessing.base.atomic import canonical_json
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.text import installed, lemmas, stopwords
from preprocessing.text.tokens import Texts, Tokenizer, Tokens
from preprocessing.text.vocabulary import PAD, UNK, Vocabulary

__all__ = [
    "Encoded",
    "Encoder",
    "TextPipeline",
    "TextSpec",
    "Texts",
    "Tokenizer",
    "Tokens",
    "encode_tokens",
    "resolve",
]


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How a text becomes tokens, and how many of them are kept. Raises :class:`ConfigError` naming key and value."""

    html: bool = True
    """Remove tags, comments, scripts and styles, and decode entities; `a < b` survives."""
    lowercase: bool = True
    """Lower-case every token."""
    tokenizer: Literal["word", "nltk", "nltk_line"] = "word"
    """word: letters and digits of any script with inner apostrophes. nltk: what nltk.tokenize.word_tokenize returns
    (sentences, then Treebank rules). nltk_line: the same with preserve_line=True, which needs no data."""
    stop_words: str = "none"
    """none, nltk, stop-words (the package), or the path of a UTF-8 file with one word a line."""
    keep_negations: bool = True
    """Keep no, not, never, don't, … although the stop list holds them."""
    lemmatizer: Literal["none", "wordnet", "simplemma"] = "none"
    """wordnet (English; needs NLTK's data) or simplemma (many languages; data comes with the package)."""
    wordnet_pos: Literal["noun", "first"] = "noun"
    """noun: every token is a noun, NLTK's default. first: the first of noun, verb, adjective, adverb to change it."""
    language: str = "en"
    """Two-letter code: which stop list, sentence model, negations and simplemma data."""
    max_tokens: int = 512
    """The longest sequence kept: the last rung of the ladder of widths."""
    truncate: Literal["head", "tail", "both"] = "head"
    """Which end of a longer text is kept: head, tail, or both (half and half)."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value, choices = getattr(self, name), get_args(kind)
            if choices and value not in choices:
                raise ConfigError(f"text.{name} is {value!r}; it must be one of {', '.join(choices)}")
            if not choices and type(value) is not kind:
                raise ConfigError(f"text.{name} is {value!r}; it must be of type {kind.__name__}")
        if self.max_tokens < 1:
            raise ConfigError(f"text.max_tokens is {self.max_tokens}; it must be at least 1")
        if not self.stop_words:
            raise ConfigError("text.stop_words is ''; it must be none, nltk, stop-words or the path of a file")
        if self.lemmatizer == "wordnet" and self.language != "en":
            raise ConfigError(
                f"text.lemmatizer is wordnet, which is English, but language is {self.language!r}; use simplemma"
            )


@dataclass(frozen=True)
class TextPipeline:
    """A resolved :class:`TextSpec`: all that is needed to repeat it anywhere.

    ``stop_words``: the words really removed, sorted, so their source is not needed again; ``resources``: the versions
    or hashes of what else changes results. Unicode's own tables come with Python and are not listed.
    """

    spec: TextSpec
    stop_words: tuple[str, ...]
    resources: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` turns back into an equal pipeline."""
        return {
            "spec": asdict(self.spec),
            "stop_words": list(self.stop_words),
            "resources": dict(sorted(self.resources.items())),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TextPipeline:
        """The pipeline that :meth:`to_json` described; raises :class:`DataError` when the value is not one."""
        known = {field.name for field in fields(TextSpec)}
        try:
            spec, stop_words, resources = value["spec"], value["stop_words"], value["resources"]
            unknown, missing = sorted(set(spec) - known), sorted(known - set(spec))
            if unknown or missing:
                raise DataError(
                    f"the text pipeline was written by another version of padless: unknown keys {unknown}, "
                    f"missing keys {missing}; run preprocessing again with this version"
                )
            return cls(TextSpec(**spec), tuple(stop_words), dict(resources))
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise DataError(
                f"this is not a description of a text pipeline ({error}); run preprocessing again"
            ) from error

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) over the canonical JSON of :meth:`to_json`."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()


def resolve(spec: TextSpec) -> TextPipeline:
    """Look up the stop words and fingerprint the resources that ``spec`` needs on this machine.

    Raises :class:`DataError` when one is missing: which, where it was looked for, and the command that fetches it.
    """
    removed = stopwords.load(spec.stop_words, spec.language, spec.lowercase, spec.keep_negations)
    if spec.lemmatizer == "simplemma":
        lemmas.simplemma_lemmatizer(spec.language)
    return TextPipeline(spec, removed, installed.resources(spec))


@dataclass(frozen=True, eq=False)
class Encoded:
    """Texts as ids: text i is ``ids[offsets[i]:offsets[i + 1]]``, at least one id long.

    ``ids``: int32 [total] after truncation, without padding (a text without tokens is one ``<unk>``); ``offsets``:
    int64 [texts + 1]; ``num_tokens``: int64 [texts] before truncation, 0 where nothing was left of the text.
    """

    ids: np.ndarray
    offsets: np.ndarray
    num_tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.num_tokens)

    def padded(self, width: int) -> np.ndarray:
        """int32 [texts, width], padded with 0 on the right; raises ValueError if a text has more than ``width`` ids."""
        lengths = np.diff(self.offsets)
        if len(lengths) and lengths.max() > width:
            raise ValueError(f"a text has {lengths.max()} ids, which do not fit a width of {width}")
        rows = np.full((len(lengths), width), PAD, np.int32)
        rows[np.arange(width) < lengths[:, None]] = self.ids
        return rows


def encode_tokens(tokens: Tokens, vocabulary: Vocabulary, spec: TextSpec) -> Encoded:
    """Look tokens up in ``vocabulary`` and truncate to ``spec.max_tokens`` as ``spec.truncate`` says."""
    num_tokens = np.diff(tokens.offsets)
    ids = vocabulary.lookup(tokens.types)[tokens.codes]
    limit = spec.max_tokens
    head = {"head": limit, "tail": 0, "both": limit - limit // 2}[spec.truncate]
    long = np.flatnonzero(num_tokens > limit)
    if len(long):
        kept = np.ones(len(ids), bool)
        for start, end in zip(tokens.offsets[long].tolist(), tokens.offsets[long + 1].tolist(), strict=True):
            kept[start + head : end - (limit - head)] = False
        ids = ids[kept]
    lengths = np.minimum(num_tokens, limit)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    empty = np.flatnonzero(num_tokens == 0)
    if len(empty):
        ids = np.insert(ids, offsets[empty], np.int32(UNK))
        offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths, 1))])
    return Encoded(ids, offsets, num_tokens)


class Encoder:
    """``Encoder(pipeline, vocabulary)(texts)`` → :class:`Encoded`: what shards, predictions and exports all use.

    Raises :class:`DataError` when the resources installed here are not those the pipeline was resolved with.
    """

    def __init__(self, pipeline: TextPipeline, vocabulary: Vocabulary) -> None:
        self.pipeline = pipeline
        self.vocabulary = vocabulary
        self.hash = hashlib.sha256(f"{pipeline.hash} {vocabulary.hash}".encode()).hexdigest()
        self._tokenizer = Tokenizer(pipeline)

    def __call__(self, texts: Texts) -> Encoded:
        """The ids of ``texts``; what :class:`Tokenizer` accepts, and its errors."""
        return encode_tokens(self._tokenizer(texts), self.vocabulary, self.pipeline.spec)
