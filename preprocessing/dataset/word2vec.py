# SPDX-License-Identifier: Apache-2.0
"""Learning word vectors from shards with gensim's word2vec (CBOW with negative samples; Mikolov et al., 2013).

gensim reads a file of lines by threads of its own, without Python in between, which is the fastest way it has. So the
ids of the shards are written to such a file, at memory speed: an id becomes a word of fixed width, which is one number
of a lookup table, and a text becomes a line. No word is looked at: the vocabulary has been cut already, its counts are
counted on the ids, and gensim is given both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from preprocessing.base.randomness import permutation
from preprocessing.dataset.shards import Split
from preprocessing.dataset.vectors import VectorSettings

PIECE_ROWS = 1024
"""Rows that stay together; pieces are permuted, so that long texts do not all come last."""
SHUFFLE = 0x77326376
"""Sets the permutation apart from others of the same seed."""
DIGIT_BITS, FIRST_DIGIT = 6, ord("0")
"""Words are numbers to base 64, in the bytes from ``0`` to ``o``."""


@dataclass(frozen=True)
class Corpus:
    """A file of lines as gensim reads it."""

    path: Path
    counts: np.ndarray
    """int64 ``[vocabulary]``: how often each id occurs."""
    rows: int

    @property
    def tokens(self) -> int:
        """Tokens of all lines."""
        return int(self.counts.sum())


def word_table(vocabulary_size: int) -> np.ndarray:
    """The word of each id with a space after it, as one number ``[vocabulary]``: three digits in uint32, or seven in
    uint64 where three are not enough.
    """
    digits = 3 if vocabulary_size <= 1 << (3 * DIGIT_BITS) else 7
    ids = np.arange(vocabulary_size, dtype=np.uint64)
    table = np.empty((vocabulary_size, digits + 1), np.uint8)
    for place in range(digits):
        table[:, place] = ((ids >> np.uint64(DIGIT_BITS * place)) & np.uint64(63)) + np.uint64(FIRST_DIGIT)
    table[:, digits] = ord(" ")
    return table.view(np.uint32 if digits == 3 else np.uint64).reshape(-1)


def words_of(table: np.ndarray, ids: np.ndarray) -> list[str]:
    """The words of these ids, as gensim reads them."""
    return table[ids].tobytes().decode("ascii").split()


def write_corpus(path: Path, splits: Sequence[Split], vocabulary_size: int, seed: int) -> Corpus:
    """Write the rows of ``splits`` to ``path``, one line a row, pieces of them in an order that ``seed`` decides."""
    table = word_table(vocabulary_size)
    counts = np.zeros(vocabulary_size, np.int64)
    blocks = [block for split in splits for block in split.blocks]
    pieces = [(block, start) for block in blocks for start in range(0, len(block.row), PIECE_ROWS)]
    with open(path, "wb") as file:
        for number in permutation(len(pieces), seed, SHUFFLE):
            block, start = pieces[number]
            piece = slice(start, start + PIECE_ROWS)
            write_rows(file, table, block.ids[piece], block.length[piece], counts)
    return Corpus(path, counts, sum(map(len, splits)))


def write_rows(file: BinaryIO, table: np.ndarray, ids: np.ndarray, length: np.ndarray, counts: np.ndarray) -> None:
    """Write padded rows ``[rows, width]`` as lines, and count their ids."""
    real = np.arange(ids.shape[1]) < length[:, None]
    tokens = ids[real]
    counts += np.bincount(tokens, minlength=len(counts))
    words = table[tokens]
    last = words.view(np.uint8).reshape(len(words), -1)[:, -1]
    last[np.cumsum(length) - 1] = ord("\n")
    file.write(words.tobytes())


def learn(
    corpus: Corpus,
    settings: VectorSettings,
    threads: int,
    told: Callable[[int, float], None] = lambda epoch, took: None,
) -> np.ndarray:
    """float32 ``[vocabulary, dim]``: a vector for each id that occurs, zeros for the others.

    ``told`` hears of each epoch that is done, and the seconds since the first began. With one thread the same corpus,
    settings and seed give the same numbers.
    """
    from gensim.models import Word2Vec

    seen = np.flatnonzero(corpus.counts)
    words = words_of(word_table(len(corpus.counts)), seen)
    model = Word2Vec(
        vector_size=settings.dim,
        window=settings.window,
        negative=settings.negative,
        sg=0,
        min_count=1,
        sorted_vocab=0,
        workers=threads,
        seed=settings.seed,
    )
    frequencies = dict(zip(words, corpus.counts[seen].tolist(), strict=True))
    model.build_vocab_from_freq(frequencies, corpus_count=corpus.rows)
    model.train(
        corpus_file=str(corpus.path),
        total_words=corpus.tokens,
        total_examples=corpus.rows,
        epochs=settings.epochs,
        callbacks=[epoch_callback(told)],
    )
    assert model.wv.index_to_key == words, "gensim has sorted the vocabulary anew"
    vectors = np.zeros((len(corpus.counts), settings.dim), np.float32)
    vectors[seen] = model.wv.vectors
    return vectors


def epoch_callback(told: Callable[[int, float], None]) -> Any:
    """gensim's callback that tells of epochs."""
    from gensim.models.callbacks import CallbackAny2Vec

    class Told(CallbackAny2Vec):
        """Counts epochs and seconds."""

        def __init__(self) -> None:
            """Training has not begun."""
            self.began, self.done = time.monotonic(), 0

        def on_train_begin(self, model: Any) -> None:
            """The clock starts."""
            self.began = time.monotonic()

        def on_epoch_end(self, model: Any) -> None:
            """One more is done."""
            self.done += 1
            told(self.done, time.monotonic() - self.began)

    return Told()
