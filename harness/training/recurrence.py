# SPDX-License-Identifier: Apache-2.0
"""Which way the recurrent layers compute: on CUDA the faster of cuDNN's two for the run's own rows, tried at its start.

Which one that is depends on card, hidden size, rows and dtype, and no rule is right everywhere: cuDNN's kernel for
small padded layers is three times as fast as its packed one at 16 rows, and five times slower at 62 (figures in pull
request 62143 of PyTorch).

The kernel of ``harness.model.fused`` runs only where it is asked for, and must first give the gradients of the packed
path.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.config import Choice, RunConfig
from harness.data.loader import Loader
from harness.model.recurrent import VariableLengthLSTM, check_fused, passing, try_recurrence
from harness.ranks.precision import DTYPES, layout_of, layout_on, recurrent_dtype
from harness.ranks.session import Session
from harness.training.throughput import synchronize
from preprocessing.base.errors import ConfigError
from preprocessing.base.untrusted import one_line

STEPS, ROUNDS = 3, 3
"""Steps that are timed, each of its own shape; the least time of so many rounds counts."""
CUDNN = ("packed", "padded")
MAX_ERROR = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Of a gradient of the fused kernel against that of the packed path, relative to its norm."""


def choose_path(
    config: RunConfig, session: Session, lstm: VariableLengthLSTM, loader: Loader, first_path: str | None
) -> Choice:
    """The path of a run, and why; the same on all ranks, which all call this. ``first_path``: that of a resumed run,
    which it keeps. Raises ``ConfigError`` on all ranks if the fused kernel was asked for and fails its trial.
    """
    world, device, precision = session.world, session.device, session.arithmetic
    choice = layout_on(device, lstm.hidden_size, config.recurrence)[1]
    if config.recurrence == "auto" and device.type == "cuda":
        if first_path is None:
            with world.raise_together("trying the recurrent layers"):
                seconds_by_path = {path: measure_path(lstm, path, precision, first_lengths(loader)) for path in CUDNN}
            return fastest_path(world.gather_objects(seconds_by_path, "the trial of the recurrent layers")) or choice
        choice = Choice(first_path, "as the run began")
    if choice.value == "fused":
        with world.raise_together("trying the fused kernel"):
            check_fused(lstm, DTYPES[recurrent_dtype(precision, "cuda", "fused").value])
            try_fused(lstm, first_lengths(loader)[0], precision)
    return choice


def first_lengths(loader: Loader) -> list[torch.Tensor]:
    """Lengths of this rank's rows in a micro-batch of each of the first steps, int64 ``[rows]``, longest first."""
    lengths_by_step = []
    for step in range(min(STEPS, loader.order.steps_per_epoch)):
        window = loader.window(0, step)
        lengths = window.lengths[window.batch(step)][loader.rank :: loader.world_size]
        lengths_by_step.append(torch.from_numpy(lengths[: loader.micro_batch].astype(np.int64)))
    return lengths_by_step


def fastest_path(seconds_by_rank: Sequence[dict[str, float]]) -> Choice | None:
    """The path whose slowest rank is the fastest, and the figures; None if each fails on some rank."""
    seconds_by_path = {}
    for path in CUDNN:
        seconds_by_path[path] = max(seconds[path] for seconds in seconds_by_rank)
    path = min(CUDNN, key=lambda path: seconds_by_path[path])
    times = ", ".join(f"{path} {1000 * seconds:.2f} ms" for path, seconds in seconds_by_path.items())
    return None if math.isinf(seconds_by_path[path]) else Choice(path, f"measured for the first steps: {times}")


def measure_path(lstm: VariableLengthLSTM, path: str, precision: str, rows: Sequence[torch.Tensor]) -> float:
    """Seconds of a forward and backward pass over ``rows``, lengths of each step, longest first; infinite where cuDNN
    cannot compute it. Changes neither weights nor gradients.
    """
    device = next(lstm.parameters()).device
    dtype, layout = recurrent_dtype(precision, device.type, path), layout_of(path)
    try:
        try_recurrence(lstm, layout, dtype)
        steps = [passing(lstm, layout, lengths, DTYPES[dtype.value]) for lengths in rows]
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


def try_fused(lstm: VariableLengthLSTM, lengths: torch.Tensor, precision: str) -> None:
    """Raise ``ConfigError`` unless the fused kernel has the gradients of the packed path for these layers, over rows
    with ``lengths``. The run ends then: after a kernel's error a process can do nothing more on its card.
    """
    device, gradients = next(lstm.parameters()).device.type, []
    try:
        for path in ("packed", "fused"):
            lstm.fused = path == "fused"
            dtype = DTYPES[recurrent_dtype(precision, device, path).value]
            gradients.append(passing(lstm, "packed", lengths, dtype)())
        pairs = zip(*gradients, strict=True)
        error = max(float((fused - exact).norm() / exact.norm()) for exact, fused in pairs)
        problem = None if error <= MAX_ERROR[precision] else f"its gradients are off by {error:.1e}"
    except Exception as failure:  # Triton's errors are of any class
        problem = one_line(failure)
    finally:
        lstm.fused = False
    if problem is not None:
        raise ConfigError(f"recurrence: the fused kernel failed its trial ({problem}); use --recurrence packed")
