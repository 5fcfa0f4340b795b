# SPDX-License-Identifier: Apache-2.0
"""The embedded tokens of a batch, packed or padded, and what belongs to one row of them taken together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from harness.config import ModelConfig
from harness.model.dropout import Masks
from harness.model.recurrent import PackedIndex
from preprocessing.text.vocabulary import PAD


def build_embedding(config: ModelConfig, vocabulary_size: int) -> nn.Embedding:
    """The embedding of every network, drawn from torch's global generator at the scale that ``config`` wants."""
    embedding = nn.Embedding(vocabulary_size, config.embedding_dim, padding_idx=PAD)
    with torch.no_grad():
        embedding.weight *= config.embedding_std
    embedding.weight.requires_grad_(config.freeze_embedding != "always")
    return embedding


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
