# SPDX-License-Identifier: Apache-2.0
"""A variable-length LSTM for which padding changes nothing, on two paths with the same weights.

*Packed* (CUDA): cuDNN runs over ``PackedSequence``, so only real tokens are computed.

*Reversal* (elsewhere): a packed LSTM runs one small step at a time on a CPU, ten times slower than a padded one. But a
forward LSTM never sees the padding that comes after a row, and a backward LSTM is a forward LSTM over rows that are
reversed within their own length. Both run as plain padded LSTMs, in one call each, and give the same numbers. Time
comes first in memory, as oneDNN wants it, and the last layer's backward direction stays reversed: pooling does not ask
for an order.

Either way, outputs beyond a row's length are never looked at: pooling masks them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from harness.model.dropout import LAYERS, Masks


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
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """For ``inputs`` ``[time, rows, input_size]`` and ``lengths`` ``[rows]``: what each direction gives.

        That is a tensor ``[time, rows, hidden_size]`` per direction; in the second, a backward one, each row is
        reversed within its own length (``in_order`` turns it back). Also the final states ``[rows, output_size]``.
        Outputs beyond a row's length hold arbitrary finite numbers. Without ``masks`` nothing is dropped.
        """
        lengths = lengths.to(inputs.device)
        if torch.is_autocast_enabled(inputs.device.type):  # once, here, and not in every direction's own kernel
            inputs = inputs.to(torch.get_autocast_dtype(inputs.device.type))
        reversal = reversal_index(lengths, len(inputs)) if self.bidirectional else None
        outputs: list[torch.Tensor] = []
        for number, layer in enumerate(self.lstms()):
            if number > 0:
                inputs = in_order(outputs, reversal)
                if masks is not None and self.dropout:
                    inputs = inputs * self._mask(masks, number, inputs)
            outputs = run_layer(layer, inputs, reversal)
        last = (lengths - 1)[None, :, None].expand(1, -1, self.hidden_size)
        state = torch.cat([direction.gather(0, last)[0] for direction in outputs], dim=1)
        return outputs, state

    def _mask(self, masks: Masks, number: int, inputs: torch.Tensor) -> torch.Tensor:
        """``[rows, features]``: what the input of layer ``number`` is multiplied by."""
        return masks.features(LAYERS + number, inputs.shape[-1], self.dropout, inputs.dtype)

    def flatten_parameters(self) -> None:
        """Lay weights out as cuDNN wants them: once, after moving or loading."""
        for layer in self.lstms():
            layer.flatten_parameters()


def run_layer(layer: nn.LSTM, inputs: torch.Tensor, reversal: torch.Tensor | None) -> list[torch.Tensor]:
    """One LSTM layer over padded ``inputs`` ``[time, rows, features]``, each direction as a plain forward LSTM."""
    directions = [inputs] if reversal is None else [inputs, take_time(inputs, reversal)]
    return [
        plain_lstm(given, [getattr(layer, name) for name in names], layer.hidden_size)
        for given, names in zip(directions, layer._all_weights, strict=True)
    ]


def plain_lstm(inputs: torch.Tensor, weights: list[torch.Tensor], hidden_size: int) -> torch.Tensor:
    """A one-layer, one-direction padded LSTM from zero states; outputs ``[time, rows, hidden]``."""
    zeros = inputs.new_zeros(1, inputs.shape[1], hidden_size)
    return torch.lstm(inputs, (zeros, zeros), weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)[0]


def in_order(outputs: list[torch.Tensor], reversal: torch.Tensor | None) -> torch.Tensor:
    """The directions of a layer side by side, ``[time, rows, output_size]``, with the backward one turned round."""
    if reversal is None:
        return outputs[0]
    return torch.cat((outputs[0], take_time(outputs[1], reversal)), dim=2)


def reversal_index(lengths: torch.Tensor, time: int) -> torch.Tensor:
    """int64 ``[time * rows]``: each row's first ``length`` positions backwards, the padding where it is.

    An index into the flattened ``[time * rows]`` positions, and its own inverse.
    """
    position = torch.arange(time, device=lengths.device)[:, None].expand(time, len(lengths))
    mirrored = lengths - 1 - position
    row = torch.arange(len(lengths), device=lengths.device)
    return (torch.where(mirrored >= 0, mirrored, position) * len(lengths) + row).reshape(-1)


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
    """``inputs`` ``[time, rows, features]`` with its time steps reordered by a ``reversal_index``."""
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
