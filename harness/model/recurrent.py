# SPDX-License-Identifier: Apache-2.0
"""The first layers of every network: an embedding, and a variable-length LSTM whose results do not depend on padding,
with two implementations and the same weights.

*Packed*: only real tokens are computed, as in torch's ``PackedSequence``.

*Padded* (reversal): a forward LSTM never reads the padding after a row, and a backward LSTM is a forward LSTM over rows
that are reversed within their own length. Both run as plain padded LSTMs, in one call each, with the same results. Time
is the first dimension, as oneDNN needs it. The last layer's backward direction stays reversed, since pooling does not
depend on the order.

On a CPU, a packed LSTM runs one small step at a time, ten times slower than a padded one; on CUDA it uses cuDNN's
standard kernels, while padded input can use cuDNN's persistent ones. Outputs beyond a row's length are never used:
pooling masks them.

The dtype is explicit. The caller gives a dtype, and input and weights are cast to it here, without autocast: on CUDA,
autocast would cast an LSTM to fp16 whatever dtype it is set to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from harness.batch import Batch, Masks, PackedIndex
from harness.config import ModelConfig, Task
from harness.model.dropout import EMBEDDING, HEAD, LAYERS, draw_masks, drop
from preprocessing.text.vocabulary import PAD

GRID_WIDE_UNITS = 128
"""Above this many hidden units, for multiples of it, torch may have cuDNN compute padded fp16 input by a kernel that
synchronises a whole card; two such kernels at once could wait for each other."""
Weights = list[torch.Tensor]


def lstm_padded(inputs: torch.Tensor, weights: Weights, states: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """One direction of a layer over padded inputs ``[time, rows, features]``, from ``first_states``: outputs ``[time,
    rows, hidden]``.
    """
    return torch.lstm(inputs, states, weights, True, 1, 0.0, torch.is_grad_enabled(), False, False)[0]


def lstm_packed(
    data: torch.Tensor, batch_sizes: torch.Tensor, weights: Weights, bidirectional: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer over packed ``data`` ``[tokens, features]``, ``batch_sizes`` on the CPU: outputs ``[tokens,
    output_size]`` and final states ``[directions, rows, hidden]``.
    """
    arguments = (data, batch_sizes, first_states(data, int(batch_sizes[0]), weights, 1 + bidirectional), weights)
    outputs, state, _ = torch.lstm(*arguments, True, 1, 0.0, torch.is_grad_enabled(), bidirectional)
    return outputs, state


def first_states(
    inputs: torch.Tensor, rows: int, weights: Weights, directions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The initial states, zeros."""
    state = inputs.new_zeros(directions, rows, weights[1].shape[1])
    return state, state


class VariableLengthLSTM(nn.Module):
    """Stacked, optionally bidirectional LSTM layers with dropout between them (one mask per sequence, not per token).

    Dropout is applied here, not by cuDNN, whose masks would depend on how a batch is split. The mask is the same at all
    time steps (Gal and Ghahramani, 2016).
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *, bidirectional: bool = True) -> None:
        """torch's modules hold the weights, one per layer, so the names of tensors are torch's."""
        super().__init__()
        self.hidden_size = hidden_size
        self.bidirectional = bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.layers = nn.ModuleList(
            nn.LSTM(size, hidden_size, batch_first=True, bidirectional=bidirectional) for size in sizes
        )

    def lstms(self) -> Iterator[nn.RNNBase]:
        """The layers, starting at the input."""
        for layer in self.layers:
            assert isinstance(layer, nn.RNNBase)
            yield layer

    def forward_packed(
        self,
        data: torch.Tensor,
        batch_sizes: torch.Tensor,
        masks: Masks | None = None,
        dtype: torch.dtype | None = None,
        rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs ``[tokens, output_size]`` and final states ``[directions, rows, hidden]`` of the last layer, for
        packed ``data`` ``[tokens, features]`` with ``batch_sizes`` on the CPU.

        ``masks`` are for the rows, longest first; None: no dropout. ``rows`` int64 ``[tokens]``: row of each token.
        ``dtype``: dtype of the computation, by default that of the weights.
        """
        data = data.to(dtype=dtype)
        for number, layer in enumerate(self.lstms()):
            if number > 0:
                data = drop(data, masks, LAYERS + number, rows)
            weights = layer_weights(layer, None, dtype)
            data, state = lstm_packed(data, batch_sizes, weights, self.bidirectional)
        return data, state

    def forward_padded(
        self,
        inputs: torch.Tensor,
        lengths: torch.Tensor,
        masks: Masks | None = None,
        dtype: torch.dtype | None = None,
    ) -> list[torch.Tensor]:
        """Outputs of each direction for ``inputs`` ``[time, rows, input_size]`` with ``lengths`` ``[rows]``.

        Returns a tensor ``[time, rows, hidden_size]`` per direction; in the second, the backward one, each row is
        reversed within its own length (see ``restore_order``). Outputs beyond a row's length are arbitrary finite
        numbers. Without ``masks`` there is no dropout. ``dtype``: dtype of the computation, by default that of
        the weights.
        """
        inputs = inputs.to(dtype=dtype)  # once for both directions
        reversal = reversal_index(lengths, len(inputs)) if self.bidirectional else None
        outputs: list[torch.Tensor] = []
        for number, layer in enumerate(self.lstms()):
            if number > 0:
                inputs = drop(restore_order(outputs, reversal), masks, LAYERS + number)
            directions = [inputs] if reversal is None else [inputs, take_time(inputs, reversal)]
            weights = [layer_weights(layer, direction, dtype) for direction in range(len(directions))]
            outputs = run_directions(directions, weights)
        return outputs

    def flatten_parameters(self) -> None:
        """Store the weights contiguously, as cuDNN needs them for packed input; call it after moving or loading."""
        for layer in self.lstms():
            layer.flatten_parameters()


def run_directions(inputs: list[torch.Tensor], weights: list[Weights]) -> list[torch.Tensor]:
    """The outputs of each direction of a layer. On CUDA the second direction runs on a stream of its own, since cuDNN's
    kernel for one direction leaves most of a card idle; its backward pass runs there too.
    """
    states = first_states(inputs[0], inputs[0].shape[1], weights[0], 1)  # filled before the second stream reads them
    if len(inputs) == 1 or not inputs[1].is_cuda or takes_whole_card(inputs[0].dtype, states[0].shape[2]):
        return [lstm_padded(*direction, states) for direction in zip(inputs, weights, strict=True)]
    main_stream, side_stream = torch.cuda.current_stream(), second_stream(inputs[1].device)
    side_stream.wait_stream(main_stream)
    with torch.cuda.stream(side_stream):
        second = lstm_padded(inputs[1], weights[1], states)
    first = lstm_padded(inputs[0], weights[0], states)
    main_stream.wait_stream(side_stream)
    for tensor in (inputs[1], states[0], *weights[1]):  # their memory must not be reused before that stream is done
        tensor.record_stream(side_stream)
    second.record_stream(main_stream)
    return [first, second]


def takes_whole_card(dtype: torch.dtype, hidden_size: int) -> bool:
    """Whether cuDNN may compute a direction by a kernel that synchronises a whole card (``GRID_WIDE_UNITS``)."""
    return dtype == torch.float16 and hidden_size > GRID_WIDE_UNITS and hidden_size % GRID_WIDE_UNITS == 0


@lru_cache(maxsize=8)
def second_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device."""
    return torch.cuda.Stream(device)


def layer_weights(layer: nn.RNNBase, direction: int | None, dtype: torch.dtype | None) -> Weights:
    """The weights of a layer, or of one direction of it, for one call: unchanged, or a contiguous copy in ``dtype``,
    matrices first, then biases, as cuDNN needs them. On a GPU, a single direction is always copied: the weights of one
    direction of a bidirectional layer are not contiguous.
    """
    directions = layer.all_weights if direction is None else [layer.all_weights[direction]]
    weights: Weights = list(itertools.chain(*directions))
    target = weights[0].dtype if dtype is None else dtype
    if target == weights[0].dtype and (direction is None or weights[0].is_cpu):
        return weights
    matrices_first = sorted(range(len(weights)), key=lambda index: -weights[index].dim())
    flat = torch.cat([weights[index].reshape(-1) for index in matrices_first]).to(target)
    parts = flat.split([weights[index].numel() for index in matrices_first])
    copies = list(weights)
    for index, part in zip(matrices_first, parts, strict=True):
        copies[index] = part.view_as(weights[index])
    return copies


def restore_order(outputs: list[torch.Tensor], reversal: torch.Tensor | None) -> torch.Tensor:
    """The directions of a layer, both in text order, concatenated: ``[time, rows, output_size]``."""
    if reversal is None:
        return outputs[0]
    return torch.cat((outputs[0], take_time(outputs[1], reversal)), dim=2)


def reversal_index(lengths: torch.Tensor, time: int) -> torch.Tensor:
    """int64 ``[time * rows]``: reverses each row's first ``length`` positions, and leaves the padding in place.

    An index into the flattened ``[time * rows]`` positions; it is its own inverse.
    """
    rows = len(lengths)
    position = torch.arange(time * rows, device=lengths.device).view(time, rows)
    last = torch.add(position[0] - rows, lengths, alpha=rows)
    mirrored = last - position[:, :1]  # negative exactly in the padding
    return torch.where(mirrored >= 0, mirrored, position).view(-1)


class _Gather(torch.autograd.Function):
    """A gather by an index with known inverse, so the gradient is also a gather, not a scatter."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse)
        return inputs.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradients[0].index_select(0, inverse), None, None


def take_time(inputs: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``inputs`` ``[time, rows, features]`` with its time steps reordered by a ``reversal_index``."""
    gathered: torch.Tensor = _Gather.apply(inputs.reshape(-1, inputs.shape[2]), index, index)
    return gathered.view_as(inputs)


def pad_packed(values: torch.Tensor, index: PackedIndex) -> torch.Tensor:
    """Packed ``values`` ``[tokens, features]`` as ``[longest, rows, features]``; the padding is arbitrary."""
    gathered: torch.Tensor = _Gather.apply(values, index.grid, index.position)
    return gathered.view(len(index.starts), index.num_rows, -1)


class Network(nn.Module):
    """The first layers of every network, embedding and recurrent layers, with their dropout."""

    task: Task
    predictions: int
    """Per token, for all tokens of a text but one; 0 for a classifier."""

    def __init__(self, config: ModelConfig, vocabulary_size: int, num_layers: int) -> None:
        """Weights are drawn from torch's global generator: seed it first."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocabulary_size, config.embedding_dim, padding_idx=PAD)
        with torch.no_grad():
            self.embedding.weight *= config.embedding_std
        self.embedding.weight.requires_grad_(config.freeze_embedding is None)
        sizes = (config.embedding_dim, config.hidden_size)
        self.recurrent = VariableLengthLSTM(*sizes, num_layers, bidirectional=config.bidirectional)
        size_by_layer = {LAYERS + number: self.recurrent.output_size for number in range(1, num_layers)}
        self.size_by_site = {EMBEDDING: config.embedding_dim, **size_by_layer, HEAD: self.recurrent.output_size}
        """Site of dropout -> number of features there."""

    def masks(self, seed: int, step: int, batch: Batch) -> Masks | None:
        """Dropout masks of a batch in optimizer ``step``; None without dropout."""
        rates = self.config.dropout, self.config.word_dropout
        return draw_masks(seed, step, batch, self.size_by_site, *rates, self.embedding.weight.dtype)
