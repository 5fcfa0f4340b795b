# SPDX-License-Identifier: Apache-2.0
"""Adam, the learning rate as a pure function of the step, weight averaging, and skipping of non-finite steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from harness.config import OptimConfig
from harness.rundir.checkpoint import AVERAGE, MOMENTS


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only, so a decay of 0 is plain Adam.

    The optimizer state is allocated here instead of at the first step, so its memory is visible from the start.
    """
    groups: dict[float, list[nn.Parameter]] = {}  # without decay one group, which takes half as many kernels
    for parameter in model.parameters():
        groups.setdefault(config.weight_decay if parameter.dim() >= 2 else 0.0, []).append(parameter)
    options = [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
    optimizer = torch.optim.AdamW(options, lr=config.lr, fused=True)
    for parameter in model.parameters():
        moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS}
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """``KEY.NAME`` -> tensor for every parameter of ``model``: its moments and step count."""
    tensors = dict[str, torch.Tensor]()
    for name, parameter in model.named_parameters():
        tensors |= {f"{key}.{name}": optimizer.state[parameter][key] for key in ("step", *MOMENTS)}
    return tensors


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``total_steps``: linear warm-up, then the chosen decay."""
    warmup_steps = round(config.warmup * total_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return config.lr * (1 - progress) if config.decay == "linear" else config.lr


@torch.no_grad()
def clip(parameters: Iterable[torch.Tensor], max_norm: float | None) -> torch.Tensor:
    """Clip gradients to ``max_norm`` as torch's ``clip_grad_norm_`` does on one device; returns their norm before.

    On a CPU, gradients that need no clipping are not written to.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        divisor = torch.clamp((norm + 1e-6) / max_norm, min=1.0)
        if not divisor.is_cpu or divisor > 1.0:
            torch._foreach_div_(gradients, divisor)
    return norm


class WeightAverage:
    """Exponential moving average of a model's parameters; ``in_model`` loads it into the model temporarily."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """``decay``: weight of the old average at each step; smaller in the first steps."""
        self.names = [f"{AVERAGE}.{name}" for name, _ in model.named_parameters()]
        self.parameters: list[torch.Tensor] = list(model.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay = decay

    def update(self, step: int) -> None:
        """Update the average after optimizer step ``step`` (from 0); early steps have a smaller decay."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self.average, self.parameters, step)

    def state(self) -> dict[str, torch.Tensor]:
        """``average.NAME`` -> tensor for every parameter."""
        return dict(zip(self.names, self.average, strict=True))

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load a result of ``state``; without a saved average, start from the current weights."""
        for name, parameter, average in zip(self.names, self.parameters, self.average, strict=True):
            average.copy_(tensors.get(name, parameter.detach()))

    @contextmanager
    def load_average(self) -> Iterator[None]:
        """Load the average into the model inside the block; restore the model's own weights afterwards."""
        trained = [parameter.detach().clone() for parameter in self.parameters]
        self.copy_to_model(self.average)
        try:
            yield
        finally:
            self.copy_to_model(trained)

    @torch.no_grad()
    def copy_to_model(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the parameters of the model, in their order."""
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.copy_(tensor)


def skip_if_not_finite(optimizer: torch.optim.Optimizer, grad_norm: torch.Tensor, *, is_scaled: bool) -> torch.Tensor:
    """Make the fused optimizer skip its next update if the gradient is not finite; returns 1.0 then, else 0.0.

    The norm of the averaged gradient is the same on every rank, so the ranks agree without communication. The optimizer
    reads the flag on the device, so the host does not wait. If the loss ``is_scaled``, the scaler makes the optimizer
    skip the same steps. (Accelerate's ``optimizer_step_was_skipped`` is never true for a fused optimizer.)
    """
    skip = (grad_norm.detach() * 0).nan_to_num(nan=1.0).float()  # 0 times inf is not a number
    if not is_scaled:
        # Without a flag the optimizer omits the check; reading a value on a CPU does not wait.
        is_finite = skip.is_cpu and not skip
        optimizer.found_inf = None if is_finite else skip  # type: ignore[attr-defined]
    return skip
