# SPDX-License-Identifier: Apache-2.0
"""Which layout the recurrent layers compute in: on CUDA the faster of cuDNN's two for the run's own rows, tried at its
start.

Which one that is depends on card, hidden size, rows and dtype, and no rule is right everywhere: cuDNN's kernel for
small padded layers is three times as fast as its packed one at 16 rows, and five times slower at 62 (figures in pull
request 62143 of PyTorch).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from harness.batch import Layout
from harness.config import Choice, RunConfig
from harness.data.loader import Loader
from harness.distributed.precision import DTYPES, layout_on, recurrent_dtype
from harness.distributed.session import Session
from harness.model.recurrent import VariableLengthLSTM
from harness.training.throughput import synchronize
from padless.core.errors import ConfigError
from padless.core.untrusted import one_line

STEPS, ROUNDS = 3, 3
"""Steps that are timed, each of its own shape; the least time of so many rounds counts."""
LAYOUTS: tuple[Layout, ...] = ("packed", "padded")


def choose_layout(
    config: RunConfig, session: Session, lstm: VariableLengthLSTM, loader: Loader, first_layout: Layout | None
) -> tuple[Layout, str]:
    """The layout of a run's batches, and why; the same on all ranks, which all call this. ``first_layout``: that of a
    resumed run, which it keeps.
    """
    world, device = session.world, session.device
    if config.recurrence != "auto":
        return config.recurrence, "asked for"
    if device.type != "cuda":
        return layout_on(device, lstm.hidden_size)
    if first_layout is not None:
        return first_layout, "as the run began"
    seconds_by_layout = {}
    with world.raise_together("trying the recurrent layers"):
        for layout in LAYOUTS:
            seconds_by_layout[layout] = measure_layout(lstm, layout, session.arithmetic, first_lengths(loader))
    seconds_by_rank = world.gather_objects(seconds_by_layout, "the trial of the recurrent layers")
    return fastest_layout(seconds_by_rank) or layout_on(device, lstm.hidden_size)


def first_lengths(loader: Loader) -> list[torch.Tensor]:
    """Lengths of this rank's rows in a micro-batch of each of the first steps, int64 ``[rows]``, longest first."""
    lengths_by_step = []
    for step in range(min(STEPS, loader.order.steps_per_epoch)):
        window = loader.window(0, step)
        lengths = window.lengths[window.batch(step)][loader.rank :: loader.world_size]
        lengths_by_step.append(torch.from_numpy(lengths[: loader.micro_batch].astype(np.int64)))
    return lengths_by_step


def fastest_layout(seconds_by_rank: Sequence[dict[Layout, float]]) -> tuple[Layout, str] | None:
    """The layout whose slowest rank is the fastest, and the figures; None if each fails on some rank."""
    seconds_by_layout = {}
    for layout in LAYOUTS:
        seconds_by_layout[layout] = max(seconds[layout] for seconds in seconds_by_rank)
    layout = min(LAYOUTS, key=lambda layout: seconds_by_layout[layout])
    times = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in seconds_by_layout.items())
    return None if math.isinf(seconds_by_layout[layout]) else (layout, f"measured for the first steps: {times}")


def measure_layout(lstm: VariableLengthLSTM, layout: Layout, precision: str, rows: Sequence[torch.Tensor]) -> float:
    """Seconds of a forward and backward pass over ``rows``, lengths of each step, longest first; infinite where cuDNN
    cannot compute it. Changes neither weights nor gradients.
    """
    device = next(lstm.parameters()).device
    dtype = recurrent_dtype(precision, device.type, layout)
    try:
        try_recurrence(lstm, layout, dtype)
        steps = [build_pass(lstm, layout, lengths, DTYPES[dtype.value]) for lengths in rows]
        for step in steps:  # allocates, for each shape
            step()
        return min(measure_seconds(steps, device) for _ in range(ROUNDS))
    except (ConfigError, RuntimeError):
        return math.inf
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def measure_seconds(steps: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Mean seconds of the ``steps``."""
    synchronize(device)
    started = time.perf_counter()
    for step in steps:
        step()
    synchronize(device)
    return (time.perf_counter() - started) / len(steps)


def try_recurrence(lstm: VariableLengthLSTM, layout: Layout, wanted: Choice) -> None:
    """Raise ``ConfigError`` if a small forward and backward pass of the layers in ``wanted`` fails on the device of the
    weights; it changes neither weights nor gradients.
    """
    device = next(lstm.parameters()).device.type
    try:
        build_pass(lstm, layout, torch.tensor([3, 3]), DTYPES[wanted.value])()
    except RuntimeError as error:
        problem = f"the recurrent layers fail in {wanted.value} on {device} ({one_line(error)})"
        raise ConfigError(f"precision: {problem}; use --precision fp32") from error


def build_pass(
    lstm: VariableLengthLSTM, layout: Layout, lengths: torch.Tensor, dtype: torch.dtype
) -> Callable[[], object]:
    """A forward and backward pass over constant input, for rows with ``lengths``, longest first."""
    weight = next(lstm.parameters())
    padded = torch.full((int(lengths[0]), len(lengths), weight.shape[1]), 0.5, device=weight.device)
    packed, device_lengths = pack_padded_sequence(padded, lengths), lengths.to(weight.device)
    inputs = (packed.data if layout == "packed" else padded).requires_grad_()

    def run() -> object:
        with torch.enable_grad(), torch.autocast(weight.device.type, enabled=False):
            if layout == "packed":
                outputs = lstm.forward_packed(packed, None, dtype)[0].data
            else:
                outputs = torch.cat(lstm.forward_padded(inputs, device_lengths, None, dtype))
            return torch.autograd.grad(outputs.float().sum(), [inputs, *lstm.parameters()])

    return run
