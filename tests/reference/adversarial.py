# SPDX-License-Identifier: Apache-2.0
"""Adversarial and virtual adversarial losses of one row from their definitions (Miyato, Dai and Goodfellow 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from harness.batch import Batch
from harness.config import OptimConfig
from harness.model.classifier import Classifier
from harness.model.dropout import Masks


def moved_losses(
    model: Classifier,
    row: Batch,
    masks: Masks | None,
    keys: Masks,
    optim: OptimConfig,
    counts: np.ndarray,
    loss_of: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """What a padded batch of one row adds to the loss; ``loss_of`` its logits is that of its label, None without one.

    Everything is one graph: the same masks are dropped again, and moves are numbers that nothing is learned from.
    """
    total = torch.zeros((), dtype=torch.float64)
    embedded = model.embed(row, masks)
    unit = deviation(model.embedding.weight.detach().numpy(), counts)

    def read(vectors: torch.Tensor) -> torch.Tensor:
        return model.read_embedded(replace(embedded, vectors=vectors), row, masks)[0]

    if optim.adversarial is not None and loss_of is not None:
        (gradient,) = torch.autograd.grad(loss_of(read(embedded.vectors)), embedded.vectors)
        move = optim.adversarial * unit * gradient / gradient.norm()
        total = total + optim.adversarial_weight * loss_of(read(embedded.vectors + move))
    if optim.virtual_adversarial is not None:
        clean = read(embedded.vectors).detach()
        start = embedded.signs(keys)
        nearby = (embedded.vectors.detach() + 0.1 * unit * start / start.norm()).requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(clean, read(nearby)), nearby)
        move = optim.virtual_adversarial * unit * gradient / gradient.norm()
        total = total + optim.virtual_adversarial_weight * divergence(clean, read(embedded.vectors + move))
    return total


def deviation(embedding: np.ndarray, counts: np.ndarray) -> float:
    """Of the numbers of the vectors around their mean vector, over all words of the texts one after the other."""
    mean = np.average(embedding, axis=0, weights=counts)
    return float(np.sqrt(np.average(((embedding - mean) ** 2).mean(axis=1), weights=counts)))


def divergence(clean: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of one row's predictions, from one logit or one for each class."""
    true, found = (
        torch.stack((1 - torch.sigmoid(logits), torch.sigmoid(logits))) if logits.dim() == 0 else logits.softmax(0)
        for logits in (clean, said)
    )
    return (true * (true.log() - found.log())).sum()
