# SPDX-License-Identifier: Apache-2.0
"""``recurrence``: one padded LSTM layer (reversal), compared with ``pack_padded_sequence`` and a padded nn.LSTM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.measuring import BenchmarkConfig, Size, alternate, print_result, result
from harness.model.recurrent import VariableLengthLSTM
from harness.ranks.precision import DTYPES, recurrent_dtype
from harness.training.throughput import synchronize

PACKED = "pack_padded_sequence"


@dataclass(frozen=True, kw_only=True)
class RecurrenceConfig(BenchmarkConfig):
    """Forward and backward of one LSTM layer over sequences of 200 to 210 tokens, on this machine."""

    batch: Size = 64
    """Sequences per batch."""
    hidden_size: Size = 128
    """Size of the state in each direction; the input has the same size."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision; the padded nn.LSTM uses autocast. Packed input on a CPU is always fp32."""


def measure_layers(config: RecurrenceConfig) -> dict[str, Any]:
    """Real tokens/s of the padded layer, of ``pack_padded_sequence``, and of a padded nn.LSTM that ignores lengths."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    lengths = torch.randint(200, 211, (config.batch,)).sort(descending=True).values
    size = config.hidden_size
    lstm = VariableLengthLSTM(size, size).to(device)
    padded_lstm = next(iter(lstm.lstms()))
    inputs = torch.randn(config.batch, int(lengths[0]), size, device=device, requires_grad=True)
    device_lengths = lengths.to(device)
    in_padded, in_packed = (
        DTYPES[recurrent_dtype(config.precision, device.type, layout).value] for layout in ("padded", "packed")
    )

    def reversal() -> torch.Tensor:
        outputs = lstm.forward_padded(inputs.transpose(0, 1), device_lengths, dtype=in_padded)
        return torch.stack([direction.float().sum() for direction in outputs]).sum()

    def forward_packed() -> torch.Tensor:
        sequence = pack_padded_sequence(inputs, lengths, batch_first=True)
        return lstm.forward_packed(sequence, dtype=in_packed)[0].data.float().sum()

    def step(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss = forward()
            loss.backward()
            synchronize(device)

        return run

    contenders = {
        "ours": reversal,
        PACKED: forward_packed,
        "padded nn.LSTM": lambda: padded_lstm(inputs)[0].float().sum(),
    }
    seconds = alternate({name: step(forward) for name, forward in contenders.items()}, config.rounds)
    return result("tokens/s", {name: int(lengths.sum()) / median for name, median in seconds.items()})


main = print_result(measure_layers)
