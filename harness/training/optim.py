# SPDX-License-Identifier: Apache-2.0
"""Adam, the learning rate as a pure function of the step, weight averaging, and skipping of non-finite steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from harness.config import OptimConfig
from harness.rundir.checkpoint import AVERAGE, MOMENTS

GO, SKIP = torch.zeros(()), torch.ones(())
"""The two values of the skip flag on a CPU."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only, so a decay of 0 is plain Adam.

    The optimizer state is allocated here instead of at the first step, so its memory is visible from the start.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    if not config.weight_decay:  # one group takes half as many kernels
        groups = [{"params": [*model.parameters()], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    for parameter in model.parameters():
        moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """``KEY.NAME`` -> tensor for every parameter of ``model``: its moments and step count."""
    keys = ("step", *MOMENTS)
    return {f"{key}.{name}": optimizer.state[held][key] for name, held in model.named_parameters() for key in keys}


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total_steps``: linear warm-up, then the chosen decay."""
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.decay == "linear":
        return config.lr * (1 - progress)
    if config.decay == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr


@torch.no_grad()
def clip(
    optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor], max_norm: float | None, *, scaled: bool
) -> torch.Tensor:
    """Clip gradients to ``max_norm`` as torch's ``clip_grad_norm_`` does on one device; returns their norm before.

    On a CPU, gradients that need no clipping are not written to. On a GPU the fused optimizer divides them itself,
    unless the loss is ``scaled``: then the scaler sets what the optimizer divides by.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if max_norm is not None:
        divisor = torch.clamp((norm + 1e-6) / max_norm, min=1.0)
        if not (divisor.is_cpu or scaled):
            optimizer.grad_scale = divisor.float()  # type: ignore[attr-defined]
        elif not divisor.is_cpu or divisor > 1.0:
            torch._foreach_div_(gradients, divisor)
    return norm


class WeightAverage:
    """Exponential moving average of a model's parameters; ``swapped`` loads it into the model temporarily."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """``decay``: weight of the old average at each step; smaller in the first steps."""
        self.names = [f"{AVERAGE}.{name}" for name, _ in model.named_parameters()]
        self.parameters: list[torch.Tensor] = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after optimizer step ``step`` (from 0); early steps have a smaller decay."""
        torch._foreach_lerp_(self.average, self.parameters, 1 - min(self.decay, (1 + step) / (10 + step)))

    def state(self) -> dict[str, torch.Tensor]:
        """``average.NAME`` -> tensor for every parameter."""
        return dict(zip(self.names, self.average, strict=True))

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load a result of ``state``; without a saved average, start from the current weights."""
        for name, own, average in zip(self.names, self.parameters, self.average, strict=True):
            average.copy_(tensors.get(name, own.detach()))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Load the average into the model inside the block; restore the model's own weights afterwards."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)


class NonFiniteGuard:
    """Skips a step whose gradient is not finite, on every rank, and counts such steps.

    The norm of the averaged gradient is the same on every rank, so the ranks agree without communication. The fused
    optimizer reads the skip flag on the device; the counts stay there too until a log line, so the host never waits.
    """

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(2, device=device)
        """Skipped steps: in a row, up to the last step; and since the last log line."""

    def judge(
        self, optimizer: torch.optim.Optimizer, grad_norm: torch.Tensor, scaler: torch.amp.GradScaler | None
    ) -> torch.Tensor:
        """Make the fused optimizer skip its next update if the gradient is not finite; returns 1.0 then, else 0.0.

        In fp16 the ``scaler`` has checked the gradients already, when it unscaled them; its result is used.
        (Accelerate's ``optimizer_step_was_skipped`` is never true for a fused optimizer.)
        """
        if scaler is not None:
            found = list(scaler._found_inf_per_device(optimizer).values())
            return torch.stack([flag.to(found[0].device) for flag in found]).sum().clamp(max=1.0)
        if grad_norm.is_cpu:  # reading does not wait; without a flag the optimizer skips the check
            finite = math.isfinite(float(grad_norm))
            optimizer.found_inf = None if finite else SKIP  # type: ignore[attr-defined]
            return GO if finite else SKIP
        skip = (grad_norm * 0).nan_to_num(nan=1.0).float()  # 0 times inf is not a number
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        return skip

    def count(self, skip: torch.Tensor) -> None:
        """Count a step with this result of ``judge``."""
        self.counts += skip
        self.counts[0].mul_(skip)

    def state(self) -> dict[str, int]:
        """The counts as plain values; the host waits for the device."""
        in_a_row, skipped = map(int, self.counts.tolist())
        return {"in_a_row": in_a_row, "skipped": skipped}

    def load(self, state: dict[str, int]) -> None:
        """Load a result of ``state``."""
        self.counts.copy_(torch.tensor([state["in_a_row"], state["skipped"]]))
