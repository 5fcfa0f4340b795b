# SPDX-License-Identifier: Apache-2.0
"""A variable-length LSTM for which padding changes nothing, on two paths with the same weights.

*Packed* (CUDA): cuDNN runs over ``PackedSequence``, so only real tokens are computed.

*Reversal* (elsewhere): a packed LSTM runs one small step at a time on a CPU, ten times slower than a padded one. But a
forward LSTM never sees the padding that comes after a row, and a backward LSTM is a forward LSTM over rows that are
reversed within their own length. Both run as plain padded LSTMs, in one call each, and give the same numbers.

Either way, outputs beyond a row's length are never looked at: pooling masks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from harness.dropout import LAYERS, Masks


class VariableLengthLSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM layers with dropout between them (one mask per sequence, not per token).

    Dropout is applied here and not by cuDNN, whose masks would depend on how a batch is split; the mask stays the same
    along time (Gal and Ghahramani, 2016).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ) -> None:
        """``nn.LSTM`` modules hold the weights, one a layer, so that the names are the ones that everybody knows."""
        super().__init__()
        self.hidden_size = hidden_size
        self.bidirectional = bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)
        self.dropout = dropout
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.layers = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True, bidirectional=bidirectional) for size in sizes
        )

    def lstms(self) -> Iterator[nn.LSTM]:
        """The layers, from the input up."""
        for layer in self.layers:
            assert isinstance(layer, nn.LSTM)
            yield layer

    def forward_packed(self, packed: PackedSequence, masks: Masks | None = None) -> tuple[PackedSequence, torch.Tensor]:
        """Outputs as a packed sequence, and the final states ``[rows, output_size]`` of the last layer.

        ``masks`` belong to the rows longest first; without them nothing is dropped.
        """
        rows = None
        for number, layer in enumerate(self.lstms()):
            if number > 0 and masks is not None and self.dropout:
                data = packed.data
                rows = packed_rows(packed.batch_sizes, len(data), data.device) if rows is None else rows
                packed = packed._replace(data=data * self._mask(masks, number, data)[rows])
            packed, (state, _) = layer(packed)
        return packed, state.transpose(0, 1).reshape(state.shape[1], self.output_size)

    def forward_padded(
        self, inputs: torch.Tensor, lengths: torch.Tensor, masks: Masks | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs ``[rows, time, output_size]`` for inputs ``[rows, time, input_size]`` and ``lengths`` ``[rows]``.

        Also the final states ``[rows, output_size]``. Outputs beyond a row's length hold arbitrary finite numbers.
        Without ``masks`` nothing is dropped.
        """
        lengths = lengths.to(inputs.device)
        reversal = reversal_index(lengths, inputs.shape[1]) if self.bidirectional else None
        for number, layer in enumerate(self.lstms()):
            if number > 0 and masks is not None and self.dropout:
                inputs = inputs * self._mask(masks, number, inputs)[:, None]
            inputs = run_layer(layer, inputs, reversal)
        last = (lengths - 1)[:, None, None].expand(-1, 1, self.hidden_size)
        state = inputs[..., : self.hidden_size].gather(1, last).squeeze(1)
        if self.bidirectional:
            state = torch.cat((state, inputs[:, 0, self.hidden_size :]), dim=1)
        return inputs, state

    def _mask(self, masks: Masks, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """``[rows, features]``: what the input of layer ``number`` is multiplied by."""
        return masks.features(LAYERS + number, inputs.shape[-1], self.dropout, inputs.dtype)

    def flatten_parameters(self) -> None:
        """Lay weights out as cuDNN wants them: once, after moving or loading."""
        for layer in self.lstms():
            layer.flatten_parameters()


def run_layer(layer: nn.LSTM, inputs: torch.Tensor, reversal: torch.Tensor | None) -> torch.Tensor:
    """One LSTM layer over padded ``inputs`` ``[rows, time, features]``; both directions as plain forward LSTMs."""
    weights = [getattr(layer, name) for name in layer._all_weights[0]]
    forward = plain_lstm(inputs, weights, layer.hidden_size)
    if reversal is None:
        return forward
    weights = [getattr(layer, name) for name in layer._all_weights[1]]
    backward = plain_lstm(take_time(inputs, reversal), weights, layer.hidden_size)
    return torch.cat((forward, take_time(backward, reversal)), dim=2)


def plain_lstm(inputs: torch.Tensor, weights: list[torch.Tensor], hidden_size: int) -> torch.Tensor:
    """A one-layer, one-direction padded LSTM from zero states; outputs ``[rows, time, hidden]``."""
    zeros = inputs.new_zeros(1, inputs.shape[0], hidden_size)
    return torch.lstm(inputs, (zeros, zeros), weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]


def reversal_index(lengths: torch.Tensor, time: int) -> torch.Tensor:
    """int64 ``[rows * time]``: each row's first ``length`` positions backwards, the padding where it is.

    An index into the flattened ``[rows * time]`` positions, and its own inverse.
    """
    position = torch.arange(time, device=lengths.device).expand(len(lengths), time)
    mirrored = lengths[:, None] - 1 - position
    row_start = torch.arange(len(lengths), device=lengths.device)[:, None] * time
    return (row_start + torch.where(mirrored >= 0, mirrored, position)).reshape(-1)


class _Involution(torch.autograd.Function):
    """Reorder time steps by an index that is its own inverse: the gradient is the same gather, never a scatter."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        return inputs.reshape(-1, inputs.shape[2]).index_select(0, index).view_as(inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.reshape(-1, gradient.shape[2]).index_select(0, index).view_as(gradient), None


def take_time(inputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``inputs`` ``[rows, time, features]`` with its time steps reordered by a ``reversal_index``."""
    return _Involution.apply(inputs, index)


def packed_rows(batch_sizes: torch.Tensor, num_tokens: int, device: torch.device) -> torch.Tensor:
    """int64 ``[tokens]``: the row that each token of a packed sequence belongs to, rows counted longest first."""
    sizes = batch_sizes.to(device, non_blocking=True)
    starts = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes, output_size=num_tokens)
    return torch.arange(num_tokens, device=device) - starts


def packed_time(batch_sizes: torch.Tensor, num_tokens: int, device: torch.device) -> torch.Tensor:
    """int64 ``[tokens]``: the place in its text of each token of a packed sequence."""
    sizes = batch_sizes.to(device, non_blocking=True)
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes, output_size=num_tokens)
