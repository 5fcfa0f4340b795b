# SPDX-License-Identifier: Apache-2.0
"""The exact softmax over a whole vocabulary, of which only a block of logits exists at once."""

from __future__ import annotations

import math

import torch

from harness.model.sampled_softmax import elements_at_once, pieces

PREDICTIONS = 512
"""Predictions whose logits are computed together; as many tokens as the device holds logits for stand beside them."""


def log_losses(
    projected: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Nats ``[N, targets]`` that each of the tokens ``wanted`` ``[N, targets]`` costs.

    Its logit is the product of ``projected`` ``[N, features]`` with its row of ``vectors`` ``[vocabulary, features]``,
    plus its ``bias``.
    """
    right = torch.stack([(projected * vectors[tokens]).sum(1) for tokens in wanted.t()], 1) + bias[wanted]
    return log_partition(projected, vectors, bias)[:, None] - right


def log_partition(projected: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The logarithm of the sum of e to each logit, ``[N]``, by blocks that fit into a cache."""
    total = projected.new_full((len(projected),), -math.inf)
    for columns in pieces(len(vectors), PREDICTIONS, elements_at_once(vectors.device)):
        logits = torch.addmm(bias[columns], projected, vectors[columns].t())
        total = torch.logaddexp(total, torch.logsumexp(logits, 1))
    return total
