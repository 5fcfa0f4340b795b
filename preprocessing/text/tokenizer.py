# SPDX-License-Identifier: Apache-2.0
"""From texts to :class:`Tokens`. The slow work runs once per distinct *surface*, and its result is cached.

A surface is what a splitter cuts from a text first, such as a word with its punctuation. Most surfaces occur many
times, so few are new.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from preprocessing.base import arrays
from preprocessing.base.errors import DataError
from preprocessing.base.installed import load
from preprocessing.text import resources
from preprocessing.text.cleaning import encode, prepare
from preprocessing.text.spec import TOKENIZERS, TextPipeline, TextSpec
from preprocessing.text.vocabulary import Vocabulary

Texts: TypeAlias = "pa.Array | pa.ChunkedArray | Sequence[str]"
"""Texts that can be tokenized: an Arrow string or large_string array without nulls, chunked or not, or a sequence of
str."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenized texts: text i holds the tokens ``types[codes[offsets[i]:offsets[i + 1]]]``."""

    types: pa.Array
    """large_string ``[types]``: the distinct tokens, in the order of their first occurrence, after stop words, lemmas
    and subwords."""
    codes: np.ndarray
    """int32 ``[tokens]``: each token as a row of ``types``."""
    offsets: np.ndarray
    """int64 ``[texts + 1]`` into ``codes``."""

    def to_lists(self) -> list[list[str]]:
        """The tokens of every text as Python strings: for people and tests, not for speed."""
        found: list[list[str]] = pa.LargeListArray.from_arrays(self.offsets, self.types.take(self.codes)).to_pylist()
        return found


class Rules(Protocol):
    """How texts become surfaces, and surfaces words. ``words`` is called once per distinct surface.

    Rules also handle HTML, normal forms and lower case. Stop words, lemmas, subwords and the vocabulary come
    afterwards.
    """

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """``texts`` (large_string, without nulls) -> the surfaces of all texts in order (binary or string), and int64
        ``[texts + 1]`` offsets into them.
        """
        ...

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """The words of each of these distinct surfaces, which are UTF-8."""
        ...


@dataclass(frozen=True)
class PerText:
    """Rules from a function that gives the words of one clean text: simple, at the speed of Python."""

    spec: TextSpec
    words_of_text: Callable[[str], list[str]]
    """Is given each text as ``prepare`` leaves it."""

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Every word is a surface."""
        words = [self.words_of_text(prepare(text, self.spec)) for text in texts.to_pylist()]
        sizes = np.array([len(own) for own in words], np.int64)
        return pa.array(chain.from_iterable(words), pa.large_string()), _ends(sizes)

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """A surface is a word already."""
        return [[surface.decode()] for surface in surfaces]


PIECE_TEXTS, PIECE_BYTES = 2048, 1 << 19
"""One piece's arrays stay in the processor's cache."""
ROUND_TEXTS, ROUND_BYTES = 16_384, 24 << 20
"""Each distinct surface is looked up once in a round, which is several pieces."""
CACHE_SURFACES, CACHE_BYTES = 1 << 19, 64 << 20
"""The cache, about 200 MB, is emptied between two calls once it holds more surfaces, or more of their bytes."""
MAX_TEXT_BYTES = 1 << 30
_DROPPED = -1
_NONE = np.zeros(0, np.int32)


class Tokenizer:
    """``Tokenizer(pipeline)(texts)`` → :class:`Tokens`: words; given a ``vocabulary`` of subwords, pieces of words.

    ``texts``: a string or large_string Arrow array, chunked or not, or a sequence of str. One text, a batch and any
    split of a batch give the same tokens. Caches the tokens of each distinct surface, up to a limit; pickling drops the
    cache. Use one object per thread. Raises :class:`DataError` when a resource is missing or not the one the pipeline
    was resolved with, and for a text over 1 GiB.
    """

    def __init__(self, pipeline: TextPipeline, vocabulary: Vocabulary | None = None) -> None:
        resources.verify(pipeline)
        self.pipeline, self._vocabulary = pipeline, vocabulary
        self._pieces = None if vocabulary is None or pipeline.spec.subwords == "none" else vocabulary.pieces
        self._stop_words = frozenset(pipeline.stop_words)
        self._lemma = resources.lemmatizer(pipeline.spec)
        self._rules: Rules = load(TOKENIZERS[pipeline.spec.tokenizer].rules)(pipeline.spec)
        self._forget()

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[TextPipeline, Vocabulary | None]]:
        return Tokenizer, (self.pipeline, self._vocabulary)

    def _forget(self) -> None:
        self._surfaces: dict[bytes, int] = {}  # surface → token, or -1 - row for several tokens or none
        self._several = array("i")  # row i: self._several[self._bounds[i]:self._bounds[i + 1]]; no objects to collect
        self._bounds = array("q", [0, 0])  # row 0: none
        self._learnt_bytes = 0
        self._ids: dict[str, int] = {}  # token → its number here, in order of first occurrence
        self._tokens: list[str] = []

    def __call__(self, texts: Texts) -> Tokens:
        """Tokenize ``texts``; see the class."""
        if len(self._surfaces) > CACHE_SURFACES or self._learnt_bytes > CACHE_BYTES:
            self._forget()
        codes: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        for part in _slices(_as_array(texts), ROUND_TEXTS, ROUND_BYTES):
            split = [self._rules.split(piece) for piece in _slices(part, PIECE_TEXTS, PIECE_BYTES)]
            encoded = pa.concat_arrays([surfaces for surfaces, _ in split]).dictionary_encode()
            per_surface = self._numbers(encoded.dictionary.cast(pa.binary()).to_pylist())
            tokens, at, more = self._spell_out(per_surface.take(encoded.indices.to_numpy()))
            ends = _ends(np.concatenate([np.diff(offsets) for _, offsets in split]))
            codes.append(tokens)
            lengths.append(np.diff(ends + _ends(more)[np.searchsorted(at, ends)]))
        encoded = pa.array(np.concatenate([_NONE, *codes])).dictionary_encode()
        types = pa.array([self._tokens[number] for number in encoded.dictionary.to_pylist()], pa.large_string())
        offsets = _ends(np.concatenate([_NONE, *lengths]))
        return Tokens(types, encoded.indices.to_numpy(), offsets)

    def _numbers(self, surfaces: list[bytes]) -> np.ndarray:
        """int32, one per surface: a token's number, or less than 0 for several tokens or none."""
        known = list(map(self._surfaces.get, surfaces))
        new = [row for row, number in enumerate(known) if number is None]
        for row, words_of_row in zip(new, self._rules.words([surfaces[row] for row in new]), strict=True):
            known[row] = learnt = self._number(words_of_row)
            self._learnt_bytes += len(surfaces[row])
            self._surfaces[surfaces[row]] = learnt
        return np.array(known, np.int32)

    def _number(self, words_of_surface: list[str]) -> int:
        """The expensive part, once per distinct surface: stop words, lemmas and subwords."""
        ids = []
        for word in words_of_surface:
            if word in self._stop_words:
                continue
            lemma = self._lemma(word) if self._lemma else word
            for token in self._pieces(lemma) if self._pieces else (lemma,):
                if token not in self._ids:
                    self._ids[token] = len(self._tokens)
                    self._tokens.append(token)
                ids.append(self._ids[token])
        if len(ids) == 1:
            return ids[0]
        if not ids:
            return _DROPPED
        self._several.extend(ids)
        self._bounds.append(len(self._several))
        return 1 - len(self._bounds)

    def _spell_out(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Replace numbers that stand for several tokens or none by these; also where they were, and how many tokens
        more than one each became.
        """
        at = np.flatnonzero(numbers < 0)
        several, bounds = np.frombuffer(self._several or _NONE, np.int32), np.frombuffer(self._bounds, np.int64)
        spelt, ends = arrays.take(several, bounds, -1 - numbers[at])
        sizes = np.diff(ends)
        places = np.repeat(at - np.arange(len(at)), sizes)
        return np.insert(np.delete(numbers, at), places, spelt), at, sizes - 1


def _ends(sizes: np.ndarray) -> np.ndarray:
    """0 and the running sums of ``sizes``."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _as_array(texts: Texts) -> pa.Array:
    """Any of the accepted forms as one large_string array."""
    if isinstance(texts, (pa.Array, pa.ChunkedArray)):
        whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
        return whole.cast(pa.large_string())
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot encode
        return pa.array([encode(text).decode() for text in texts], pa.large_string())


def _slices(texts: pa.Array, most_texts: int, most_bytes: int) -> Iterator[pa.Array]:
    """Slices of at most so many texts and bytes; a longer text is a slice of its own."""
    if not len(texts):
        return
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    start = 0
    while start < len(texts):
        fits = int(np.searchsorted(offsets, offsets[start] + most_bytes, side="right")) - 1
        end = min(max(fits, start + 1), start + most_texts, len(texts))
        if (size := offsets[end] - offsets[start]) > MAX_TEXT_BYTES:
            raise DataError(f"a text has {size:,} bytes; split texts over {MAX_TEXT_BYTES:,}")
        yield texts.slice(start, end - start)
        start = end
