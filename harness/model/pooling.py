# SPDX-License-Identifier: Apache-2.0
"""From the outputs of the recurrent layers to one vector a text: the maximum or mean over its real tokens, or both.

Rows of a batch have much the same length. Up to the end of the shortest one every row has a token at every time step,
and outputs ``[time, rows, features]`` need no mask there; only the steps after it, the tail, are masked. Packed outputs
are padded first, which costs little beside the recurrence. Everything is a gather or a sum along one axis, never an
atomic addition, so the same batch gives the same bits on CUDA too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from harness.model.recurrent import PackedIndex, in_order, reversal_index


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
        """``[rows, vectors * output_size]`` of a tensor ``[time, rows, hidden]`` for each direction, or one for both.

        In the second one, the backward direction, each row is reversed within its own length; where one tensor holds
        both, all is in the order of the text.
        """

    def packed(
        self, outputs: torch.Tensor, state: torch.Tensor, lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """The same of packed ``outputs`` ``[tokens, output_size]``, rows longest first, and the final states
        ``[rows, output_size]``; unless a pooling knows better, the outputs are padded.
        """
        index = PackedIndex.of(lengths, device_lengths)
        return self.padded([index.padded(outputs, device_lengths)], lengths, device_lengths)


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
        whole = in_order(outputs, reversal)
        time = torch.arange(len(whole), device=whole.device)
        return self.dense(whole.to(wide(whole)), (time[:, None] < device_lengths)[:, :, None])


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

    maximum, mean = True, False

    def padded(self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor) -> torch.Tensor:
        """Each direction as it is: the order of a text's tokens does not matter."""
        time = torch.arange(int(lengths.min()), len(outputs[0]), device=outputs[0].device)
        padding = (time[:, None] >= device_lengths)[:, :, None]
        pooled = [_Pool.apply(each, padding, self.maximum, self.mean) for each in outputs]
        largest = [largest for largest, _ in pooled if largest is not None]
        return torch.cat([*largest, *(total / device_lengths[:, None] for _, total in pooled if total is not None)], 1)


class Mean(Maximum):
    """The mean likewise."""

    maximum, mean = False, True


class MaximumAndMean(Maximum):
    """Both, one after the other."""

    maximum, mean = True, True


class _Pool(torch.autograd.Function):
    """Maximum and sum over the real tokens of each row of padded outputs, and their gradients in one pass.

    Tokens that share the maximum share its gradient evenly, as in ``torch.amax``. Masks are numbers in the dtype of the
    outputs: a CPU computes with those in vectors, with Booleans one by one, and multiplies by a factor in a fifth of
    the time that ``masked_fill`` takes. What stands in a row's padding is finite, or the row itself is lost, so a
    factor of 0 removes it.
    """

    @staticmethod
    def forward(
        ctx: Any, outputs: torch.Tensor, padding: torch.Tensor, want_max: bool, want_sum: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """``[rows, features]`` each; None for what is not wanted. ``padding`` ``[tail, rows, 1]``: the last steps'."""
        common = len(outputs) - len(padding)
        head, tail = outputs[:common], outputs[common:]
        factor = padding.logical_not().to(outputs.dtype)
        maximum = total = None
        if want_max:
            maximum = head.amax(0)
            if len(tail):  # the minimum with inf leaves a token's value as it is
                bound = torch.where(padding, -torch.inf, torch.inf).to(outputs.dtype)
                maximum = torch.maximum(maximum, torch.minimum(tail, bound).amax(0))
        if want_sum:
            total = head.sum(0, dtype=wide(outputs))
            total = total.add_((tail * factor).sum(0, dtype=total.dtype)) if len(tail) else total
        ctx.common = common
        ctx.save_for_backward(outputs, factor, *([maximum] if maximum is not None else []))
        ctx.set_materialize_grads(False)
        return maximum, total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None, None]:
        """The sum's gradient goes to every real token, the maximum's to those that have it."""
        outputs, factor, *maximum = ctx.saved_tensors
        of_max, of_sum = gradients
        everywhere = outputs.new_zeros(()) if of_sum is None else of_sum.to(outputs.dtype)
        if of_max is None:
            gradient = everywhere.expand_as(outputs).contiguous()
        else:
            gradient = torch.eq(outputs, maximum[0], out=torch.empty_like(outputs))  # 1 where it is the maximum
            gradient[ctx.common :].mul_(factor)
            share = of_max / gradient.sum(0, dtype=wide(outputs)).to(of_max.dtype)
            torch.addcmul(everywhere, gradient, share, out=gradient)
        gradient[ctx.common :].mul_(factor)
        return gradient, None, None, None


def wide(values: torch.Tensor) -> torch.dtype:
    """What to sum ``values`` in: at least fp32, since a long sum in bf16 stops growing."""
    return torch.promote_types(values.dtype, torch.float32)
