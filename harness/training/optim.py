# SPDX-License-Identifier: Apache-2.0
"""Adam, and the learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from harness.config import OptimConfig
from harness.rundir.checkpoint import MOMENTS


class FusedAdamW(torch.optim.AdamW):
    """torch's fused AdamW, number for number, without its search for devices and dtypes at every step: there is one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Where the attribute ``found_inf``, a tensor, holds 1.0, nothing changes, not even the number of steps; what
        ``grad_scale`` holds, gradients are divided by. ``GradScaler`` and the guard set both; None is as good as none.
        """
        assert closure is None, "gradients are there already"
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            states = [self.state[parameter] for parameter in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            averages, squares = ([state[name] for state in states] for name in MOMENTS)
            torch._fused_adamw_(
                parameters,
                [parameter.grad for parameter in parameters],
                averages,
                squares,
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                grad_scale=grad_scale,
                found_inf=found_inf,
            )
            if found_inf is not None:
                torch._foreach_sub_(steps, [found_inf] * len(steps))


def build_optimizer(model: nn.Module, config: OptimConfig) -> FusedAdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only, which at 0 makes it plain Adam."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = FusedAdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    allocate_moments(optimizer)
    return optimizer


def allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Give every parameter the state that AdamW would make at its first step, so that what it takes is there to see."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            moments = {name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS}
            optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, torch.Tensor]:
    """``KEY.NAME`` -> tensor for every parameter of ``model``: its moments and the number of its steps."""
    keys = ("step", *MOMENTS)
    return {f"{key}.{name}": optimizer.state[held][key] for name, held in model.named_parameters() for key in keys}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Take up what ``optimizer_state`` gave. Raises ``KeyError`` or ``RuntimeError`` for another model's."""
    for name, live in optimizer_state(optimizer, model).items():
        live.copy_(tensors[name])


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


def global_norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    """The norm of all gradients as one vector, as ``torch.nn.utils.get_total_norm`` computes it on one device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


def clip_to(gradients: list[torch.Tensor], norm: torch.Tensor, max_norm: float) -> None:
    """Scale gradients whose ``global_norm`` is ``norm`` down to ``max_norm``, as ``clip_grads_with_norm_`` does.

    A factor of 1 changes nothing; where the host knows it without a wait, memory is left alone.
    """
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    if not (factor.is_cpu and factor == 1.0):
        torch._foreach_mul_(gradients, factor)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


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
