# SPDX-License-Identifier: Apache-2.0
"""What each pooling is in both layouts; ``registry`` has their names, ``pooling`` the arithmetic of maximum and mean.

A new one is a subclass of ``DensePooling`` with one function, or of ``Pooling`` with one for each layout where speed
counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from harness.model.pooling import Pooling as Kind
from harness.model.pooling import pool_packed, pool_padded
from harness.model.recurrent import in_order, reversal_index


class Pooling(nn.Module, ABC):
    """From the outputs of the recurrent layers to one vector a text. What it learns, if anything, are its parameters.

    ``lengths`` is int64 ``[rows]`` on the CPU, ``device_lengths`` the same where the outputs are. Each row's vector may
    depend on that row's real tokens alone, or updates depend on how a batch is split (law 4).
    """

    def __init__(self, output_size: int) -> None:
        """``output_size``: features of an output, both directions together."""
        super().__init__()
        self.output_size = output_size

    @abstractmethod
    def padded(self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor) -> torch.Tensor:
        """``[rows, vectors * output_size]`` of a tensor ``[time, rows, hidden]`` for each direction.

        In the second one, the backward direction, each row is reversed within its own length.
        """

    @abstractmethod
    def packed(
        self, outputs: torch.Tensor, state: torch.Tensor, lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """The same of packed ``outputs`` ``[tokens, output_size]``, rows longest first, and the final states
        ``[rows, output_size]``.
        """


class DensePooling(Pooling):
    """A pooling as one function of dense outputs, which serves both layouts; a packed batch is padded for it."""

    @abstractmethod
    def dense(self, outputs: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """``[rows, vectors * output_size]`` of ``outputs`` ``[time, rows, output_size]``, in at least fp32 and in the
        order of the text, where ``real``, bool ``[time, rows, 1]``, says which hold a token; the others are any finite
        numbers.
        """

    def padded(self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor) -> torch.Tensor:
        """Turn the backward direction round, and lay both side by side."""
        reversal = reversal_index(device_lengths, len(outputs[0])) if len(outputs) > 1 else None
        return self._dense(in_order(outputs, reversal), device_lengths)

    def packed(
        self, outputs: torch.Tensor, state: torch.Tensor, lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Pad what is packed."""
        sizes = (torch.arange(int(lengths[0]))[:, None] < lengths).sum(1)
        return self._dense(pad_packed_sequence(PackedSequence(outputs, sizes))[0], device_lengths)

    def _dense(self, outputs: torch.Tensor, device_lengths: torch.Tensor) -> torch.Tensor:
        time = torch.arange(len(outputs), device=outputs.device)
        wide = torch.promote_types(outputs.dtype, torch.float32)
        return self.dense(outputs.to(wide), (time[:, None] < device_lengths)[:, :, None])


class Last(Pooling):
    """The final state of each direction."""

    def padded(self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor) -> torch.Tensor:
        """The backward direction is reversed, so its final state too is its output at the row's last token."""
        last = (device_lengths - 1)[None, :, None]
        parts = [direction.gather(0, last.expand(1, -1, direction.shape[2]))[0] for direction in outputs]
        return torch.cat(parts, dim=1)

    def packed(
        self, outputs: torch.Tensor, state: torch.Tensor, lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """It is there already."""
        return state


class Maximum(Pooling):
    """The maximum of each feature over a text's real tokens."""

    kind: Kind = "max"

    def padded(self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor) -> torch.Tensor:
        """Each direction as it is: the order of a text's tokens does not matter."""
        pooled = [pool_padded(direction, lengths, device_lengths, self.kind) for direction in outputs]
        return torch.cat([part for parts in zip(*pooled, strict=True) for part in parts], dim=1)

    def packed(
        self, outputs: torch.Tensor, state: torch.Tensor, lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Both directions at once."""
        return torch.cat(pool_packed(outputs, lengths, device_lengths, self.kind), dim=1)


class Mean(Maximum):
    """The mean likewise."""

    kind: Kind = "mean"


class MaximumAndMean(Maximum):
    """Both, one after the other."""

    kind: Kind = "max+mean"
