# SPDX-License-Identifier: Apache-2.0
"""Words and pairs of neighbouring words of a split's rows as a sparse TF-IDF matrix, counted on the ids of the shards.

No text is read back: a word is its id, a pair is the number ``first * V + second`` for a vocabulary of V, and a sort
brings equal ones together. The weights are those of scikit-learn's ``TfidfVectorizer(ngram_range=(1, 2),
sublinear_tf=True, min_df=2)``. What is not in the vocabulary, ``<unk>``, is a word like any other.

Rows are counted in pieces, so only two things grow with a split. Its matrix takes 12 bytes for each n-gram that a row
holds, about 15 MB per million tokens, and twice that while its pieces are joined. The table of distinct n-grams, from
which those of the matrix are chosen, takes at most 32 MB per million tokens, and twice that while it is merged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.dataset.shards import Split

MIN_ROWS = 2
"""Rows of the training split that an n-gram must be in."""
PIECE_TOKENS = 1 << 20
"""Places of padded rows that are counted at once; that takes about 60 MB."""


@dataclass(frozen=True)
class Counts:
    """The n-grams of a piece of a split, each once for every row that holds it, by n-gram, then by row."""

    rows: int
    """How many rows the piece has."""
    key: np.ndarray
    """int64 ``[entries]``, ascending: below the vocabulary's size a word, above it a pair."""
    row: np.ndarray
    """int64 ``[entries]``: the row's place in the piece."""
    times: np.ndarray
    """int64 ``[entries]``: how often the row holds it."""

    def rows_of_each(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct n-grams, and in how many rows each of them is."""
        begins = starts_of_runs(self.key)
        return self.key[begins], np.diff(np.append(begins, len(self.key)))


def starts_of_runs(values: np.ndarray) -> np.ndarray:
    """Places in sorted ``values`` where another value begins."""
    return np.flatnonzero(np.concatenate((np.ones(min(len(values), 1), bool), values[1:] != values[:-1])))


def counted(split: Split, vocabulary_size: int) -> Iterator[Counts]:
    """Count the n-grams of a split, piece after piece, in the order of its rows."""
    most = np.iinfo(np.int64).max // (vocabulary_size * (vocabulary_size + 1))  # so that n-gram and row fit one number
    for block in split.blocks:
        size = int(max(1, min(PIECE_TOKENS // block.ids.shape[1], most)))
        for start in range(0, len(block.row), size):
            piece = slice(start, start + size)
            yield count(block.ids[piece], block.length[piece], vocabulary_size)


def count(ids: np.ndarray, lengths: np.ndarray, vocabulary_size: int) -> Counts:
    """Count the n-grams of ``ids`` ``[rows, width]``, of which the first ``lengths`` ``[rows]`` of each row count."""
    rows = len(ids)
    ids = ids[:, : lengths.max()].astype(np.int64)
    real = np.arange(ids.shape[1]) < lengths[:, None]
    row = np.broadcast_to(np.arange(rows)[:, None], ids.shape)
    both = real[:, 1:]
    pairs = (ids[:, :-1] * vocabulary_size + ids[:, 1:])[both] * rows + row[:, 1:][both]
    entries = np.concatenate((ids[real] * rows + row[real], pairs))
    entries.sort()
    begins = starts_of_runs(entries)
    key, place = np.divmod(entries[begins], rows)
    return Counts(rows, key, place, np.diff(np.append(begins, len(entries))))


class Frequencies:
    """In how many rows each n-gram was seen so far."""

    def __init__(self) -> None:
        """None yet."""
        self.key = np.empty(0, np.int64)
        self.rows = np.empty(0, np.int64)
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, key: np.ndarray, rows: np.ndarray) -> None:
        """Add the rows of some distinct n-grams. They are merged once they are as many as are known already."""
        self.waiting.append((key, rows))
        if sum(len(one) for one, _ in self.waiting) >= max(len(self.key), PIECE_TOKENS):
            self.merge()

    def merge(self) -> None:
        """Bring equal n-grams together; afterwards ``key`` is ascending and complete."""
        key = np.concatenate((self.key, *(one for one, _ in self.waiting)))
        rows = np.concatenate((self.rows, *(many for _, many in self.waiting)))
        self.waiting = []
        order = np.argsort(key, kind="stable")
        key, rows = key[order], rows[order]
        begins = starts_of_runs(key)
        self.key = key[begins]
        self.rows = np.add.reduceat(rows, begins) if len(begins) else rows


@dataclass(frozen=True)
class Vectorizer:
    """The n-grams of a training split and their weights: turns splits into TF-IDF matrices."""

    vocabulary_size: int
    key: np.ndarray
    """int64 ``[features]``, ascending: the n-gram of each column."""
    idf: np.ndarray
    """float64 ``[features]``: ``1 + ln((1 + rows) / (1 + rows with the n-gram))``."""

    @classmethod
    def learn(cls, split: Split, vocabulary_size: int, most: int) -> Vectorizer:
        """The n-grams in at least ``MIN_ROWS`` rows of ``split``; of more than ``most`` those in the most rows."""
        seen = Frequencies()
        for counts in counted(split, vocabulary_size):
            seen.add(*counts.rows_of_each())
        seen.merge()
        kept = np.flatnonzero(seen.rows >= MIN_ROWS)
        if len(kept) > most:
            kept = np.sort(kept[np.argsort(-seen.rows[kept], kind="stable")[:most]])
        return cls(vocabulary_size, seen.key[kept], 1 + np.log((1 + len(split)) / (1 + seen.rows[kept])))

    def __call__(self, split: Split) -> Any:
        """The split's rows as scipy's CSR matrix, float64 ``[rows, features]``, each of length 1 or, with none, 0."""
        from scipy import sparse

        return sparse.vstack([self.piece(counts) for counts in counted(split, self.vocabulary_size)], format="csr")

    def piece(self, counts: Counts) -> Any:
        """The rows of ``counts`` as a CSR matrix."""
        from scipy import sparse

        begins = starts_of_runs(counts.key)
        column = np.searchsorted(self.key, counts.key[begins])
        known = column < len(self.key)
        known[known] = self.key[column[known]] == counts.key[begins[known]]
        many = np.diff(np.append(begins, len(counts.key)))
        column, known = np.repeat(column, many), np.repeat(known, many)
        row, column, times = counts.row[known], column[known], counts.times[known]
        weights = (1 + np.log(times)) * self.idf[column]
        lengths = np.sqrt(np.bincount(row, weights**2, minlength=counts.rows))
        places = (row.astype(np.int32), column.astype(np.int32))
        return sparse.csr_matrix((weights / lengths[row], places), shape=(counts.rows, len(self.key)))
