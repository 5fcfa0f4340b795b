# SPDX-License-Identifier: Apache-2.0
"""What the embedding is before the first step: word vectors, as a whole scaled to one standard deviation.

The scale decides more than any other setting, and libraries learn vectors at very different ones. So all vectors are
multiplied by one number, after which the entries over the vocabulary have the standard deviation
``model.embedding_std``, the same that random vectors are drawn with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.model.vector_files import read_vectors
from preprocessing.base.errors import DataError
from preprocessing.dataset.vectors import KeptVectors
from preprocessing.text.vocabulary import PAD, RESERVED, Vocabulary

LARGEST = 1e6
"""Vectors that are learned have numbers of about 1."""


@dataclass(frozen=True)
class StartVectors:
    """Vectors for the ids of a vocabulary, and where they are from."""

    vectors: np.ndarray
    """float32 ``[vocabulary, dim]``."""
    has: np.ndarray
    """bool ``[vocabulary]``: ids with a vector; the others keep what they have."""
    facts: dict[str, Any]
    """What run, checkpoints, bundle and report say of them: source, sha256, coverage."""

    @torch.no_grad()
    def put_into(self, embedding: nn.Embedding, std: float) -> None:
        """Replace the rows that have a vector, by vectors with entries of standard deviation ``std``."""
        ids = np.flatnonzero(self.has)
        found = torch.from_numpy(self.vectors[ids])
        scaled = found * (std / found.std(correction=0))
        embedding.weight[torch.from_numpy(ids).to(embedding.weight.device)] = scaled.to(embedding.weight)


def coverage(facts: dict[str, Any]) -> str:
    """How much of a vocabulary and its training rows the vectors with these facts cover, and which they are."""
    covered = f"{facts['words']:,} of {facts['vocabulary']:,} words, {facts['tokens']:.1%} of the tokens"
    return f"{covered}; sha256 {facts['sha256'][:12]}"


def from_kept(kept: KeptVectors, vocabulary: Vocabulary) -> StartVectors:
    """Vectors that were learned from the dataset's own texts. Raises ``DataError`` for damaged ones."""
    vectors = kept.read()
    if len(vectors) != len(vocabulary):
        raise DataError(
            f"{kept.path}: vectors of {len(vectors)} words, the vocabulary has {len(vocabulary)}; learn those of this "
            "dataset with `python -m preprocessing vectors`"
        )
    facts = {"source": str(kept.path), "format": "own texts", "sha256": kept.info.sha256}
    return described(vectors, np.asarray(vectors.any(axis=1)), vocabulary, facts)


def from_file(path: str | Path, vocabulary: Vocabulary, dim: int) -> StartVectors:
    """The vectors of a file for the words of a vocabulary. Raises ``ConfigError`` or ``DataError``."""
    tokens = vocabulary.tokens.to_pylist()
    ids = {token.encode(): number for number, token in enumerate(tokens) if number != PAD}
    found = read_vectors(path, ids, len(vocabulary), dim)
    if not found.has.any():
        raise DataError(
            f"{path}: none of its {found.words:,} words is in the dataset's vocabulary; is it of another language, or "
            "are its words spelt otherwise (case, accents)?"
        )
    facts = {"source": str(path), "format": found.head.format, "sha256": found.sha256, "file_words": found.words}
    return described(found.vectors, found.has, vocabulary, facts)


def described(vectors: np.ndarray, has: np.ndarray, vocabulary: Vocabulary, facts: dict[str, Any]) -> StartVectors:
    """Vectors with their coverage of a vocabulary; ``<pad>`` has none.

    Raises ``DataError`` if they are all alike, or so large that nothing can be computed with them.
    """
    has[PAD] = False
    largest = float(np.abs(vectors).max(initial=0))
    if largest > LARGEST:
        raise DataError(f"{facts['source']}: holds {largest:g}, and no vector has a number beyond {LARGEST:g}: damaged")
    if not has.any() or not vectors[has].std() > 0:
        raise DataError(f"{facts['source']}: its vectors are all the same number; name another file")
    return StartVectors(vectors, has, {**facts, **covered(has, vocabulary)})


def covered(has: np.ndarray, vocabulary: Vocabulary) -> dict[str, Any]:
    """How many words of a vocabulary, and which share of its training tokens, ids bool ``[vocabulary]`` are."""
    counts = vocabulary.counts
    return {
        "words": int(has[len(RESERVED) :].sum()),
        "vocabulary": len(vocabulary) - len(RESERVED),
        "tokens": round(float(counts[has].sum() / max(counts.sum(), 1)), 6),
    }


def moments(weight: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation ``[dim]`` of each column of ``weight`` ``[vocabulary, dim]`` over the tokens of texts
    in which each id occurs ``frequencies`` ``[vocabulary]`` times, or in such a share of the places.
    """
    shares = frequencies.to(weight.dtype) / frequencies.sum()
    mean = shares @ weight
    return mean, (shares @ (weight - mean).square()).sqrt()
