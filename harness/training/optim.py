# SPDX-License-Identifier: Apache-2.0
"""Adam, and the learning rate as a pure function of the optimizer step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from harness.config import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter, beside the number of its steps."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter, 2019); weight decay on matrices only, which at 0 makes it plain Adam."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
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


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr
