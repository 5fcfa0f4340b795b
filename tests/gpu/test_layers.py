# SPDX-License-Identifier: Apache-2.0
"""On a card: recurrent layers of many sizes, in both layouts and every precision, equal plain torch in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from harness.batch import Layout
from harness.distributed.precision import DTYPES, set_tf32
from harness.model.recurrent import VariableLengthLSTM, restore_order, reversal_index
from tests.gpu.device import ON_CUDA, TORCH_DEVICE, skip_without

UNITS, ROWS, TIME = ((64, 128, 256, 512, 1024), (64, 512), 400) if ON_CUDA else ((16,), (6,), 30)
MAX_ERRORS = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Of outputs and of gradients, relative to the largest."""


def sample_rows(rows: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``[time, rows, features]`` in fp64 on the device, and lengths on the CPU, longest first."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, TIME + 1, (rows,), generator=generator).sort(descending=True)[0]
    lengths[0] = TIME
    return torch.randn(TIME, rows, features, generator=generator, dtype=torch.float64).to(TORCH_DEVICE), lengths


def run_plainly(layer: nn.LSTM, inputs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Outputs ``[time, rows, 2 * units]`` of torch's own module, zeros in the padding."""
    return pad_packed_sequence(layer(pack_padded_sequence(inputs, lengths))[0], total_length=TIME)[0]


def run_layout(
    lstm: VariableLengthLSTM, layout: Layout, inputs: torch.Tensor, lengths: torch.Tensor, dtype: torch.dtype
):
    if layout == "packed":
        packed = pack_padded_sequence(inputs, lengths)
        data, _ = lstm.forward_packed(packed.data, packed.batch_sizes, None, dtype)
        return pad_packed_sequence(packed._replace(data=data), total_length=TIME)[0]
    on_device = lengths.to(inputs.device)
    outputs = restore_order(lstm.forward_padded(inputs, on_device, None, dtype), reversal_index(on_device, TIME))
    return outputs * (torch.arange(TIME, device=inputs.device)[:, None] < on_device)[:, :, None]


@pytest.mark.parametrize("precision", MAX_ERRORS)
@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("units", UNITS)
def test_outputs_and_gradients_are_those_of_fp64(units: int, rows: int, layout: Layout, precision: str) -> None:
    skip_without(precision)
    set_tf32(precision == "tf32")
    torch.manual_seed(0)
    lstm = VariableLengthLSTM(units, units).to(TORCH_DEVICE)
    plain = nn.LSTM(units, units, bidirectional=True).double().to(TORCH_DEVICE)
    plain.load_state_dict({name: weight.double() for name, weight in lstm.layers[0].state_dict().items()})
    inputs, lengths = sample_rows(rows, units)
    expected = run_plainly(plain, inputs, lengths)
    wanted = torch.autograd.grad((expected**2).sum() / rows, [*plain.parameters()])
    dtype = DTYPES.get(precision, torch.float32)
    actual = run_layout(lstm, layout, inputs.float(), lengths, dtype).double()
    gradients = torch.autograd.grad((actual**2).sum() / rows, [*lstm.parameters()])
    for value, exact in zip((actual, *gradients), (expected, *wanted), strict=True):
        error = (value - exact).detach().abs().max() / exact.detach().abs().max()
        assert error.item() <= MAX_ERRORS[precision]
