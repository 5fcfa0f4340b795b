# SPDX-License-Identifier: Apache-2.0
"""From the outputs of the recurrent layers to one vector a text: the maximum or mean over its real tokens, or both."""

from __future__ import annotations

from typing import Any, Literal

import torch

Pooling = Literal["max", "mean", "max+mean"]


def pool_padded(outputs: torch.Tensor, lengths: torch.Tensor, pooling: Pooling) -> list[torch.Tensor]:
    """``[rows, features]`` for each part of ``pooling``, of padded ``outputs`` ``[time, rows, features]``.

    ``lengths`` is int64 ``[rows]`` on the CPU. The order of a text's tokens does not matter.
    """
    maximum, total = _Pool.apply(outputs, lengths, pooling != "mean", pooling != "max")
    pooled = [] if maximum is None else [maximum]
    if total is not None:
        pooled.append(total / lengths.to(total.device)[:, None])
    return pooled


class _Pool(torch.autograd.Function):
    """Maximum and sum over the real tokens of each row, and their gradients in one pass.

    Rows of a batch have much the same length: up to the shortest one's there is nothing to mask, and no copy is made.
    Tokens that share the maximum share its gradient evenly, as in ``torch.amax``.
    """

    @staticmethod
    def forward(
        ctx: Any, outputs: torch.Tensor, lengths: torch.Tensor, want_max: bool, want_sum: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """``[rows, features]`` each; None for what is not wanted."""
        common = int(lengths.min())
        tail = outputs[common:]
        lengths = lengths.to(outputs.device)
        padding = (torch.arange(common, len(outputs), device=outputs.device)[:, None] >= lengths)[:, :, None]
        maximum = total = None
        if want_max:
            maximum = outputs[:common].amax(0)
            if len(tail):
                maximum = torch.maximum(maximum, tail.masked_fill(padding, -torch.inf).amax(0))
        if want_sum:
            total = outputs[:common].sum(0, dtype=wide(outputs))
            if len(tail):
                total += tail.masked_fill(padding, 0).sum(0, dtype=total.dtype)
        ctx.common = common
        ctx.save_for_backward(outputs, padding, *([maximum] if maximum is not None else []))
        ctx.set_materialize_grads(False)
        return maximum, total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None, None]:
        """The sum's gradient goes to every real token, the maximum's to those that have it."""
        outputs, padding, *maximum = ctx.saved_tensors
        of_max, of_sum = gradients
        everywhere = outputs.new_zeros(()) if of_sum is None else of_sum.to(outputs.dtype)
        if of_max is None:
            gradient = everywhere.expand_as(outputs).contiguous()
        else:
            best = same_bits(outputs, maximum[0])
            best[ctx.common :].logical_and_(~padding)
            gradient = torch.where(best, everywhere + of_max / best.sum(0), everywhere)
        gradient[ctx.common :].masked_fill_(padding, 0)
        return gradient, None, None, None


def same_bits(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Bool: which ``values`` are those that were ``chosen`` from among them; bf16 compares faster as integers."""
    return values.view(torch.int16) == chosen.view(torch.int16) if values.itemsize == 2 else values == chosen


def pool_packed(
    outputs: torch.Tensor, rows: torch.Tensor, lengths: torch.Tensor, pooling: Pooling
) -> list[torch.Tensor]:
    """The same for packed ``outputs`` ``[tokens, features]``; ``rows`` ``[tokens]`` says whose token each one is."""
    shape = (len(lengths), outputs.shape[1])
    pooled = []
    if pooling != "mean":
        index = rows[:, None].expand_as(outputs)
        pooled.append(outputs.new_zeros(shape).scatter_reduce(0, index, outputs, "amax", include_self=False))
    if pooling != "max":
        summed = outputs.to(wide(outputs))
        total = summed.new_zeros(shape).index_add(0, rows, summed)
        pooled.append(total / lengths.to(total.device, non_blocking=True)[:, None])
    return pooled


def wide(values: torch.Tensor) -> torch.dtype:
    """What to sum ``values`` in: at least fp32, since a long sum in bf16 stops growing."""
    return torch.promote_types(values.dtype, torch.float32)
