# SPDX-License-Identifier: Apache-2.0
"""The loss of a language model: each right token against candidates that all rows of a step share (law 4)."""

from __future__ import annotations

import torch
from torch import nn

from harness.batch import Batch, StepBatch, send
from harness.model.candidates import LogUniformSampler
from harness.model.dropout import HEAD, Masks
from harness.model.language import LanguageModel, Pairs, Reading
from harness.model.sampled_softmax import sampled_softmax
from harness.model.targets import NEXT_TOKEN, Targets


class LanguageObjective(nn.Module):
    """The loss around a language model: the module that is wrapped for mixed precision and DDP."""

    row_losses: torch.Tensor
    """``[rows]``: the losses of the latest batch, detached, for whoever must find a row that went wrong."""
    touched = None
    """What a batch does to a wide part, which there is none of."""
    adversary = None
    """What moves texts against their labels, which there are none of."""

    def __init__(
        self,
        model: LanguageModel,
        *,
        candidates: int,
        seed: int = 0,
        recurrent_dtype: torch.dtype | None = None,
        targets: Targets = NEXT_TOKEN,
    ) -> None:
        """``candidates``: how many tokens each right one is told from. ``seed`` is that of the run: with the step it
        decides which, and how far ahead the ``targets`` are, and with step and row what is dropped.
        ``recurrent_dtype``: what the recurrent layer computes in.
        """
        super().__init__()
        self.classifier = model
        """The network that is trained, by the name that it has in every objective."""
        self.seed = seed
        self.targets = targets
        self.recurrent_dtype = recurrent_dtype
        own = model.embedding.weight.dtype
        # fp16 has no numbers for the chance of a rare token.
        self.output_dtype = torch.bfloat16 if recurrent_dtype == torch.bfloat16 else own
        self.sampler = LogUniformSampler(len(model.embedding.weight), candidates)
        self.log_missed: torch.Tensor
        self.register_buffer("log_missed", torch.from_numpy(self.sampler.log_missed).to(own), persistent=False)
        self._drawn: tuple[int, torch.Tensor, int] | None = None

    def divisor(self, batch: StepBatch) -> int:
        """Next tokens of the step over all processes: what losses are divided by, however far ahead is predicted."""
        return max(1, self.classifier.num_directions * (batch.global_tokens - batch.global_rows))

    def candidates(self, step: int, device: torch.device) -> tuple[torch.Tensor, int]:
        """The candidates of optimizer ``step``, int64 ``[candidates]``, and the tries that it took to find them."""
        if self._drawn is None or self._drawn[0] != step:
            drawn = self.sampler.draw(self.seed, step)
            self._drawn = (step, send(torch.from_numpy(drawn.ids), device), drawn.tries)
        return self._drawn[1:]

    def forward(self, batch: Batch, step: int) -> torch.Tensor:
        """Sum over the batch of each prediction's loss in optimizer ``step``; the caller divides by ``divisor``."""
        model = self.classifier
        masks = model.masks(self.seed, step, batch) if self.training and model.drops else None
        candidates, tries = self.candidates(step, batch.ids.device)
        with torch.autocast(batch.ids.device.type, enabled=False):
            reading = model.read(batch, candidates, masks, self.recurrent_dtype)
            distances = self.targets.drawn(self.seed, step)
            found = [self.losses(reading, reading.pairs(one), candidates, tries, masks) for one in distances]
        self.row_losses = torch.stack([rows for _, rows in found]).sum(0) / len(found)
        return torch.stack([total for total, _ in found]).sum() / len(found)

    def losses(
        self, reading: Reading, pairs: Pairs, candidates: torch.Tensor, tries: int, masks: Masks | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of the losses of pairs of tokens, and of those of each row ``[rows]``, without a gradient."""
        model, dropout, hidden = self.classifier, self.classifier.config.dropout, self.classifier.recurrent.hidden_size
        bias, number_of = model.language_model.bias, len(candidates)
        place = candidates.new_full((len(bias),), number_of)
        place[candidates] = torch.arange(number_of, device=candidates.device)
        candidate_bias = bias[candidates] - self.log_expected(candidates, tries)
        kept = None
        if masks is not None and dropout:
            kept = masks.features(HEAD, model.recurrent.output_size, dropout, bias.dtype)
        totals, losses = [], []
        for number, direction in enumerate(pairs.directions):
            states = reading.states[number].index_select(0, direction.at)
            if kept is not None:
                states = states * kept[:, number * hidden : (number + 1) * hidden].to(states.dtype)[pairs.rows]
            target = reading.ids[direction.target].long()
            total, each = sampled_softmax(
                model.projected(number, states, self.output_dtype),
                reading.vectors.index_select(0, direction.target),
                bias[target] - self.log_expected(target, tries),
                reading.candidates,
                candidate_bias,
                place[target],
                self.output_dtype,
                None if self.targets.weights is None else self.targets.counts(target, bias.dtype),
            )
            totals.append(total)
            losses.append(each)
        each = torch.stack(losses).sum(0)
        return torch.stack(totals).sum(), each.new_zeros(reading.batch.num_rows).index_add_(0, pairs.rows, each)

    def log_expected(self, ids: torch.Tensor, tries: int) -> torch.Tensor:
        """The logarithm of how often tokens are expected among the candidates, ``[ids]``; 0 where all are."""
        missed = self.log_missed[ids]
        return torch.zeros_like(missed) if self.sampler.everything else (-torch.expm1(missed * tries)).log()
