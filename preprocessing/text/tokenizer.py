# SPDX-License-Identifier: Apache-2.0
"""From texts to :class:`Tokens`. The slow work runs once per distinct *surface*, and its result is cached.

A surface is what a splitter cuts from a text first, such as a word with its punctuation. Most surfaces occur many
times, so few are not in the cache.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, TypeAlias, cast

import numpy as np
import pyarrow as pa

from padless.core import arrays
from padless.core.errors import DataError
from padless.core.installed import load_object
from preprocessing.text import resources
from preprocessing.text.characters import clean_text, encode
from preprocessing.text.spec import TOKENIZERS, TextPipeline, TextSpec

Texts: TypeAlias = "pa.Array | Sequence[str]"
"""Texts that can be tokenized: an Arrow string or large_string array without nulls, or a sequence of str."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenized texts: text i holds the tokens ``types[codes[offsets[i]:offsets[i + 1]]]``."""

    types: pa.Array
    """large_string ``[types]``: the distinct tokens, by their first occurrence, after stop words and lemmas."""
    codes: np.ndarray
    """int32 ``[tokens]``: each token as a row of ``types``."""
    offsets: np.ndarray
    """int64 ``[texts + 1]`` into ``codes``."""

    def to_lists(self) -> list[list[str]]:
        """The tokens of every text as Python strings: for people and tests, not for speed."""
        lists = pa.LargeListArray.from_arrays(self.offsets, self.types.take(self.codes))
        return cast("list[list[str]]", lists.to_pylist())


class Rules(Protocol):
    """How texts become surfaces, and surfaces words. ``words`` is called once per distinct surface.

    Rules also handle HTML, normal forms and lower case. Stop words, lemmas and the vocabulary come afterwards.
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
    """Its argument is a text that ``clean_text`` returned."""

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Every word is a surface."""
        words = [self.words_of_text(clean_text(text, self.spec)) for text in texts.to_pylist()]
        sizes = np.array([*map(len, words)], np.int64)
        return pa.array(chain.from_iterable(words), pa.large_string()), _offsets(sizes)

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """A surface is a word already."""
        return [[surface.decode()] for surface in surfaces]


def nltk_rules(spec: TextSpec) -> PerText:
    """The words of :func:`nltk.tokenize.word_tokenize`."""
    from nltk.tokenize import word_tokenize

    return PerText(spec, word_tokenize)


PIECE_TEXTS, PIECE_BYTES = 2048, 1 << 19
"""One piece's arrays stay in the processor's cache."""
ROUND_TEXTS, ROUND_BYTES = 16_384, 24 << 20
"""Each distinct surface is looked up once in a round, which is several pieces."""
CACHE_SURFACES, CACHE_BYTES = 1 << 19, 64 << 20
"""The cache, about 200 MB, is emptied between two calls once it holds more surfaces, or more of their bytes."""
MAX_TEXT_BYTES = 1 << 30
_NO_TOKENS = -1
"""Code of a surface without tokens."""
_NO_CODES = np.zeros(0, np.int32)


class Tokenizer:
    """``Tokenizer(pipeline)(texts)`` → :class:`Tokens`.

    ``texts``: a string or large_string Arrow array, or a sequence of str. One text, a batch and any split of a batch
    give the same tokens. Caches the tokens of each distinct surface, up to a limit; pickling drops the cache. Use one
    object per thread. Raises :class:`DataError` when a resource is missing or not the one the pipeline was resolved
    with, and for a text over 1 GiB.
    """

    def __init__(self, pipeline: TextPipeline) -> None:
        resources.verify_resources(pipeline)
        self.pipeline = pipeline
        self._stop_words = frozenset(pipeline.stop_words)
        self._lemma = resources.WordNet() if pipeline.spec.lemmatizer == "wordnet" else None
        self._rules: Rules = load_object(TOKENIZERS[pipeline.spec.tokenizer].rules)(pipeline.spec)
        self._clear_cache()

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[TextPipeline]]:
        return Tokenizer, (self.pipeline,)

    def _clear_cache(self) -> None:
        self._code_by_surface: dict[bytes, int] = {}  # code of a token, or -1 - row for several tokens or none
        self._sequences = array("i")  # row i: codes [self._bounds[i]:self._bounds[i + 1]]; no objects to collect
        self._bounds = array("q", [0, 0])  # row 0: no tokens
        self._cached_bytes = 0
        self._code_by_token: dict[str, int] = {}  # in order of first occurrence
        self._tokens: list[str] = []  # the token of each code

    def __call__(self, texts: Texts) -> Tokens:
        """Tokenize ``texts``; see the class."""
        if len(self._code_by_surface) > CACHE_SURFACES or self._cached_bytes > CACHE_BYTES:
            self._clear_cache()
        codes: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        for batch in _slice_texts(_as_array(texts), ROUND_TEXTS, ROUND_BYTES):
            pieces = [self._rules.split(text_slice) for text_slice in _slice_texts(batch, PIECE_TEXTS, PIECE_BYTES)]
            encoded = pa.concat_arrays([surfaces for surfaces, _ in pieces]).dictionary_encode()
            surface_codes = self._encode_surfaces(encoded.dictionary.cast(pa.binary()).to_pylist())
            token_codes, rows, growth = self._expand_sequences(surface_codes.take(encoded.indices.to_numpy()))
            offsets = _offsets(np.concatenate([np.diff(starts) for _, starts in pieces]))
            codes.append(token_codes)
            lengths.append(np.diff(offsets + _offsets(growth)[np.searchsorted(rows, offsets)]))
        encoded = pa.array(np.concatenate([_NO_CODES, *codes])).dictionary_encode()
        types = pa.array([self._tokens[code] for code in encoded.dictionary.to_pylist()], pa.large_string())
        offsets = _offsets(np.concatenate([_NO_CODES, *lengths]))
        return Tokens(types, encoded.indices.to_numpy(), offsets)

    def _encode_surfaces(self, surfaces: list[bytes]) -> np.ndarray:
        """int32, one per surface: a token's code, or less than 0 for several tokens or none."""
        codes = list(map(self._code_by_surface.get, surfaces))
        rows = [row for row, code in enumerate(codes) if code is None]
        for row, words in zip(rows, self._rules.words([surfaces[row] for row in rows]), strict=True):
            codes[row] = code = self._encode_words(words)
            self._cached_bytes += len(surfaces[row])
            self._code_by_surface[surfaces[row]] = code
        return np.array(codes, np.int32)

    def _encode_words(self, words: list[str]) -> int:
        """The expensive part, once per distinct surface: stop words and lemmas."""
        codes = []
        for word in words:
            if word in self._stop_words:
                continue
            token = self._lemma(word) if self._lemma else word
            if token not in self._code_by_token:
                self._code_by_token[token] = len(self._tokens)
                self._tokens.append(token)
            codes.append(self._code_by_token[token])
        if len(codes) == 1:
            return codes[0]
        if not codes:
            return _NO_TOKENS
        self._sequences.extend(codes)
        self._bounds.append(len(self._sequences))
        return 1 - len(self._bounds)

    def _expand_sequences(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Replace the codes of several tokens or none by those of the tokens; also returns the rows of the replaced
        codes, and the number of tokens of each, less one.
        """
        rows = np.flatnonzero(codes < 0)
        sequences, bounds = np.frombuffer(self._sequences or _NO_CODES, np.int32), np.frombuffer(self._bounds, np.int64)
        token_codes, offsets = arrays.take(sequences, bounds, -1 - codes[rows])
        sizes = np.diff(offsets)
        insertions = np.repeat(rows - np.arange(len(rows)), sizes)
        return np.insert(np.delete(codes, rows), insertions, token_codes), rows, sizes - 1


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """0 and the running sums of ``sizes``."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _as_array(texts: Texts) -> pa.Array:
    """Any of the accepted forms as one large_string array."""
    if isinstance(texts, pa.Array):
        return texts.cast(pa.large_string())
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 cannot encode
        return pa.array([encode(text).decode() for text in texts], pa.large_string())


def _slice_texts(texts: pa.Array, max_texts: int, max_bytes: int) -> Iterator[pa.Array]:
    """Slices of at most so many texts and bytes; a longer text is a separate slice."""
    if not len(texts):
        return
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    start = 0
    while start < len(texts):
        limit = int(np.searchsorted(offsets, offsets[start] + max_bytes, side="right")) - 1
        end = min(max(limit, start + 1), start + max_texts, len(texts))
        if (size := offsets[end] - offsets[start]) > MAX_TEXT_BYTES:
            raise DataError(f"a text has {size:,} bytes; split texts over {MAX_TEXT_BYTES:,}")
        yield texts.slice(start, end - start)
        start = end
