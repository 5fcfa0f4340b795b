# SPDX-License-Identifier: Apache-2.0
"""Which way the recurrent layers compute: on CUDA the faster of cuDNN's two for the run's own rows, tried at its start.

Which one that is depends on card, hidden size, rows and dtype, and no rule is right everywhere: cuDNN's kernel for
small padded layers is three times as fast as its packed one at 16 rows, and five times slower at 62 (figures in pull
request 62143 of PyTorch).

The kernel of ``harness.model.fused`` runs only where it is asked for. It must first give the gradients of the packed
path in a process of its own within a limit, ``python -m harness.training.recurrence``: after an error in a kernel a
process can do nothing more on its card.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from harness.config import Choice, RunConfig
from harness.data.order import Order
from harness.model.recurrent import VariableLengthLSTM, check_fused, passing, try_recurrence
from harness.ranks.distributed import World, launched_local_rank
from harness.ranks.precision import DTYPES, layout_of, layout_on, recurrent_dtype, set_tf32
from harness.ranks.session import Session
from harness.training.throughput import synchronize
from preprocessing.base.errors import ConfigError
from preprocessing.base.untrusted import one_line

STEPS, ROUNDS = 3, 3
"""Steps that are timed, each of its own shape; the least time of so many rounds counts."""
CUDNN = ("packed", "padded")
TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Largest error of a gradient of the fused kernel against that of the packed path, relative to its norm."""
TRIAL_LIMIT_S = 180.0
"""Longest trial of the fused kernel: two compilations of ten seconds, most of the rest is a margin."""
Found = dict[str, float | str]
"""Path -> seconds of a step, or why it cannot be taken."""


def choose(config: RunConfig, session: Session, lstm: VariableLengthLSTM, order: Order, began: str | None) -> Choice:
    """The path of a run, and why; the same on all ranks, which all call this. ``began``: that of a resumed run, which
    it keeps.
    """
    world = session.world
    chosen = layout_on(session.device, lstm.hidden_size, config.recurrence)[1]
    if config.recurrence == "auto" and session.device.type == "cuda":
        if began is None:
            with world.together("trying the recurrent layers"):
                rows = first_rows(config, order, world)
                found = measured(lstm, rows, session.arithmetic)
            return fastest(world.gather_objects(found, "the trial of the recurrent layers"), len(rows[0])) or chosen
        chosen = Choice(began, "as the run began")
    if chosen.value == "fused":
        with world.together("trying the fused kernel"):
            check_fused(lstm, DTYPES[recurrent_dtype(session.arithmetic, "cuda", "fused").value])
            if launched_local_rank() == 0:  # once for each machine
                limit_s = min(TRIAL_LIMIT_S, config.timeout_s / 2)
                try_fused(lstm, first_rows(config, order, world)[0], session.arithmetic, session.device, limit_s)
    return chosen


def first_rows(config: RunConfig, order: Order, world: World) -> list[torch.Tensor]:
    """Lengths of this rank's rows in a micro-batch of each of the first steps, int64 ``[rows]``, longest first."""
    found = []
    for step in range(min(STEPS, order.steps_per_epoch)):
        window = order.window(0, step)
        lengths = window.lengths[window.batch(step)][world.rank :: world.world_size]
        found.append(torch.from_numpy(lengths[: config.micro_batch].astype(np.int64)))
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


def measured(
    lstm: VariableLengthLSTM, rows: Sequence[torch.Tensor], arithmetic: str, paths: Sequence[str] = CUDNN
) -> Found:
    """Seconds of a forward and backward pass of the layers over ``rows``, lengths of each step, longest first; changes
    neither weights nor gradients; the layers are not ``fused`` then. The gradients of ``fused`` must be those of the
    first of ``paths``.
    """
    found: Found = {}
    exact: list[torch.Tensor] = []
    device = next(lstm.parameters()).device
    for path in paths:
        lstm.fused = path == "fused"
        try:
            wanted = recurrent_dtype(arithmetic, device.type, path)
            if path != "fused":
                try_recurrence(lstm, layout_of(path), wanted)
            steps = [passing(lstm, layout_of(path), lengths, DTYPES[wanted.value]) for lengths in rows]
            gradients, *_ = [step() for step in steps]  # compiles, and allocates, for each shape
            exact = exact or gradients
            off = max(float((one - other).norm() / other.norm()) for one, other in zip(gradients, exact, strict=True))
            found[path] = min(seconds_of(steps, device) for _ in range(ROUNDS))
            if path == "fused" and not off <= TOLERANCE[arithmetic]:
                found[path] = f"its gradients are off by {off:.1e} of those of the packed path"
        except Exception as error:
            if not (lstm.fused or isinstance(error, (ConfigError, RuntimeError))):  # Triton's errors are of any class
                raise
            found[path] = one_line(error)
    lstm.fused = False
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return found


def seconds_of(steps: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Mean seconds of the ``steps``."""
    synchronize(device)
    started = time.perf_counter()
    for step in steps:
        step()
    synchronize(device)
    return (time.perf_counter() - started) / len(steps)


def try_fused(
    lstm: VariableLengthLSTM, lengths: torch.Tensor, arithmetic: str, device: torch.device, limit_s: float
) -> None:
    """Raise ``ConfigError`` unless the fused kernel, in a process of its own, has the gradients of the packed path for
    layers of this shape over rows with ``lengths``, on ``device`` within ``limit_s``.
    """
    first = next(lstm.lstms())
    shape = [first.input_size, lstm.hidden_size, len(lstm.layers)]
    task = json.dumps([shape, lstm.bidirectional, lengths.tolist(), arithmetic, str(device)])
    command = [sys.executable, "-m", "harness.training.recurrence"]
    try:
        done = subprocess.run(command, input=task, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        reason = f"it did not end within {limit_s:.0f} s"
    else:
        if done.returncode == 0:
            return
        reason = (done.stderr.splitlines() or [f"exit code {done.returncode}"])[-1]
    raise ConfigError(f"recurrence: the fused kernel failed its trial ({reason}); use --recurrence packed")


def main() -> None:
    """The trial of ``try_fused``, whose task is on stdin; exits with why the kernel cannot be used."""
    shape, bidirectional, lengths, arithmetic, device = json.load(sys.stdin)
    set_tf32(arithmetic == "tf32")
    lstm = VariableLengthLSTM(*shape, bidirectional=bidirectional).to(device)
    lstm.flatten_parameters()
    answers = measured(lstm, [torch.tensor(lengths)], arithmetic, ("packed", "fused"))
    sys.exit(next((answer for answer in answers.values() if isinstance(answer, str)), 0))


if __name__ == "__main__":
    main()
