# SPDX-License-Identifier: Apache-2.0
"""What a recurrent cell is to the layers of ``recurrent``: the module that holds its weights, and one layer of it in
each layout. The registry of cells is in ``registry``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Weights = list[torch.Tensor]


@dataclass(frozen=True)
class Cell:
    """One kind of recurrent layer, from zero states. Weights come in the order of the module's own."""

    module: Callable[..., nn.RNNBase]
    padded: Callable[[torch.Tensor, Weights], torch.Tensor]
    """One direction over padded inputs ``[time, rows, features]``: outputs ``[time, rows, hidden]``."""
    packed: Callable[[torch.Tensor, torch.Tensor, Weights, bool], tuple[torch.Tensor, torch.Tensor]]
    """Over packed inputs ``[tokens, features]`` with their batch sizes, in both directions if the last one says so:
    outputs ``[tokens, output_size]`` and final states ``[directions, rows, hidden]``."""


def plain_gru(inputs: torch.Tensor, weights: Weights) -> torch.Tensor:
    """A one-layer, one-direction padded GRU (Cho et al., 2014; its reset gate as cuDNN has it)."""
    zeros = inputs.new_zeros(1, inputs.shape[1], weights[1].shape[1])
    return torch.gru(inputs, zeros, weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)[0]


def packed_gru(
    data: torch.Tensor, batch_sizes: torch.Tensor, weights: Weights, bidirectional: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A one-layer GRU over packed data."""
    zeros = data.new_zeros(2 if bidirectional else 1, int(batch_sizes[0]), weights[1].shape[1])
    training = torch.is_grad_enabled()
    outputs, state = torch.gru(data, batch_sizes, zeros, weights, True, 1, 0.0, training, bidirectional)
    return outputs, state


GRU = Cell(nn.GRU, plain_gru, packed_gru)
