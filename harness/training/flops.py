# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic a token costs, and how much this device can do: what model FLOPs utilisation is made of."""

from __future__ import annotations

import time

import torch

from harness.config import ModelConfig, RunConfig
from harness.model.registry import CELLS
from harness.settings.task import LANGUAGE_MODEL

BACKWARD_AND_FORWARD = 3
"""A backward pass costs twice its forward pass (gradients of inputs and of weights)."""
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
PROBES = 5


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of training on one real token: the gates of every layer and direction.

    Embedding, pooling and the last layer are left out: they are small beside them.
    """
    directions = 2 if config.bidirectional else 1
    inputs = [config.embedding_dim] + [config.hidden_size * directions] * (config.num_layers - 1)
    gates = sum(CELLS[config.cell].gates * config.hidden_size * (size + config.hidden_size) for size in inputs)
    return BACKWARD_AND_FORWARD * 2 * directions * gates


def flops_of(config: RunConfig) -> int:
    """The same for the task of a run: a language model's projection and candidates come on top."""
    shape = config.model
    if config.task != LANGUAGE_MODEL:
        return flops_per_token(shape)
    output = shape.embedding_dim * (shape.hidden_size + config.language_model.candidates)
    return flops_per_token(shape) + BACKWARD_AND_FORWARD * 2 * (2 if shape.bidirectional else 1) * output


def measure_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a large square matrix product on this device in this precision, best of a few: the practical peak."""
    size = MATRIX_SIZE[device.type]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(PROBES + 1):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for the device, where work is queued on one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
