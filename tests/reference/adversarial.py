# SPDX-License-Identifier: Apache-2.0
"""The adversarial loss of one row from its definition (Miyato, Dai and Goodfellow 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from harness.batch import Batch, Masks
from harness.model.classifier import Classifier


def moved_loss(
    model: Classifier,
    row: Batch,
    masks: Masks | None,
    radius: float,
    counts: np.ndarray,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """What a padded batch of one row, moved by ``radius``, loses; ``loss_of`` its logits is that of its label.

    The same masks are dropped again, and moves are numbers that nothing is learned from.
    """
    embedded = model.embed(row, masks)
    unit = deviation(model.embedding.weight.detach().numpy(), counts)

    def read(vectors: torch.Tensor) -> torch.Tensor:
        return model.read_embedded(replace(embedded, vectors=vectors), row, masks)[0]

    (gradient,) = torch.autograd.grad(loss_of(read(embedded.vectors)), embedded.vectors)
    return loss_of(read(embedded.vectors + radius * unit * gradient / gradient.norm()))


def deviation(embedding: np.ndarray, counts: np.ndarray) -> float:
    """Of the numbers of the vectors around their mean vector, over all words of the texts one after the other."""
    mean = np.average(embedding, axis=0, weights=counts)
    return float(np.sqrt(np.average(((embedding - mean) ** 2).mean(axis=1), weights=counts)))
