# SPDX-License-Identifier: Apache-2.0
"""The softmax over a vocabulary, exact or against candidates (Jean et al., 2015), and which candidates a step has.

The logits of all predictions never exist at once. A piece of them is computed, turned into losses and gradients, and
forgotten; what stays is as large as the predictions' vectors plus the candidates'. So memory does not grow with the
vocabulary times the tokens of a step, nor with the candidates times them.

Candidates are a pure function of (seed, step). Token ids are sorted by count, so a log-uniform distribution over them
(Zipf's law) draws tokens about as often as they occur: ``P(k) = log((k + 2) / (k + 1)) / log(n + 1)`` for the k-th of
``n`` tokens. Tokens are drawn until enough distinct ones are found, as TensorFlow's ``log_uniform_candidate_sampler``
does with ``unique=True``; a token that was tried ``t`` times is then a candidate with probability ``1 - (1 - P) ** t``,
its expected count. The correction by expected counts makes the loss right for any order of ids. ``<pad>`` is never
drawn. Probabilities are whole multiples of ``2 ** -40``, so that machines whose logarithms differ in the last bit still
draw the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from preprocessing.base.randomness import words
from preprocessing.text.vocabulary import PAD

FIRST = PAD + 1
"""The first id that is ever predicted: that of ``<unk>``."""
BITS = 40
STREAM = 3
"""Keeps these random numbers apart from those of the order of rows, which have 0 to 2 in this place of the key."""
DRAWS = 4
"""Tokens drawn at once for each candidate; more if too few of them are distinct."""
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 20, 1 << 25
"""Logits that exist at once: what a core's cache holds, or enough to keep a GPU busy."""
PREDICTIONS = 512
"""Predictions whose exact logits are computed together; beside them stand as many tokens as the device holds logits
for."""


@dataclass(frozen=True)
class Drawn:
    """The candidates of one optimizer step."""

    ids: np.ndarray
    """int64 ``[candidates]``, distinct, in the order in which they were drawn."""
    tries: int
    """How often a token was drawn until all were found; 0: nothing was drawn, every token is a candidate."""


class LogUniformSampler:
    """Draws candidates among the tokens of a vocabulary."""

    def __init__(self, vocabulary_size: int, candidates: int) -> None:
        """With ``candidates`` for half of all tokens or more, all of them are candidates: an exact softmax."""
        tokens = vocabulary_size - FIRST
        self.everything = 2 * candidates >= tokens
        self.candidates = tokens if self.everything else candidates
        borders = np.log(np.arange(1, tokens + 1, dtype=np.float64) + 1) / np.log(tokens + 1.0)
        self.borders = np.rint(borders * (1 << BITS)).astype(np.uint64)
        """uint64 ``[tokens]``: token ``k`` is drawn by numbers from ``borders[k - 1]`` (0 for the first) to below
        ``borders[k]``."""

    @property
    def log_missed(self) -> np.ndarray:
        """float64 ``[vocabulary]``: the logarithm of the probability that one draw is another token."""
        shares = np.diff(self.borders.astype(np.float64), prepend=0.0) / (1 << BITS)
        return np.concatenate((np.zeros(FIRST), np.log1p(-shares)))

    def draw(self, seed: int, step: int) -> Drawn:
        """The candidates of optimizer ``step`` of a run."""
        if self.everything:
            return Drawn(np.arange(FIRST, FIRST + self.candidates, dtype=np.int64), 0)
        count = DRAWS * self.candidates
        while True:
            numbers = words(seed, step, STREAM, count=count) >> np.uint64(64 - BITS)  # of a longer draw, the same first
            tokens = np.searchsorted(self.borders, numbers, side="right")
            places = np.sort(np.unique(tokens, return_index=True)[1])
            if len(places) >= self.candidates:
                chosen = places[: self.candidates]
                return Drawn(tokens[chosen].astype(np.int64) + FIRST, int(chosen[-1]) + 1)
            count *= 2


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
