# SPDX-License-Identifier: Apache-2.0
"""The language model for pretraining: embedding and first recurrent layer of a classifier. Each direction of the layer
predicts its next token.

The backward direction reads a text from its end, so its next token is the previous one. The two directions of a layer
are two language models at the cost of one classifier layer. There are no layers above: they would see the tokens to
predict through the other direction. The output vector of a token is its embedding, compared with a projection of the
state (Press and Wolf, 2017; Inan et al., 2017), plus a bias per token.

Embedding and recurrent layer have the same names as in a ``Classifier``; all other names begin with
``language_model``.

A state predicts all of the next ``WINDOW`` tokens, in any order, so it represents the topic of the text rather than its
grammar (region embeddings: Johnson and Zhang, 2016). In training, a softmax compares the right token with candidates
that all rows of a step share (law 4; sampled softmax: Jean et al., 2015). Evaluation uses the exact softmax.

A state has one set of logits for all the tokens that it predicts: they cost little more than the next token alone.
Logits are computed in pieces, turned into losses and gradients, and discarded; only tensors of the size of the states'
and the candidates' vectors are kept. So memory grows neither with vocabulary times tokens of a step nor
with candidates times tokens.

Candidates are a pure function of (seed, step). Token ids are sorted by count, so a log-uniform distribution over them
(Zipf's law) draws tokens about as often as they occur: ``P(k) = log((k + 2) / (k + 1)) / log(n + 1)`` for the k-th of
``n`` tokens. Tokens are drawn until enough distinct ones are found, as TensorFlow's ``log_uniform_candidate_sampler``
does with ``unique=True``. After ``t`` draws a token is a candidate with probability ``1 - (1 - P) ** t``, its expected
count. The correction by expected counts makes the loss right for any order of ids. ``<pad>`` is never drawn.
Probabilities are multiples of ``2 ** -40``, so that machines draw the same tokens even if their logarithms differ in
the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from harness.batch import Batch, Masks, PackedIndex, StepBatch, send
from harness.config import LANGUAGE_MODEL, ModelConfig
from harness.model.dropout import EMBEDDING, HEAD, drop
from harness.model.recurrent import Network, pad_packed
from padless.core.randomness import words
from preprocessing.text.vocabulary import PAD, UNK

WINDOW = 10
"""A state predicts the tokens at distances from 1 to this."""
FREQUENT = 3e-4
"""Tokens above this share of all tokens get a smaller weight, as in word2vec's subsampling."""
FIRST = PAD + 1
"""The first id that can be predicted: ``<unk>``."""
BITS = 40
CANDIDATES_STREAM = 3
"""A separate random stream; the order of rows uses 0 to 2 in this position of the key."""
DRAWS = 4
"""Tokens drawn per candidate; doubled if too few are distinct."""
CPU_ELEMENTS, GPU_ELEMENTS = 1 << 20, 1 << 25
"""Logits, or elements of vectors, computed at once: they fit into a core's cache, or keep a GPU busy."""
STATES = 512
"""States per block of exact logits; the number of logits at once gives the tokens per block."""


@dataclass(frozen=True)
class Reading:
    """Inputs and outputs of the recurrent layer for a batch, by token: time-major, without padding."""

    ids: torch.Tensor
    """``[tokens]``."""
    vectors: torch.Tensor
    """``[tokens, embedding_dim]``: vectors of the tokens, before dropout."""
    candidates: torch.Tensor
    """``[candidates, embedding_dim]``."""
    states: list[torch.Tensor]
    """``[tokens, hidden]`` of each direction: the output of the recurrent layer that has read the token last."""
    lengths: torch.Tensor
    """int64 ``[rows]`` on the CPU."""
    index: PackedIndex

    def neighbours(self) -> list[torch.Tensor]:
        """int64 ``[tokens + 1, WINDOW]`` twice: the tokens after and before each token, by distance; beyond the ends of
        a text, and in the last row, the number of tokens. The forward direction predicts the former, the backward one
        the latter.
        """
        row, time, number = self.index.row, self.index.time, len(self.ids)
        next_tokens, previous_tokens = row.new_full((2, number + 1, WINDOW), number)
        for distance in range(1, WINDOW + 1):
            first = int(self.lengths.clamp(max=distance).sum())  # tokens without another one so far before them
            earlier = self.index.starts[time[first:] - distance] + row[first:]
            previous_tokens[first:number, distance - 1] = earlier
            next_tokens[earlier, distance - 1] = torch.arange(first, number, device=row.device)
        return [next_tokens, previous_tokens]


class OutputLayer(nn.Module):
    """The layers that a language model does not share with a classifier."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        """A projection per direction and a bias per token."""
        super().__init__()
        directions = 2 if config.bidirectional else 1
        self.projection = nn.ModuleList(
            nn.Linear(config.hidden_size, config.embedding_dim, bias=False) for _ in range(directions)
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))


class LanguageModel(Network):
    """One recurrent layer whose directions each predict the tokens that come next."""

    task = LANGUAGE_MODEL
    wide = None
    """The linear part of a classifier; a language model has none."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        """Weights are drawn from torch's global generator: seed it first. Ignores pooling, linear part and layers above
        the first in ``config``.
        """
        super().__init__(config, vocabulary_size, num_layers=1)
        self.language_model = OutputLayer(config, vocabulary_size)
        self.predictions = len(self.language_model.projection)
        self.token_weights: torch.Tensor
        self.register_buffer("token_weights", torch.ones(vocabulary_size, dtype=torch.float64), persistent=False)
        """``[vocabulary]``: weight of each token's loss."""

    @torch.no_grad()
    def set_frequencies(self, counts: np.ndarray) -> None:
        """Set what follows from ``counts`` int64 ``[vocabulary]``, occurrences of each token: the bias to log
        frequencies, which training need not learn then; the weight of a token with frequency f to
        min(1, √(t / f) + t / f) for t = ``FREQUENT``, divided by the mean weight of a text.
        """
        shares = (counts.astype(np.float64) + 1) / (counts.sum() + len(counts))  # smoothed by one occurrence per token
        self.language_model.bias.copy_(torch.from_numpy(np.log(shares)))
        ratio = FREQUENT / shares
        weight = np.minimum(1.0, np.sqrt(ratio) + ratio)
        self.token_weights.copy_(torch.from_numpy(weight / (shares * weight).sum()))

    def read(
        self,
        batch: Batch,
        candidates: torch.Tensor | None = None,
        masks: Masks | None = None,
        dtype: torch.dtype | None = None,
    ) -> Reading:
        """Run the recurrent layer over a batch. Embeddings of ``candidates`` int64 and of the batch are looked up
        together: each lookup needs a gradient as large as the vocabulary.
        """
        lengths, sizes, index = batch.device_lengths, batch.batch_sizes, batch.build_index()

        def by_token(values: torch.Tensor) -> torch.Tensor:
            return values if sizes is not None else values.t().reshape(-1)[index.position]

        ids = by_token(batch.widen_ids())
        more = ids.new_empty(0) if candidates is None else candidates.to(ids.dtype)
        looked_up = self.embedding(torch.cat((ids, more, ids.new_full((1,), UNK))))
        vectors, candidate_vectors, unknown_vector = looked_up.split([len(ids), len(more), 1])
        inputs = vectors
        if masks is not None and masks.unknown_tokens is not None:
            inputs = torch.where(by_token(masks.unknown_tokens)[:, None], unknown_vector, inputs)
        inputs = drop(inputs, masks, EMBEDDING, index.row)
        if sizes is None:
            outputs = self.recurrent.forward_padded(pad_packed(inputs, index), lengths, None, dtype)
            # the backward direction has each row reversed within its own length
            places = index.position, (lengths[index.row] - 1 - index.time) * batch.num_rows + index.row
            # not by ``[]``, whose backward pass sorts on CUDA; these places are distinct
            states = [out.flatten(0, 1).index_select(0, at) for out, at in zip(outputs, places, strict=False)]
        else:
            out, _ = self.recurrent.forward_packed(inputs, sizes, None, dtype)
            states = list(out.split(self.recurrent.hidden_size, dim=1))
        return Reading(ids, vectors, candidate_vectors, states, batch.lengths, index)

    def project(self, number: int, states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Projection of ``states`` ``[N, hidden]`` of direction ``number``, to compare with token vectors:
        ``[N, embedding_dim]``. Computed in ``dtype``.
        """
        weight = self.language_model.projection[number].weight
        assert isinstance(weight, torch.Tensor)
        return functional.linear(states.to(dtype), weight.to(dtype)).to(weight.dtype)

    def row_log_losses(self, batch: Batch, one_in: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        """float64 ``[rows, directions]`` each: sum of the weighted losses of a row in nats, and sum of their weights.

        The softmax is exact, over all tokens (``log_losses``). With ``one_in``, one state of so many is measured; which
        one comes first depends on the row's number.
        """
        with torch.autocast(batch.ids.device.type, enabled=False):
            reading = self.read(batch)
            vectors, bias = self.embedding.weight[FIRST:], self.language_model.bias[FIRST:]
            sums = torch.zeros(2, self.predictions, batch.num_rows, dtype=torch.float64, device=vectors.device)
            rows, ids = reading.index.row, functional.pad(reading.ids.long(), (0, 1), value=PAD)
            measured = torch.arange(len(rows), device=rows.device)
            if one_in > 1:
                phases = reading.index.time + torch.from_numpy(batch.rows).to(rows.device)[rows]
                measured = measured[phases % one_in == 0]
            for number, (states, wanted) in enumerate(zip(reading.states, reading.neighbours(), strict=False)):
                for block in slices(len(measured), STATES):
                    tokens = measured[block]
                    targets_of_states = ids[wanted[tokens]]
                    projected = self.project(number, states[tokens], bias.dtype)
                    losses = log_losses(projected, vectors, bias, (targets_of_states - FIRST).clamp(min=0))
                    counts = self.token_weights.to(losses.dtype)[targets_of_states] * (targets_of_states != PAD)
                    sums_of_states = torch.stack(((losses * counts).sum(1), counts.sum(1))).double()
                    sums[:, number].index_add_(1, rows[tokens], sums_of_states)
        losses, counts = sums.transpose(1, 2)
        return losses, counts


class LanguageObjective(nn.Module):
    """The loss of a language model: the module that is wrapped for mixed precision and DDP."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        candidates: int,
        seed: int = 0,
        recurrent_dtype: torch.dtype | None = None,
    ) -> None:
        """``candidates``: number of candidates in a step. ``seed``: seed of the run; candidates are a function of
        seed and step, dropout of seed, step and row. ``recurrent_dtype``: dtype of the recurrent layer.
        """
        super().__init__()
        self.classifier = model
        """The trained network; all objectives use this name."""
        self.seed = seed
        self.recurrent_dtype = recurrent_dtype
        weight_dtype = model.embedding.weight.dtype
        # The probability of a rare token underflows in fp16.
        self.output_dtype = torch.bfloat16 if recurrent_dtype == torch.bfloat16 else weight_dtype
        self.sampler = LogUniformSampler(len(model.embedding.weight), candidates)
        self.guessing_loss = math.log(len(model.embedding.weight))
        """Of a prediction for which all tokens are equally probable."""
        self.log_missed: torch.Tensor
        self.register_buffer("log_missed", torch.from_numpy(self.sampler.log_missed).to(weight_dtype), persistent=False)

    def divisor(self, batch: StepBatch) -> int:
        """Divisor of the losses: next-token predictions of the step over all processes."""
        return max(1, self.classifier.predictions * (batch.global_tokens - batch.global_rows))

    def prepare(self, step: int, batch: Batch) -> None:
        """Add dropout masks and candidates to a batch of optimizer ``step``."""
        batch.masks = self.classifier.masks(self.seed, step, batch)
        candidates, tries = self.sampler.draw(self.seed, step)
        batch.candidates = send(torch.from_numpy(candidates), batch.ids.device), tries

    def forward(self, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the predictions of a prepared batch, divided by ``WINDOW``; the caller divides by
        ``divisor``.
        """
        assert batch.candidates is not None
        candidates, tries = batch.candidates
        model, hidden = self.classifier, self.classifier.recurrent.hidden_size
        head_mask = None if batch.masks is None else batch.masks.keep.get(HEAD)
        with torch.autocast(batch.ids.device.type, enabled=False):
            reading = model.read(batch, candidates, batch.masks, self.recurrent_dtype)
            bias, ids = model.language_model.bias, reading.ids.long()
            is_candidate = torch.zeros_like(bias, dtype=torch.bool).index_fill_(0, candidates, True)
            candidate_bias = bias[candidates] - self.log_expected(candidates, tries)
            # a state and a token more, with a weight of 0, where a text has no token at a distance
            right_bias = functional.pad(bias[ids] - self.log_expected(ids, tries), (0, 1))
            vectors, counts = functional.pad(reading.vectors, (0, 0, 0, 1)), model.token_weights.to(bias.dtype)[ids]
            counts, hits = functional.pad(counts, (0, 1)), functional.pad(is_candidate[ids], (0, 1))
            output = (vectors, right_bias, reading.candidates, candidate_bias)
            wanted, wanting = reading.neighbours()
            totals = []
            for number, states in enumerate(reading.states):
                inputs = states
                if head_mask is not None:
                    mask = head_mask[:, number * hidden : (number + 1) * hidden].to(states.dtype)
                    inputs = states * mask[reading.index.row]
                projected = functional.pad(model.project(number, inputs, self.output_dtype), (0, 0, 0, 1))
                total = SampledSoftmax.apply(projected, *output, wanted, wanting, hits, counts, self.output_dtype)
                totals.append(total)
                wanted, wanting = wanting, wanted
            return torch.stack(totals).sum() / WINDOW

    def log_expected(self, ids: torch.Tensor, tries: int) -> torch.Tensor:
        """Logarithm of the expected count of ``ids`` among the candidates, ``[ids]``; 0 for an exact softmax."""
        missed = self.log_missed[ids]
        return torch.zeros_like(missed) if self.sampler.everything else (-torch.expm1(missed * tries)).log()


class LogUniformSampler:
    """Draws candidates among the tokens of a vocabulary."""

    def __init__(self, vocabulary_size: int, candidates: int) -> None:
        """If ``candidates`` is at least half of all tokens, all tokens are candidates: an exact softmax."""
        tokens = vocabulary_size - FIRST
        self.everything = 2 * candidates >= tokens
        self.candidates = tokens if self.everything else candidates
        borders = np.log(np.arange(1, tokens + 1, dtype=np.float64) + 1) / np.log(tokens + 1.0)
        self.borders = np.rint(borders * (1 << BITS)).astype(np.uint64)
        """uint64 ``[tokens]``: numbers from ``borders[k - 1]`` (0 for the first) to below ``borders[k]`` draw token
        ``k``."""
        self.draw = lru_cache(maxsize=1)(self.draw_candidates)
        """``draw_candidates``, once for all micro-batches of a step."""

    @property
    def log_missed(self) -> np.ndarray:
        """float64 ``[vocabulary]``: logarithm of the probability that one draw gives another token."""
        shares = np.diff(self.borders.astype(np.float64), prepend=0.0) / (1 << BITS)
        return np.concatenate((np.zeros(FIRST), np.log1p(-shares)))

    def draw_candidates(self, seed: int, step: int) -> tuple[np.ndarray, int]:
        """The distinct candidates of optimizer ``step`` of a run, int64 ``[candidates]``, in drawing order; and the
        number of draws until all were found (0 if every token is a candidate).
        """
        if self.everything:
            return np.arange(FIRST, FIRST + self.candidates, dtype=np.int64), 0
        count = DRAWS * self.candidates
        while True:
            numbers = words(seed, step, CANDIDATES_STREAM, count=count) >> np.uint64(
                64 - BITS
            )  # a longer draw begins with the same numbers
            tokens = np.searchsorted(self.borders, numbers, side="right")
            places = np.sort(np.unique(tokens, return_index=True)[1])
            if len(places) >= self.candidates:
                chosen = places[: self.candidates]
                return tokens[chosen].astype(np.int64) + FIRST, int(chosen[-1]) + 1
            count *= 2


def slices(total: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` over ``total`` elements."""
    return (slice(start, start + size) for start in range(0, total, size))


def elements_at_once(device: torch.device) -> int:
    """Maximum number of logits at once on a device."""
    return CPU_ELEMENTS if device.type == "cpu" else GPU_ELEMENTS


class SampledSoftmax(torch.autograd.Function):
    """Losses with their gradients, computed in one pass; ``backward`` only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        projected: torch.Tensor,
        vectors: torch.Tensor,
        bias: torch.Tensor,
        candidate_vectors: torch.Tensor,
        candidate_bias: torch.Tensor,
        wanted: torch.Tensor,
        wanting: torch.Tensor,
        hits: torch.Tensor,
        counts: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """The sum of the losses of all predictions of one direction.

        A logit is the product of a state, ``projected`` ``[tokens, features]``, with a token's vector, plus a bias that
        is reduced by the logarithm of the token's expected count already. ``vectors`` ``[tokens, features]`` and
        ``bias`` ``[tokens]`` belong to the tokens, ``candidate_vectors`` and ``candidate_bias`` to the candidates.

        int64 ``[tokens, WINDOW]``: ``wanted``, the tokens that each state predicts, and ``wanting``, the states that
        predict each token. ``[tokens]``: ``hits``, whether a token is a candidate, and ``counts``, the weight of its
        loss. ``dtype`` is that of products with candidates; all else is computed in the dtype of the states.
        """
        inputs, outputs = projected.to(dtype), candidate_vectors.to(dtype)
        gradient, right_gradient = torch.empty_like(projected), torch.empty_like(wanted, dtype=projected.dtype)
        total = projected.new_zeros(())
        rows_gradient, offsets_gradient = torch.zeros_like(candidate_vectors), torch.zeros_like(candidate_bias)
        widest = max(len(candidate_vectors), wanted.shape[1] * vectors.shape[1])
        for block in slices(len(projected), max(1, elements_at_once(projected.device) // widest)):
            if dtype == projected.dtype:
                logits = torch.addmm(candidate_bias, inputs[block], outputs.t())
            else:
                logits = (inputs[block] @ outputs.t()).to(projected.dtype).add_(candidate_bias)
            tokens = wanted[block]
            right = torch.bmm(vectors[tokens], projected[block, :, None])[:, :, 0].add_(bias[tokens])
            chances = torch.log_softmax(logits, 1)
            total_logit = logits[:, :1] - chances[:, :1]
            # a token that is a candidate is among the logits already
            log_total = torch.where(hits[tokens], total_logit, torch.logaddexp(total_logit, right))
            weights = counts[tokens]
            total += ((log_total - right) * weights).sum()
            right_gradient[block] = weights * ((right - log_total).exp().masked_fill_(hits[tokens], 0.0) - 1)
            # the candidates' share of the probability, summed over the predictions of a state
            scale = (weights * (total_logit - log_total).exp()).sum(1, keepdim=True)
            chances = chances.exp_().to(dtype)
            gradient[block] = (chances @ outputs).to(projected.dtype).mul_(scale)
            rows_gradient += chances.t() @ (projected[block] * scale).to(dtype)
            offsets_gradient += (chances.t() @ scale.to(dtype))[:, 0]
        gradient += sum_weighted(wanted, right_gradient, vectors)
        turned_gradient = right_gradient.gather(0, wanting)
        saved = (gradient, sum_weighted(wanting, turned_gradient, projected), turned_gradient.sum(1))
        ctx.save_for_backward(*saved, rows_gradient, offsets_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients of ``forward`` times the gradient of the sum."""
        return (*(saved * gradients[0] for saved in ctx.saved_tensors), *[None] * 5)


def sum_weighted(places: torch.Tensor, weights: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """``[N, features]``: sums of the ``vectors`` at ``places`` ``[N, K]`` times their ``weights`` ``[N, K]``."""
    return functional.embedding_bag(places, vectors, mode="sum", per_sample_weights=weights)


def log_losses(
    projected: torch.Tensor, vectors: torch.Tensor, bias: torch.Tensor, wanted: torch.Tensor
) -> torch.Tensor:
    """Loss in nats ``[N, targets]`` of each of the tokens ``wanted`` ``[N, targets]``, by an exact softmax.

    A token's logit is the product of ``projected`` ``[N, features]`` with its row of ``vectors``
    ``[vocabulary, features]``, plus its ``bias``. The log-sum-exp is computed in blocks that fit into a cache.
    """
    right = torch.stack([(projected * vectors[tokens]).sum(1) for tokens in wanted.t()], 1) + bias[wanted]
    total = projected.new_full((len(projected),), -math.inf)
    for columns in slices(len(vectors), max(1, elements_at_once(vectors.device) // STATES)):
        logits = torch.addmm(bias[columns], projected, vectors[columns].t())
        total = torch.logaddexp(total, torch.logsumexp(logits, 1))
    return total[:, None] - right
