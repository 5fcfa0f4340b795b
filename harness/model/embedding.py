# SPDX-License-Identifier: Apache-2.0
"""The embedding: what it is before the first step, and what the recurrent layers read of a batch through it.

Word vectors that it starts from are as a whole scaled to one standard deviation.
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

from harness.batch import Batch
from harness.config import ModelConfig
from harness.model.dropout import EMBEDDING, HEAD, LAYERS, Masks
from harness.model.recurrent import PackedIndex, VariableLengthLSTM
from harness.model.registry import CELLS, check_model
from harness.model.vector_files import coverage_of, read_vectors
from preprocessing.base.errors import DataError
from preprocessing.base.installed import load
from preprocessing.dataset.vectors import KeptVectors
from preprocessing.text.vocabulary import PAD, Vocabulary

LARGEST = 1e6
"""Vectors that are learned have numbers of about 1."""


class Network(nn.Module):
    """What every network begins with: an embedding and recurrent layers, and what is dropped from them in training."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, num_layers: int, dropout: float = 0.0) -> None:
        """Weights are drawn from torch's global generator: seed it first. ``dropout`` is that between layers."""
        super().__init__()
        check_model(config)
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_dim, padding_idx=PAD)
        with torch.no_grad():
            self.embedding.weight *= config.embedding_std
        self.embedding.weight.requires_grad_(config.freeze_embedding != "always")
        self.recurrent = VariableLengthLSTM(
            config.embedding_dim,
            config.hidden_size,
            num_layers,
            bidirectional=config.bidirectional,
            dropout=dropout,
            cell=load(CELLS[config.cell].code),
        )
        sizes = {LAYERS + number: self.recurrent.output_size for number in range(1, num_layers)}
        self.dropped = {EMBEDDING: config.embedding_dim, **sizes, HEAD: self.recurrent.output_size}
        """Site of dropout -> features that may be dropped there."""

    def holds_embedding(self, step: int) -> bool:
        """Whether the embedding stays what it is in optimizer ``step`` (from 0)."""
        frozen = self.config.freeze_embedding
        return frozen is not None and (frozen == "always" or step < frozen)

    @property
    def drops(self) -> bool:
        """Whether training wants masks."""
        return self.config.dropout > 0 or self.config.word_dropout > 0

    def masks(self, seed: int, step: int, batch: Batch) -> Masks:
        """What is dropped from the rows of a batch in optimizer ``step``; one hash for all features."""
        masks = Masks.of(seed, step, batch.rows, batch.ids.device)
        return masks.together(self.dropped, self.config.dropout) if self.config.dropout else masks


@dataclass(frozen=True)
class Embedded:
    """What the recurrent layers read of a batch."""

    vectors: torch.Tensor
    """``[time, rows, features]`` when padded, ``[tokens, features]`` time-major when packed."""
    lengths: torch.Tensor
    """int64 ``[rows]``, where the vectors are."""
    longest: int
    """Tokens of the longest row."""
    index: PackedIndex | None
    """Packed layout only."""

    def normalised(self, vectors: torch.Tensor) -> torch.Tensor:
        """``vectors``, shaped as these and zero where there is no token, with all numbers of a row together of L2 norm
        1. A row of zeros stays one.

        Each row is first divided by its largest number, so that no square is too small for its dtype.
        """
        largest = self.grid(vectors.abs().amax(-1)).amax(0)
        scaled = vectors / self.to_tokens(torch.where(largest > 0, largest, 1))
        norm = self.grid(scaled.square().sum(-1)).sum(0).sqrt()
        return scaled / self.to_tokens(torch.where(norm > 0, norm, 1))

    def signs(self, masks: Masks) -> torch.Tensor:
        """1 or -1 by chance for every number of ``vectors``, in their shape; 0 where there is no token."""
        features = self.vectors.shape[-1]
        if self.index is not None:
            return masks.signs(self.index.row, self.index.time, features, self.vectors.dtype)
        time = torch.arange(self.longest, device=self.vectors.device)
        real = (time[:, None] < self.lengths).to(self.vectors.dtype)
        return masks.signs(None, time, features, self.vectors.dtype) * real[:, :, None]

    def grid(self, values: torch.Tensor) -> torch.Tensor:
        """``[time, rows]`` of one number a token; 0 where there is no token."""
        if self.index is None:
            return values
        grid = values.new_zeros(self.longest, len(self.lengths))
        grid[self.index.time, self.index.row] = values
        return grid

    def to_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """One number a row ``[rows]``, shaped to go with the vectors."""
        return values[:, None] if self.index is None else values[self.index.row][:, None]


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
    return StartVectors(vectors, has, {**facts, **coverage_of(has, vocabulary)})


def moments(weight: torch.Tensor, frequencies: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation ``[dim]`` of each column of ``weight`` ``[vocabulary, dim]`` over the tokens of texts
    in which each id occurs ``frequencies`` ``[vocabulary]`` times, or in such a share of the places.
    """
    shares = frequencies.to(weight.dtype) / frequencies.sum()
    mean = shares @ weight
    return mean, (shares @ (weight - mean).square()).sqrt()
