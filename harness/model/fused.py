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

The four gates of a row lie side by side, so that a step has one product, and its result changes hands seldom: each
change of layout is two barriers of the program.

Dtypes: matrices, gates and outputs are those of the input; sums, the cell state and its gradient are fp32. Kept for the
backward pass, per token, direction and unit: four pre-activations, which replace the input's product in place, and the
cell state in fp32; 3 KB per token for two directions of 128 units in bf16. Not activated gates, of which bf16 rounds
0.999 to 1, whose derivative is 0. To compute them again would save 2 KB, and add a second product to each step of the
backward pass.

``weight_hh`` must fit into the shared memory of one multiprocessor, beside the gates of a program: up to 128 units in
bf16 and fp16, or 64 on cards with 99 KB (compute capability 8.6, 8.9, 12.0), and 64 in fp32. Wider layers are left to
cuDNN: 256 units in bf16 take 512 KB, that is four multiprocessors that exchange ``h`` in every step.

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
SHARED_BYTES = 163 << 10
"""Shared memory of a multiprocessor where there is no card to ask: that of compute capability 8.0."""
BEYOND = tl.constexpr(1 << 40)
"""A time step that no row has."""


@triton.jit
def read_weights(weights, HIDDEN: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """``weight_hh`` of this program's direction, ``[4 * UNITS, UNITS]``; 0 beyond ``HIDDEN``."""
    columns, inputs = tl.arange(0, 4 * UNITS), tl.arange(0, UNITS)
    row = (tl.program_id(1) * 4 + columns // UNITS) * HIDDEN + columns % UNITS
    mask = (columns % UNITS < HIDDEN)[:, None] & (inputs < HIDDEN)[None, :]
    return tl.load(weights + row[:, None] * HIDDEN + inputs[None, :], mask=mask, other=0.0)


@triton.jit
def locate_rows(plan, num_rows, HIDDEN: tl.constexpr, UNITS: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """The rows of this program, their lengths, the steps of the longest, and where final states of these rows lie, with
    a mask.
    """
    rows, units = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, UNITS)
    steps = tl.load(plan + tl.program_id(0) * ROWS)
    last = (tl.program_id(1) * num_rows + rows)[:, None] * HIDDEN + units[None, :]
    mask = (rows < num_rows)[:, None] & (units < HIDDEN)[None, :]
    return rows, tl.load(plan + rows, mask=rows < num_rows, other=0), steps, last, mask


@triton.jit
def locate_tokens(plan, num_rows, step, steps, backwards, rows, length, HIDDEN: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """What the rows of a program find in step ``step`` of a walk over ``steps`` time steps, which ``backwards`` starts
    at the last one: where the outputs and where the gates of their tokens lie, and masks for both.
    """
    time = tl.where(backwards, steps - 1 - step, step)
    token = tl.load(plan + num_rows + time, mask=step < steps, other=0) + rows
    at = (token * tl.num_programs(1) + tl.program_id(1))[:, None] * HIDDEN
    runs = (tl.where(step < steps, time, BEYOND) < length)[:, None]
    units, columns = tl.arange(0, UNITS), tl.arange(0, 4 * UNITS)
    gate = 4 * at + ((columns // UNITS) * HIDDEN + columns % UNITS)[None, :]
    return at + units[None, :], gate, runs & (units < HIDDEN)[None, :], runs & (columns % UNITS < HIDDEN)[None, :]


@triton.jit
def tanh(values, FAST: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """With ``FAST`` one instruction with a relative error of 2**-11 (PTX ISA, ``tanh.approx``), a quarter of bf16's."""
    if FAST:
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [values], tl.float32, is_pure=True, pack=1)
    return 2 / (1 + tl.exp(-2 * values)) - 1


@triton.jit
def sigmoid(values, FAST: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    return 0.5 * tanh(0.5 * values, FAST) + 0.5


@triton.jit
def split_gates(values, ROWS: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """``[ROWS, 4 * UNITS]``, the gates side by side, as four arrays ``[ROWS, UNITS]``."""
    i_and_g, f_and_o = values.reshape(ROWS, 4, UNITS).permute(0, 2, 1).reshape(ROWS, UNITS, 2, 2).split()
    i, g = i_and_g.split()
    f, o = f_and_o.split()
    return i, f, g, o


@triton.jit
def activate_gates(entered, ROWS: tl.constexpr, UNITS: tl.constexpr, FAST: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """The gates i, f, g and o of pre-activations."""
    i, f, g, o = split_gates(entered, ROWS, UNITS)
    return sigmoid(i, FAST), sigmoid(f, FAST), tanh(g, FAST), sigmoid(o, FAST)


@triton.jit
def join_gates(i, f, g, o, ROWS: tl.constexpr, UNITS: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Four arrays ``[ROWS, UNITS]`` as one, ``[ROWS, 4 * UNITS]``."""
    by_unit = tl.join(tl.join(i, g), tl.join(f, o))
    return by_unit.reshape(ROWS, UNITS, 4).permute(0, 2, 1).reshape(ROWS, 4 * UNITS)


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

    ``gates`` ``[tokens, directions, 4, hidden]``: the input's product, which the pre-activations replace. ``cells``
    ``[tokens, directions, hidden]`` gets the cell state before each step. ``weights`` ``[directions, 4, hidden,
    hidden]``; ``outputs`` ``[tokens, directions, hidden]``; ``states`` ``[directions, rows, hidden]``. ``plan``: see
    ``Walk``.
    """
    rows, length, steps, last, state_mask = locate_rows(plan, num_rows, HIDDEN, UNITS, ROWS)
    backwards, matrix = tl.program_id(1) == 1, read_weights(weights, HIDDEN, UNITS).trans()
    if PRECISION == "ieee":  # without tensor cores the wide product would be kept in local memory
        w_i, w_f, w_g, w_o = split_gates(matrix, UNITS, UNITS)
    h = tl.full((ROWS, UNITS), 0.0, outputs.dtype.element_ty)
    c = tl.full((ROWS, UNITS), 0.0, tl.float32)
    at, gate, mask, gate_mask = locate_tokens(plan, num_rows, 0, steps, backwards, rows, length, HIDDEN, UNITS)
    product = tl.load(gates + gate, mask=gate_mask, other=0.0)
    for step in range(steps):
        # Read one step ahead, so that memory answers while the products are computed.
        next_at, next_gate, next_mask, next_gate_mask = locate_tokens(
            plan, num_rows, step + 1, steps, backwards, rows, length, HIDDEN, UNITS
        )
        next_product = tl.load(gates + next_gate, mask=next_gate_mask, other=0.0)
        if PRECISION == "ieee":
            entered = (
                join_gates(
                    tl.dot(h, w_i, input_precision="ieee"),
                    tl.dot(h, w_f, input_precision="ieee"),
                    tl.dot(h, w_g, input_precision="ieee"),
                    tl.dot(h, w_o, input_precision="ieee"),
                    ROWS,
                    UNITS,
                )
                + product
            )
        else:
            entered = tl.dot(h, matrix, input_precision=PRECISION) + product.to(tl.float32)
        tl.store(gates + gate, entered.to(h.dtype), mask=gate_mask)
        i, f, g, o = activate_gates(entered, ROWS, UNITS, FAST)
        tl.store(cells + at, c, mask=mask)
        c = tl.where(mask, f * c + i * g, c)
        h = tl.where(mask, (o * tanh(c, FAST)).to(h.dtype), h)
        tl.store(outputs + at, h, mask=mask)
        at, gate, mask, gate_mask, product = next_at, next_gate, next_mask, next_gate_mask, next_product
    tl.store(states + last, h, mask=state_mask)


@triton.jit(do_not_specialize=["num_rows"])
def backward_kernel(  # type: ignore[no-untyped-def]
    gates,
    weights,
    outputs,
    cells,
    d_outputs,
    d_states,
    d_gates,
    previous_outputs,
    plan,
    num_rows,
    HIDDEN: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    FAST: tl.constexpr,  # noqa: N803
):
    """The steps of ``forward_kernel`` in reverse: ``d_gates``, the gradient of the input's product, and
    ``previous_outputs``, the output of the step before that of each token, in the shape of ``outputs``. ``gates``: the
    pre-activations.
    """
    rows, length, steps, last, state_mask = locate_rows(plan, num_rows, HIDDEN, UNITS, ROWS)
    backwards, matrix = tl.program_id(1) == 0, read_weights(weights, HIDDEN, UNITS)
    d_h = tl.load(d_states + last, mask=state_mask, other=0.0).to(tl.float32)
    d_c = tl.full((ROWS, UNITS), 0.0, tl.float32)
    at, gate, mask, gate_mask = locate_tokens(plan, num_rows, 0, steps, backwards, rows, length, HIDDEN, UNITS)
    entered = tl.load(gates + gate, mask=gate_mask, other=0.0)
    c = tl.load(cells + at, mask=mask, other=0.0)
    h = tl.load(outputs + at, mask=mask, other=0.0)
    d_output = tl.load(d_outputs + at, mask=mask, other=0.0)
    later, later_mask = at, mask & (rows < 0)[:, None]
    for step in range(steps):
        tl.store(previous_outputs + later, h, mask=later_mask)
        next_at, next_gate, next_mask, next_gate_mask = locate_tokens(
            plan, num_rows, step + 1, steps, backwards, rows, length, HIDDEN, UNITS
        )
        next_entered = tl.load(gates + next_gate, mask=next_gate_mask, other=0.0)
        next_c = tl.load(cells + next_at, mask=next_mask, other=0.0)
        next_h = tl.load(outputs + next_at, mask=next_mask, other=0.0)
        next_output = tl.load(d_outputs + next_at, mask=next_mask, other=0.0)
        i, f, g, o = activate_gates(entered.to(tl.float32), ROWS, UNITS, FAST)
        squashed = tanh(f * c + i * g, FAST)
        d_h += d_output.to(tl.float32)
        d_cell = d_c + d_h * o * (1 - squashed * squashed)
        d_i, d_f = d_cell * g * i * (1 - i), d_cell * c * f * (1 - f)
        d_g, d_o = d_cell * i * (1 - g * g), d_h * squashed * o * (1 - o)
        d_entered = join_gates(d_i, d_f, d_g, d_o, ROWS, UNITS).to(matrix.dtype)
        tl.store(d_gates + gate, d_entered, mask=gate_mask)
        d_h = tl.where(mask, tl.dot(d_entered, matrix, input_precision=PRECISION), d_h)
        d_c = tl.where(mask, d_cell * f, d_c)
        later, later_mask, at, gate, mask, gate_mask = at, mask, next_at, next_gate, next_mask, next_gate_mask
        entered, c, h, d_output = next_entered, next_c, next_h, next_output
    tl.store(previous_outputs + later, h, mask=later_mask)  # zeros, before the first step of the longest rows


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


def fits_shared_memory(hidden: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether ``weight_hh`` of one direction and the gates of a program fit into the shared memory of a multiprocessor
    of ``device``, in whole tiles.
    """
    units = triton.next_power_of_2(hidden)
    needed_bytes, shared_bytes = 4 * units * (units + ROWS) * dtype.itemsize, SHARED_BYTES
    if device.type == "cuda":
        shared_bytes = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", shared_bytes)
    return hidden % ROWS == 0 and needed_bytes <= shared_bytes and dtype != torch.float64


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
        arguments = (gates, weights, outputs, cells, states, walk.plan, walk.num_rows)
        forward_kernel[walk.grid(directions)](*arguments, **shape_of(gates))
        ctx.save_for_backward(gates, weights, outputs, cells)
        ctx.walk = walk
        return outputs, states

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """The gradients of ``gates`` and ``weights``."""
        gates, weights, outputs, cells = ctx.saved_tensors
        d_outputs, d_states = (gradient.contiguous() for gradient in gradients)
        d_gates, previous_outputs = torch.empty_like(gates), torch.empty_like(outputs)
        arguments = (gates, weights, outputs, cells, d_outputs, d_states, d_gates, previous_outputs)
        rows = (ctx.walk.plan, ctx.walk.num_rows)
        backward_kernel[ctx.walk.grid(gates.shape[1])](*arguments, *rows, **shape_of(gates))
        d_weights = torch.bmm(d_gates.flatten(2).permute(1, 2, 0), previous_outputs.transpose(0, 1))
        return d_gates, d_weights, None


@dataclass(frozen=True)
class Walk:
    """Which tokens of a packed batch are those of which row."""

    plan: torch.Tensor
    """int64 ``[rows + time]`` on the device: the length of each row, then the first token of each time step."""
    num_rows: int

    @classmethod
    def build(cls, batch_sizes: torch.Tensor, device: torch.device) -> Walk:
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
        of_inputs, of_states, *biases = (weights[index::4] for index in range(4))
        hidden = of_states[0].shape[1]
        bias = torch.cat([first + second for first, second in zip(*biases, strict=True)])
        gates = functional.linear(data, torch.cat(of_inputs), bias).view(len(data), len(of_states), 4, hidden)
        outputs, states = _Layer.apply(gates, torch.stack(of_states), self)
        return outputs.view(len(data), -1), states
