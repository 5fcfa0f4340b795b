# SPDX-License-Identifier: Apache-2.0
"""Measured side by side, in one run, alternating, medians: what padless does beside what people use today."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from harness.config import require


@dataclass(frozen=True, kw_only=True)
class RecurrenceConfig:
    """Forward and backward of one LSTM layer over sequences of 200 to 210 tokens, on this machine."""

    batch: int = 64
    """Sequences per batch."""
    hidden_size: int = 128
    """Size of the state in each direction; the input has the same size."""
    rounds: int = 7
    """Measurements of each contender; the median counts."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic, by autocast."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("batch", "hidden_size", "rounds"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


def recurrence(config: RecurrenceConfig) -> dict[str, Any]:
    """Real tokens/s of the reversal path beside ``pack_padded_sequence`` and a padded nn.LSTM that ignores lengths."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    from harness.recurrent import VariableLengthLSTM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    lengths = torch.randint(200, 211, (config.batch,)).sort(descending=True).values
    size = config.hidden_size
    lstm = VariableLengthLSTM(size, size).to(device)
    plain = next(iter(lstm.lstms()))
    inputs = torch.randn(config.batch, int(lengths[0]), size, device=device, requires_grad=True)

    def reversal() -> torch.Tensor:
        outputs, _ = lstm.forward_padded(inputs.transpose(0, 1), lengths)
        return torch.stack([direction.float().sum() for direction in outputs]).sum()

    def packed() -> torch.Tensor:
        return lstm.forward_packed(pack_padded_sequence(inputs, lengths, batch_first=True))[0].data.float().sum()

    def padded() -> torch.Tensor:
        return plain(inputs)[0].float().sum()

    def step(forward: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                loss = forward()
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    contenders = {"ours": step(reversal), "pack_padded_sequence": step(packed), "padded nn.LSTM": step(padded)}
    seconds = alternate(contenders, config.rounds)
    return result("tokens/s", {name: int(lengths.sum()) / median for name, median in seconds.items()})


def alternate(contenders: dict[str, Callable[[], None]], rounds: int, pause_s: float = 0.0) -> dict[str, float]:
    """Median seconds of each contender over ``rounds`` turns, after one turn that does not count.

    ``pause_s`` comes after each turn, for contenders whose workers go on for a while after it.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - started)
            time.sleep(pause_s)
    return {name: statistics.median(values) for name, values in times.items()}


def result(unit: str, values: dict[str, float]) -> dict[str, Any]:
    """The form that every bench prints: ``ours`` beside its peers, and ours / peer."""
    peers = {name: value for name, value in values.items() if name != "ours"}
    return {
        "unit": unit,
        "ours": values["ours"],
        "peers": peers,
        "ratios": {name: values["ours"] / value for name, value in peers.items()},
        "machine": describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    return {
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print a result as JSON or as a table."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    print(f"{'contender':<40} {values['unit']:>16} {'ours / it':>10}")
    print(f"{'ours':<40} {values['ours']:>16,.0f} {1:>10.2f}")
    for name, value in values["peers"].items():
        print(f"{name:<40} {value:>16,.0f} {values['ratios'][name]:>10.2f}")
    if details := values.get("ours_details"):
        print("ours: " + ", ".join(f"{name} {value:.3g}" for name, value in details.items()))
    if table := values.get("table"):
        from harness.bench_train import render_table

        print(render_table(table))
    print(", ".join(f"{key} {value}" for key, value in values["machine"].items()))


def benches() -> dict[str, tuple[type, Callable[[Any], dict[str, Any]]]]:
    """Every bench by name: its options, and what measures."""
    from harness import bench_loader, bench_train

    return {
        "recurrence": (RecurrenceConfig, recurrence),
        "train": (bench_train.TrainBenchConfig, bench_train.bench_train),
        "loader": (bench_loader.LoaderConfig, bench_loader.measure),
    }


def main(argv: list[str]) -> int:
    """``bench NAME [options]``."""
    from preprocessing import cli

    known = benches()
    name, arguments = cli.choose(known, argv, "python -m harness bench")
    config_class, measure = known[name]
    prog = f"python -m harness bench {name}"
    config: Any = cli.parse(config_class, arguments, prog=prog, description=config_class.__doc__ or "")
    show(measure(config), config.json)
    return 0
