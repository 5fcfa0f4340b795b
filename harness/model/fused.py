# SPDX-License-Identifier: Apache-2.0
"""An LSTM layer over packed rows as two Triton kernels, forward and backward; imported only where it is used.

cuDNN computes packed rows with one small product per time step and direction, each a launch of its own. Here one
program computes ``ROWS`` rows of one direction from their first to their last step. ``weight_hh`` stays in shared
memory, the cell state in registers. All programs of a layer, of both directions, are one launch. Rows are sorted by
length, so the rows of a program end together; a row that is shorter than its program's longest is masked, and no
padding is read, written or kept.

The products that do not depend on the step before are matrix products of torch over all tokens: the input's, and in
the backward pass those for ``weight_ih``, ``weight_hh``, the biases and the input. Sums over time and rows have a fixed
order, and there are no atomic operations: equal inputs give equal bits on one card.

Dtypes: matrices, gates and outputs are those of the input; sums, the cell state and its gradient are fp32. Kept for the
backward pass, per token, direction and unit: four activated gates, which replace the input's product in place, and the
cell state in fp32; 3 KB per token for two directions of 128 units in bf16. To compute the gates again would save 2 KB
of them, and add a second product to each step of the backward pass.

``weight_hh`` must fit into the shared memory of one multiprocessor: up to 128 units in bf16 and fp16, 64 in fp32. Wider
layers are left to cuDNN: 256 units in bf16 take 512 KB, that is four multiprocessors that exchange ``h`` in every step.

``TRITON_INTERPRET=1``, set before this module is imported, runs the kernels on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch.nn import functional

from harness.batch import send

ROWS = 16
"""Rows of a program: the least that a tensor core multiplies at once."""
MOST_BYTES = 128 << 10
"""Largest ``weight_hh`` of one direction: a multiprocessor of compute capability 8.0 has 163 KB of shared memory."""
BEYOND = tl.constexpr(1 << 40)
"""A time step that no row has."""


@triton.jit
def four(at, APART: tl.constexpr, mask):  # type: ignore[no-untyped-def]  # noqa: N803
    """Four arrays that lie ``APART``, one for each gate; 0 outside of ``mask``."""
    first, second = tl.load(at, mask=mask, other=0.0), tl.load(at + APART, mask=mask, other=0.0)
    return first, second, tl.load(at + 2 * APART, mask=mask, other=0.0), tl.load(at + 3 * APART, mask=mask, other=0.0)


@triton.jit
def own(plan, num_rows, HIDDEN: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """The rows of this program, their lengths, the steps of the longest, ``arange(UNITS)``, and where final states of
    these rows lie, with a mask.
    """
    rows, units = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, UNITS)
    steps = tl.load(plan + tl.program_id(0) * ROWS)
    last = (tl.program_id(1) * num_rows + rows)[:, None] * HIDDEN + units[None, :]
    there = (rows < num_rows)[:, None] & (units < HIDDEN)[None, :]
    return rows, tl.load(plan + rows, mask=rows < num_rows, other=0), steps, units, last, there


@triton.jit
def visit(gates, plan, num_rows, step, steps, backwards, rows, length, units, HIDDEN: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """What the rows of a program find in step ``step`` of a walk over ``steps`` time steps, which ``backwards`` starts
    at the last one: where the outputs of their tokens lie, where their gates lie, a mask, and the four gates.
    """
    time = tl.where(backwards, steps - 1 - step, step)
    token = tl.load(plan + num_rows + time, mask=step < steps, other=0) + rows
    at = (token * tl.num_programs(1) + tl.program_id(1))[:, None] * HIDDEN
    mask = (tl.where(step < steps, time, BEYOND) < length)[:, None] & (units < HIDDEN)[None, :]
    gate = 4 * at + units[None, :]
    i, f, g, o = four(gates + gate, HIDDEN, mask)
    return at + units[None, :], gate, mask, i, f, g, o


@triton.jit
def tanh(values, FAST: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """With ``FAST`` one instruction with a relative error of 2**-11 (PTX ISA, ``tanh.approx``), a quarter of bf16's."""
    if FAST:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [values], tl.float32, is_pure=True, pack=1)
    return 2 / (1 + tl.exp(-2 * values)) - 1


@triton.jit
def sigmoid(values, FAST: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    return 0.5 * tanh(0.5 * values, FAST) + 0.5


@triton.jit(do_not_specialize=["num_rows"])
def forward_kernel(  # type: ignore[no-untyped-def]
    gates,
    weights,
    outputs,
    cells,
    states,
    plan,
    num_rows,
    HIDDEN: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    FAST: tl.constexpr,  # noqa: N803
):
    """All steps of ``ROWS`` rows of one direction.

    ``gates`` ``[tokens, directions, 4, hidden]``: the input's product, which the activated gates replace. ``cells``
    ``[tokens, directions, hidden]`` gets the cell state before each step. ``weights`` ``[directions, 4, hidden,
    hidden]``; ``outputs`` ``[tokens, directions, hidden]``; ``states`` ``[directions, rows, hidden]``. ``plan``: see
    ``Walk``.
    """
    rows, length, steps, units, last, there = own(plan, num_rows, HIDDEN, UNITS, ROWS)
    inputs, backwards = tl.arange(0, UNITS), tl.program_id(1) == 1
    matrix = weights + (tl.program_id(1) * 4 * HIDDEN + units[None, :]) * HIDDEN + inputs[:, None]
    w_i, w_f, w_g, w_o = four(matrix, HIDDEN * HIDDEN, (inputs < HIDDEN)[:, None] & (units < HIDDEN)[None, :])
    h = tl.full((ROWS, UNITS), 0.0, outputs.dtype.element_ty)
    c = tl.full((ROWS, UNITS), 0.0, tl.float32)
    at, gate, mask, x_i, x_f, x_g, x_o = visit(gates, plan, num_rows, 0, steps, backwards, rows, length, units, HIDDEN)
    for step in range(steps):
        # Read one step ahead, so that memory answers while the products are computed.
        next_at, next_gate, next_mask, next_i, next_f, next_g, next_o = visit(
            gates, plan, num_rows, step + 1, steps, backwards, rows, length, units, HIDDEN
        )
        i = sigmoid(tl.dot(h, w_i, input_precision=PRECISION) + x_i.to(tl.float32), FAST)
        f = sigmoid(tl.dot(h, w_f, input_precision=PRECISION) + x_f.to(tl.float32), FAST)
        g = tanh(tl.dot(h, w_g, input_precision=PRECISION) + x_g.to(tl.float32), FAST)
        o = sigmoid(tl.dot(h, w_o, input_precision=PRECISION) + x_o.to(tl.float32), FAST)
        tl.store(cells + at, c, mask=mask)
        tl.store(gates + gate, i.to(h.dtype), mask=mask)
        tl.store(gates + gate + HIDDEN, f.to(h.dtype), mask=mask)
        tl.store(gates + gate + 2 * HIDDEN, g.to(h.dtype), mask=mask)
        tl.store(gates + gate + 3 * HIDDEN, o.to(h.dtype), mask=mask)
        c = tl.where(mask, f * c + i * g, c)
        h = tl.where(mask, (o * tanh(c, FAST)).to(h.dtype), h)
        tl.store(outputs + at, h, mask=mask)
        at, gate, mask, x_i, x_f, x_g, x_o = next_at, next_gate, next_mask, next_i, next_f, next_g, next_o
    tl.store(states + last, h, mask=there)


@triton.jit(do_not_specialize=["num_rows"])
def backward_kernel(  # type: ignore[no-untyped-def]
    gates,
    weights,
    outputs,
    cells,
    d_outputs,
    d_states,
    d_gates,
    before,
    plan,
    num_rows,
    HIDDEN: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    FAST: tl.constexpr,  # noqa: N803
):
    """The steps of ``forward_kernel`` in reverse: ``d_gates``, the gradient of the input's product, and ``before``, the
    output of the step before that of each token, in the shape of ``outputs``.
    """
    rows, length, steps, units, last, there = own(plan, num_rows, HIDDEN, UNITS, ROWS)
    inputs, backwards = tl.arange(0, UNITS), tl.program_id(1) == 0
    matrix = weights + (tl.program_id(1) * 4 * HIDDEN + inputs[:, None]) * HIDDEN + units[None, :]
    w_i, w_f, w_g, w_o = four(matrix, HIDDEN * HIDDEN, (inputs < HIDDEN)[:, None] & (units < HIDDEN)[None, :])
    d_h = tl.load(d_states + last, mask=there, other=0.0).to(tl.float32)
    d_c = tl.full((ROWS, UNITS), 0.0, tl.float32)
    at, gate, mask, i, f, g, o = visit(gates, plan, num_rows, 0, steps, backwards, rows, length, units, HIDDEN)
    c = tl.load(cells + at, mask=mask, other=0.0)
    h = tl.load(outputs + at, mask=mask, other=0.0)
    d_output = tl.load(d_outputs + at, mask=mask, other=0.0)
    later, later_mask = at, mask & (units < 0)[None, :]
    for step in range(steps):
        tl.store(before + later, h, mask=later_mask)
        next_at, next_gate, next_mask, next_i, next_f, next_g, next_o = visit(
            gates, plan, num_rows, step + 1, steps, backwards, rows, length, units, HIDDEN
        )
        next_c = tl.load(cells + next_at, mask=next_mask, other=0.0)
        next_h = tl.load(outputs + next_at, mask=next_mask, other=0.0)
        next_output = tl.load(d_outputs + next_at, mask=next_mask, other=0.0)
        i, f, g, o = i.to(tl.float32), f.to(tl.float32), g.to(tl.float32), o.to(tl.float32)
        squashed = tanh(f * c + i * g, FAST)
        d_h += d_output.to(tl.float32)
        d_cell = d_c + d_h * o * (1 - squashed * squashed)
        d_i = (d_cell * g * i * (1 - i)).to(w_i.dtype)
        d_f = (d_cell * c * f * (1 - f)).to(w_i.dtype)
        d_g = (d_cell * i * (1 - g * g)).to(w_i.dtype)
        d_o = (d_h * squashed * o * (1 - o)).to(w_i.dtype)
        tl.store(d_gates + gate, d_i, mask=mask)
        tl.store(d_gates + gate + HIDDEN, d_f, mask=mask)
        tl.store(d_gates + gate + 2 * HIDDEN, d_g, mask=mask)
        tl.store(d_gates + gate + 3 * HIDDEN, d_o, mask=mask)
        d_before = tl.dot(d_i, w_i, input_precision=PRECISION)
        d_before = tl.dot(d_f, w_f, d_before, input_precision=PRECISION)
        d_before = tl.dot(d_g, w_g, d_before, input_precision=PRECISION)
        d_h = tl.where(mask, tl.dot(d_o, w_o, d_before, input_precision=PRECISION), d_h)
        d_c = tl.where(mask, d_cell * f, d_c)
        later, later_mask, at, gate, mask = at, mask, next_at, next_gate, next_mask
        i, f, g, o, c, h, d_output = next_i, next_f, next_g, next_o, next_c, next_h, next_output
    tl.store(before + later, h, mask=later_mask)  # zeros, before the first step of the longest rows


def shape_of(gates: torch.Tensor) -> dict[str, Any]:
    """Constants of both kernels, and how they are launched, for ``gates`` ``[tokens, directions, 4, hidden]``."""
    units, exact = max(ROWS, triton.next_power_of_2(gates.shape[3])), gates.dtype == torch.float32
    return {
        "HIDDEN": gates.shape[3],
        "UNITS": units,
        "ROWS": ROWS,
        "PRECISION": "tf32" if exact and torch.backends.cuda.matmul.allow_tf32 else "ieee",
        "FAST": gates.is_cuda and not exact,
        "num_warps": max(1, min(8, units // 8)),
        "num_stages": 1,  # what is read ahead is read into registers: shared memory is full
        "enable_fp_fusion": True,
    }


def fits(hidden: int, dtype: torch.dtype) -> bool:
    """Whether ``weight_hh`` of one direction fits into the shared memory of a multiprocessor, in whole tiles."""
    held = 4 * triton.next_power_of_2(hidden) ** 2 * dtype.itemsize
    return hidden % ROWS == 0 and held <= MOST_BYTES and dtype != torch.float64


class _Layer(torch.autograd.Function):
    """The recurrent part of a layer, from the input's product; the weights of all directions are one tensor."""

    @staticmethod
    def forward(ctx: Any, gates: torch.Tensor, weights: torch.Tensor, walk: Walk) -> tuple[torch.Tensor, torch.Tensor]:
        """``gates`` ``[tokens, directions, 4, hidden]`` is overwritten; ``weights`` ``[directions, 4 * hidden,
        hidden]``. Outputs ``[tokens, directions, hidden]`` and final states ``[directions, rows, hidden]``.
        """
        tokens, directions, _, hidden = gates.shape
        outputs = gates.new_empty(tokens, directions, hidden)
        states = gates.new_empty(directions, walk.num_rows, hidden)
        cells = torch.empty_like(outputs, dtype=torch.float32)
        given = (gates, weights, outputs, cells, states, walk.plan, walk.num_rows)
        forward_kernel[walk.grid(directions)](*given, **shape_of(gates))
        ctx.save_for_backward(gates, weights, outputs, cells)
        ctx.walk = walk
        return outputs, states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """The gradients of ``gates`` and ``weights``."""
        gates, weights, outputs, cells = ctx.saved_tensors
        d_outputs, d_states = (gradient.contiguous() for gradient in gradients)
        d_gates, before = torch.empty_like(gates), torch.empty_like(outputs)
        given = (gates, weights, outputs, cells, d_outputs, d_states, d_gates, before, ctx.walk.plan, ctx.walk.num_rows)
        backward_kernel[ctx.walk.grid(gates.shape[1])](*given, **shape_of(gates))
        d_weights = torch.bmm(d_gates.flatten(2).permute(1, 2, 0), before.transpose(0, 1))
        return d_gates, d_weights, None


@dataclass(frozen=True)
class Walk:
    """Which tokens of a packed batch are those of which row."""

    plan: torch.Tensor
    """int64 ``[rows + time]`` on the device: the length of each row, then the first token of each time step."""
    num_rows: int

    @classmethod
    def of(cls, batch_sizes: torch.Tensor, device: torch.device) -> Walk:
        """For ``batch_sizes`` int64 ``[time]`` on the CPU; no wait for the device."""
        ended = batch_sizes - torch.cat((batch_sizes[1:], batch_sizes.new_zeros(1)))
        lengths = torch.repeat_interleave(torch.arange(1, len(batch_sizes) + 1), ended).flip(0)
        return cls(send(torch.cat((lengths, batch_sizes.cumsum(0) - batch_sizes)), device), len(lengths))

    def grid(self, directions: int) -> tuple[int, int]:
        """Programs of a launch."""
        return triton.cdiv(self.num_rows, ROWS), directions

    def lstm(self, data: torch.Tensor, weights: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer over packed ``data`` ``[tokens, features]``, from zero states: outputs ``[tokens, output_size]``
        and final states ``[directions, rows, hidden]``. ``weights``: four for each direction, all in the data's dtype.
        """
        of_inputs, of_states, *biases = (weights[place::4] for place in range(4))
        hidden = of_states[0].shape[1]
        bias = torch.cat([first + second for first, second in zip(*biases, strict=True)])
        gates = functional.linear(data, torch.cat(of_inputs), bias).view(len(data), len(of_states), 4, hidden)
        outputs, states = _Layer.apply(gates, torch.stack(of_states), self)
        return outputs.view(len(data), -1), states
