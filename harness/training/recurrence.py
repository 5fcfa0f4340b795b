# SPDX-License-Identifier: Apache-2.0
"""Which way the recurrent layers compute: on CUDA the fastest for the run's own rows, tried at its start.

Which one that is depends on card, hidden size, rows and dtype, and no rule is right everywhere: cuDNN's kernel for
small padded layers is three times as fast as its packed one at 16 rows, and five times slower at 62 (figures in pull
request 62143 of PyTorch). The kernel of ``harness.model.fused`` must also give the gradients of the packed path.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from harness.config import Choice, RunConfig
from harness.data.order import Order
from harness.model.recurrent import VariableLengthLSTM, passing, try_recurrence
from harness.ranks.precision import DTYPES, layout_of, layout_on, recurrent_dtype
from harness.ranks.session import Session
from harness.training.throughput import synchronize
from preprocessing.base.errors import ConfigError
from preprocessing.base.untrusted import one_line

STEPS = 3
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}
"""Largest error of a gradient of the fused kernel against that of the packed path, relative to its norm."""
Found = dict[str, float | str]
"""Path -> seconds of a step, or why it cannot be taken."""


def choose(config: RunConfig, session: Session, lstm: VariableLengthLSTM, order: Order, began: str | None) -> Choice:
    """The path of a run, and why; the same on all ranks, which all call this. ``began``: that of a resumed run, which
    it keeps.
    """
    if config.recurrence != "auto" or session.device.type != "cuda":
        return layout_on(session.device, lstm.hidden_size, config.recurrence)[1]
    if began is not None:
        return Choice(began, "as the run began")
    world = session.world
    with world.together("trying the recurrent layers"):
        rows = [own[: config.micro_batch] for own in rows_of(order, world.rank, world.world_size)]
        found = measured(lstm, rows, session.arithmetic)
    tables = world.gather_objects(found, "the trial of the recurrent layers")
    return fastest(tables, len(rows[0])) or layout_on(session.device, lstm.hidden_size)[1]


def rows_of(order: Order, rank: int, world_size: int) -> list[torch.Tensor]:
    """Lengths of this rank's rows in the first steps, int64 ``[rows]``, longest first."""
    found = []
    for step in range(min(STEPS, order.steps_per_epoch)):
        window = order.window(0, step)
        found.append(torch.from_numpy(window.lengths[window.batch(step)][rank::world_size].astype(np.int64)))
    return found


def fastest(tables: Sequence[Found], rows: int) -> Choice | None:
    """The path whose slowest rank is the fastest, and the figures; None if each fails on some rank."""
    seconds, refused = {}, []
    for path in tables[0]:
        values = [table[path] for table in tables]
        reasons = [value for value in values if isinstance(value, str)]
        if reasons:
            refused.append(f"; {path} is out: {reasons[0]}")
        else:
            seconds[path] = max(map(float, values))
    if not seconds:
        return None
    best = min(seconds, key=lambda path: seconds[path])
    shown = ", ".join(f"{path} {1000 * value:.2f} ms" for path, value in seconds.items())
    return Choice(best, f"measured for steps of {rows} rows: {shown}{''.join(refused)}")


def measured(lstm: VariableLengthLSTM, rows: Sequence[torch.Tensor], arithmetic: str) -> Found:
    """Seconds of a forward and backward pass of the layers over ``rows``, lengths of each step, longest first; changes
    neither weights nor gradients; the layers are not ``fused`` then.
    """
    found: Found = {}
    exact: list[torch.Tensor] = []
    device = next(lstm.parameters()).device
    for path in ("packed", "fused", "padded"):
        lstm.fused = path == "fused"
        try:
            wanted = recurrent_dtype(arithmetic, device.type, path)
            try_recurrence(lstm, layout_of(path), wanted)
            steps = [passing(lstm, layout_of(path), lengths, DTYPES[wanted.value]) for lengths in rows]
            gradients = steps[0]()  # compiles, and allocates
            exact = exact or gradients
            off = max(float((one - other).norm() / other.norm()) for one, other in zip(gradients, exact, strict=True))
            synchronize(device)
            started = time.perf_counter()
            for step in steps:
                step()
            synchronize(device)
            found[path] = (time.perf_counter() - started) / len(rows)
            if path == "fused" and not off <= TOLERANCE[wanted.value]:
                found[path] = f"its gradients are off by {off:.1e} of those of the packed path"
        except (ConfigError, RuntimeError) as error:
            found[path] = one_line(error)
    lstm.fused = False
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return found
