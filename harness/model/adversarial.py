# SPDX-License-Identifier: Apache-2.0
"""Adversarial and virtual adversarial training of a text classifier (Miyato, Dai and Goodfellow 2017).

Each text is also read with its embedded tokens moved a little: in the direction that raises its loss most, or in the
one that changes the prediction most, for which no label is asked. The move of a text has one length over all its tokens
and features, so it does not depend on what other texts the batch has (law 4).

The paper normalises the embedding inside the network, so that the network cannot make moves small by making vectors
large. Here the length of a move is counted in standard deviations of the embedding as it is in this step, weighted by
how often each word occurs: larger vectors are moved further, which does the same. Nothing of it is learned from: Adam
would make full steps of the tiny gradients that a normalisation has for words that the batch does not have.

Every pass goes forward and straight back (``Passes``), and only gradients are kept, so that the passes of a step need
the memory of one and a pass's backward gives both the gradient of the weights and the direction of the move. DDP sees
one backward pass, that of the sum. The same masks are dropped in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from harness.config import OptimConfig
from harness.model.dropout import Masks
from harness.model.embedding import Embedded, moments

NEARBY, NEARBY_16_BIT = 0.1, 1.0
"""How far the power iteration looks, in standard deviations of the embedding, over a whole text. In 16 bits a number
with so small a share of 0.1 would be rounded to what it was."""
PROBE = 1024.0
"""Length of a row's gradient at its logits where only the direction matters: far from what fp16 rounds to zero."""


class _Known(torch.autograd.Function):
    """A loss whose gradients were computed before."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, gradients: Sequence[torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
        """``loss`` as a function of ``inputs``, with one of ``gradients`` for each."""
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *errors: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Each gradient times the error of the loss."""
        needed = ctx.needs_input_grad[2:]
        of_inputs = (known * errors[0] if wanted else None for known, wanted in zip(ctx.gradients, needed, strict=True))
        return (None, None, *of_inputs)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One batch, ready to be read several times."""

    embedded: Embedded
    logits_of: Callable[[torch.Tensor], torch.Tensor]
    """What the network says of vectors in the place of ``embedded.vectors``."""
    parameters: Sequence[nn.Parameter]
    """All that learn and stand above the embedding."""
    embedding: torch.Tensor
    """``[vocabulary, features]``."""
    keys: Masks
    """The streams of random numbers of the batch's rows."""
    coarse: bool
    """Whether the network computes in 16 bits."""


class Passes:
    """The passes over one batch that are learned from; each goes back at once."""

    def __init__(self, reading: Reading, factor: torch.Tensor | None) -> None:
        """``factor``: a scalar that losses are multiplied by on their way back, so that fp16 can hold the gradients."""
        self.reading, self.factor = reading, factor
        self.vectors = reading.embedded.vectors.detach().requires_grad_()
        self.inputs = [self.vectors, *reading.parameters]
        self.gradients: list[torch.Tensor] = []
        self.losses: torch.Tensor | None = None

    def learn(self, losses: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
        """Go back from ``losses`` ``[rows]``, which count ``weight`` times; their gradient at the embedded tokens."""
        found = torch.autograd.grad(losses.sum(), self.inputs, self.factor)
        # Never in place: an LSTM hands out one tensor as the gradient of both of its biases.
        gradients = list(found if self.factor is None else torch._foreach_div(found, self.factor))
        weighted = gradients if weight == 1 else torch._foreach_mul(gradients, weight)
        self.gradients = list(torch._foreach_add(self.gradients, weighted) if self.gradients else weighted)
        losses = losses.detach() * weight
        self.losses = losses if self.losses is None else self.losses + losses
        return gradients[0]

    def total(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What all passes lost in each row ``[rows]``, and the sum of that as a loss to go back from."""
        assert self.losses is not None
        inputs = (self.reading.embedded.vectors, *self.reading.parameters)
        return self.losses, _Known.apply(self.losses.sum(), self.gradients, *inputs)


class Adversary:
    """Moves texts, and has the network learn from them too."""

    scaler: torch.amp.GradScaler | None = None
    """The loss scaling of fp16; the trainer sets it."""

    def __init__(self, config: OptimConfig, counts: torch.Tensor) -> None:
        """``counts`` ``[vocabulary]`` says how often each word occurs; it lies on the device of the embedding."""
        self.radius, self.weight = config.adversarial, config.adversarial_weight
        self.virtual_radius, self.virtual_weight = config.virtual_adversarial, config.virtual_adversarial_weight
        self.counts = counts

    @property
    def asks_no_label(self) -> bool:
        """Whether there is something to learn from texts without labels."""
        return self.virtual_radius is not None

    def learn(
        self, reading: Reading, losses_of: Callable[[torch.Tensor], torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What each row loses, clean and moved, ``[rows]``, and the sum as a loss to go back from.

        ``losses_of`` logits ``[rows]`` or ``[rows, classes]`` are the losses ``[rows]`` by the labels; None for rows
        that have none, of which only the virtual moves tell.
        """
        passes = Passes(reading, self.factor(reading))
        deviation = self.deviation(reading.embedding)
        with nullcontext() if losses_of else torch.no_grad():
            clean = reading.logits_of(passes.vectors)
        if losses_of:
            gradient = passes.learn(losses_of(clean))
            if self.radius is not None:
                moved = passes.vectors + reading.embedded.normalised(gradient) * (self.radius * deviation)
                passes.learn(losses_of(reading.logits_of(moved)), self.weight)
        if self.virtual_radius is not None:
            self.learn_virtually(passes, clean.detach(), deviation)
        return passes.total()

    def learn_virtually(self, passes: Passes, clean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Learn to say ``clean`` of texts that were moved where it changes most."""
        assert self.virtual_radius is not None
        move = self.virtual_direction(passes, clean, deviation) * (self.virtual_radius * deviation)
        said = passes.reading.logits_of(passes.vectors + move)
        passes.learn(divergence(clean, said), self.virtual_weight)

    def virtual_direction(self, passes: Passes, clean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        """Where the prediction changes most: one power iteration from a random direction, by finite differences.

        The gradient of the divergence at the logits is the difference of the probabilities; its length, which is tiny,
        does not matter here.
        """
        reading = passes.reading
        start = reading.embedded.normalised(reading.embedded.signs(reading.keys))
        step = (NEARBY_16_BIT if reading.coarse else NEARBY) * deviation
        nearby = (passes.vectors.detach() + start * step).requires_grad_()
        said = reading.logits_of(nearby)
        error = (probabilities(said.detach()) - probabilities(clean)).view(len(said), -1)
        largest = error.abs().amax(1, keepdim=True)
        error = error * (PROBE / torch.where(largest > 0, largest, 1))
        (gradient,) = torch.autograd.grad(said, nearby, error.view_as(said))
        return reading.embedded.normalised(gradient)

    def deviation(self, embedding: torch.Tensor) -> torch.Tensor:
        """The standard deviation of the vectors' numbers around their mean vector, over the words of the corpus as
        often as they occur; a scalar.
        """
        _, deviations = moments(embedding.detach(), self.counts)
        return deviations.square().mean().sqrt()

    def factor(self, reading: Reading) -> torch.Tensor | None:
        """What losses are multiplied by on their way back: loss scaling's for the mean over the rows."""
        if self.scaler is None:
            return None
        one = torch.ones((), device=reading.embedding.device)
        return self.scaler.scale(one) / len(reading.embedded.lengths)


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Of class 1 ``[rows]`` for one logit a row, of all classes ``[rows, classes]`` for more."""
    return torch.sigmoid(logits) if logits.dim() == 1 else torch.softmax(logits, 1)


def divergence(clean: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """The Kullback-Leibler divergence ``[rows]`` of what is ``said`` from what is said of ``clean`` rows; of logits."""
    if clean.dim() == 1:
        clean, said = (torch.stack((torch.zeros_like(logits), logits), 1) for logits in (clean, said))
    true, found = functional.log_softmax(clean, 1), functional.log_softmax(said, 1)
    return (true.exp() * (true - found)).sum(1)
