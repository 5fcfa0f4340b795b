# SPDX-License-Identifier: Apache-2.0
"""From the outputs of the recurrent layers to one vector per text: maximum and mean over its real tokens, or the last
state.

Rows of a batch have similar lengths. Up to the length of the shortest row, outputs ``[time, rows, features]`` need no
mask; only the later steps, the tail, are masked. Packed outputs are padded first, which is cheap compared with the
recurrence. All operations are gathers or sums along one axis, never atomic additions, so results are deterministic on
CUDA too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from harness.batch import PackedIndex
from harness.model.recurrent import pad_packed, restore_order, reversal_index


class Pooling(nn.Module):
    """From the outputs of the recurrent layers to one vector per text; a subclass has ``dense``, or is faster and has
    ``pool_padded``, and perhaps ``pool_packed``.

    ``lengths`` is int64 ``[rows]`` on the CPU, ``device_lengths`` the same on the device of the outputs. A row's vector
    must depend on that row's real tokens alone, or else updates depend on how a batch is split (law 4).
    """

    def __init__(self, output_size: int) -> None:
        """``output_size``: features of an output, both directions together."""
        super().__init__()
        self.output_size = output_size

    def dense(self, outputs: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Pool ``outputs`` ``[time, rows, output_size]``, in at least fp32 and in text order:
        ``[rows, vectors * output_size]``. ``real``, bool ``[time, rows, 1]``, marks tokens; other outputs are arbitrary
        finite numbers.
        """
        raise NotImplementedError

    def pool_padded(
        self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Pool a tensor ``[time, rows, hidden]`` per direction, or one for both: ``[rows, vectors * output_size]``.

        In the second tensor, the backward direction, each row is reversed within its own length. A single tensor for
        both directions is in text order. By default, brings the backward direction into text order, and concatenates
        both for ``dense``.
        """
        reversal = reversal_index(device_lengths, len(outputs[0])) if len(outputs) > 1 else None
        in_text_order = restore_order(outputs, reversal)
        time = torch.arange(len(in_text_order), device=in_text_order.device)
        return self.dense(in_text_order.to(wide(in_text_order)), (time[:, None] < device_lengths)[:, :, None])

    def pool_packed(
        self,
        outputs: torch.Tensor,
        state: torch.Tensor,
        index: PackedIndex,
        lengths: torch.Tensor,
        device_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """The same for packed ``outputs`` ``[tokens, output_size]``, rows longest first, and the final ``state``
        ``[directions, rows, hidden]``. By default, pads the outputs and calls ``pool_padded``.
        """
        return self.pool_padded([pad_packed(outputs, index)], lengths, device_lengths)


class Last(Pooling):
    """The final state of each direction."""

    def pool_padded(
        self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Take each direction's output at ``length - 1``; the backward direction is reversed, so it is its last too."""
        last = (device_lengths - 1)[None, :, None]
        parts = [direction.gather(0, last.expand(1, -1, direction.shape[2]))[0] for direction in outputs]
        return torch.cat(parts, dim=1)

    def pool_packed(
        self,
        outputs: torch.Tensor,
        state: torch.Tensor,
        index: PackedIndex,
        lengths: torch.Tensor,
        device_lengths: torch.Tensor,
    ) -> torch.Tensor:
        """The final state is given."""
        return state.transpose(0, 1).reshape(len(lengths), self.output_size)


class MaximumAndMean(Pooling):
    """Maximum and mean of each feature over a text's real tokens, concatenated."""

    def dense(self, outputs: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """The plain formula, which is exported."""
        maximum = outputs.masked_fill(~real, -torch.inf).amax(0)
        return torch.cat((maximum, outputs.masked_fill(~real, 0).sum(0) / real.sum(0)), dim=1)

    def pool_padded(
        self, outputs: list[torch.Tensor], lengths: torch.Tensor, device_lengths: torch.Tensor
    ) -> torch.Tensor:
        """Pool each direction as it is: the order of tokens does not matter. A CPU is spared the copy of both in one
        tensor, a GPU half of the kernels.
        """
        outputs = outputs if outputs[0].is_cpu or len(outputs) == 1 else [torch.cat(outputs, 2)]
        longest = len(outputs[0])
        time = torch.arange(int(lengths.min()), longest, device=outputs[0].device)[:, None]
        factor = torch.lt(time, device_lengths, out=outputs[0].new_empty(len(time), len(lengths)))[:, :, None]
        maxima, totals = zip(*(_Pool.apply(direction, factor) for direction in outputs), strict=True)
        return torch.cat([*maxima, *(total / device_lengths[:, None] for total in totals)], 1)


class _Pool(torch.autograd.Function):
    """Maximum and sum over the real tokens of each row of padded outputs, and their gradients in one pass.

    Tokens with the same maximum share its gradient evenly, as in ``torch.amax``. Masks have the dtype of the outputs:
    on a CPU, multiplication by such a mask is vectorised and takes a fifth of the time of ``masked_fill``. Outputs in a
    row's padding are finite unless the row's real outputs are not, so multiplying by 0 removes them.
    """

    @staticmethod
    def forward(ctx: Any, outputs: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maximum and sum, ``[rows, features]`` each. ``factor`` ``[tail, rows, 1]``: 1 for a token, 0 in
        the padding.
        """
        common = len(outputs) - len(factor)
        head, tail = outputs[:common], outputs[common:]
        maximum, total = head.amax(0), head.sum(0, dtype=wide(outputs))
        if len(tail):  # the logarithm is 0 for a token, which changes no value, and -inf in the padding
            maximum = torch.maximum(maximum, (tail + factor.log()).amax(0))
            total = total.add_((tail * factor).sum(0, dtype=total.dtype))
        ctx.common = common
        ctx.save_for_backward(outputs, factor, maximum)
        return maximum, total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of the sum goes to every real token, that of the maximum to the tokens with that value."""
        outputs, factor, maximum = ctx.saved_tensors
        of_max, of_sum = gradients
        gradient = torch.eq(outputs, maximum, out=torch.empty_like(outputs))  # 1 where it is the maximum
        gradient[ctx.common :].mul_(factor)
        share = of_max / gradient.sum(0, dtype=wide(outputs)).to(of_max.dtype)
        torch.addcmul(of_sum.to(outputs.dtype), gradient, share, out=gradient)
        gradient[ctx.common :].mul_(factor)
        return gradient, None


def wide(values: torch.Tensor) -> torch.dtype:
    """The dtype for sums of ``values``: at least fp32, since a long sum in bf16 stops growing."""
    return torch.promote_types(values.dtype, torch.float32)
