# SPDX-License-Identifier: Apache-2.0
"""Sampled softmax (Jean et al., 2015): the right token against candidates instead of against the whole vocabulary.

The logits of all predictions never exist at once. A piece of them is computed, turned into losses and gradients, and
forgotten; what stays is as large as the predictions' vectors plus the candidates'. So memory does not grow with the
vocabulary times the tokens of a step, nor with the candidates times them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

CPU_ELEMENTS, GPU_ELEMENTS = 1 << 20, 1 << 25
"""Logits that exist at once: what a core's cache holds, or enough to keep a GPU busy."""


def elements_at_once(device: torch.device) -> int:
    """How many logits exist at once on a device."""
    return CPU_ELEMENTS if device.type == "cpu" else GPU_ELEMENTS


def pieces(predictions: int, columns: int, elements: int) -> Iterator[slice]:
    """``predictions`` cut so that a piece has about ``elements`` logits, with ``columns`` for each prediction."""
    size = max(1, elements // columns)
    for start in range(0, predictions, size):
        yield slice(start, min(start + size, predictions))


class _SampledSoftmax(torch.autograd.Function):
    """Losses and, in the same pass, their gradients; ``backward`` only multiplies."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: torch.Tensor,
        vectors: torch.Tensor,
        bias: torch.Tensor,
        candidate_vectors: torch.Tensor,
        candidate_bias: torch.Tensor,
        hits: torch.Tensor,
        dtype: torch.dtype,
        counts: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``sampled_softmax``."""
        candidates = len(candidate_vectors)
        # One more column: where no candidate is the right token, it takes the hit, and then it takes the right token.
        rows = functional.pad(candidate_vectors, (0, 0, 0, 1))
        offsets = functional.pad(candidate_bias, (0, 1))
        given, turned = projected.to(dtype), rows.to(dtype)
        right = (projected * vectors).sum(1).add_(bias)
        losses, right_gradient = torch.empty_like(right), torch.empty_like(right)
        gradient = torch.empty_like(projected)
        rows_gradient, offsets_gradient = torch.zeros_like(rows), torch.zeros_like(offsets)
        for piece in pieces(len(projected), candidates + 1, elements_at_once(projected.device)):
            if dtype == projected.dtype:
                logits = torch.addmm(offsets, given[piece], turned.t())
            else:
                logits = (given[piece] @ turned.t()).to(projected.dtype).add_(offsets)
            logits.scatter_(1, hits[piece, None], -torch.inf)
            logits[:, candidates] = right[piece]
            chances = torch.log_softmax(logits, 1)
            losses[piece] = -chances[:, candidates]
            chances.exp_()
            right_gradient[piece] = chances[:, candidates] - 1
            if counts is not None:
                losses[piece] *= counts[piece]
                right_gradient[piece] *= counts[piece]
                chances *= counts[piece, None]
            offsets_gradient += chances.sum(0)
            weights = chances.to(dtype)
            gradient[piece] = weights @ turned
            rows_gradient += weights.t() @ given[piece]
        gradient += right_gradient[:, None] * vectors
        ctx.save_for_backward(
            gradient, projected, right_gradient, rows_gradient[:candidates], offsets_gradient[:candidates]
        )
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of ``forward`` times that of the sum."""
        gradient, projected, right_gradient, rows_gradient, offsets_gradient = ctx.saved_tensors
        scale = gradients[0]
        right = right_gradient * scale
        both = (gradient * scale, right[:, None] * projected, right)
        return (*both, rows_gradient * scale, offsets_gradient * scale, None, None, None)


def sampled_softmax(
    projected: torch.Tensor,
    vectors: torch.Tensor,
    bias: torch.Tensor,
    candidate_vectors: torch.Tensor,
    candidate_bias: torch.Tensor,
    hits: torch.Tensor,
    dtype: torch.dtype | None = None,
    counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the losses of all predictions, and each loss ``[predictions]``, without a gradient.

    ``projected`` ``[predictions, features]`` is told from each token by a product with its vector, plus a bias from
    which the logarithm of the token's expected count is subtracted already: ``vectors`` ``[predictions, features]`` and
    ``bias`` ``[predictions]`` are those of the right tokens, the other two those of the candidates. ``hits`` int64
    ``[predictions]`` is the place of the right token among the candidates, where it does not count a second time; the
    number of candidates where it is not there. Products are computed in ``dtype``, all else in the dtype of
    ``projected``. ``counts`` ``[predictions]`` multiplies each loss; None: 1.
    """
    wanted = projected.dtype if dtype is None else dtype
    total, losses = _SampledSoftmax.apply(
        projected, vectors, bias, candidate_vectors, candidate_bias, hits, wanted, counts
    )
    return total, losses
