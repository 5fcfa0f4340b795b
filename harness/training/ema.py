# SPDX-License-Identifier: Apache-2.0
"""An exponential moving average of the weights over the steps that changed them (Polyak and Juditsky, 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class WeightAverage:
    """Follows the parameters of a model; ``swapped`` lends the average to whoever evaluates."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """``decay`` is the share of the old average that stays at each step, less in the first steps."""
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters: list[torch.Tensor] = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int, skip: torch.Tensor) -> None:
        """Move towards the weights after optimizer step ``step`` (from 0); early steps weigh more.

        Where ``skip`` is 1, the step changed nothing, and the average stays too. On CUDA the host does not read it.
        """
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        if not skip.is_cpu:
            shares = [share * (1 - skip)] * len(self.average)
            torch._foreach_lerp_(self.average, self.parameters, shares)
        elif not skip:
            torch._foreach_lerp_(self.average, self.parameters, share)

    def state(self) -> dict[str, torch.Tensor]:
        """``average.NAME`` -> tensor for every parameter."""
        return {f"average.{name}": average for name, average in zip(self.names, self.average, strict=True)}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up what ``state`` gave; where there is nothing, the average begins at the weights of now."""
        for name, own, average in zip(self.names, self.parameters, self.average, strict=True):
            average.copy_(tensors.get(f"average.{name}", own.detach()))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The model holds the average inside the block, and its own weights again afterwards."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)
