# SPDX-License-Identifier: Apache-2.0
"""Where time goes between two log lines: tokens/s, padding, data wait, utilisation, memory; exact sums over ranks."""

from __future__ import annotations

import errno
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from harness.batch import Batch, StepBatch
from harness.config import LANGUAGE_MODEL, ModelConfig, RunConfig
from harness.data.order import row_hash
from harness.model.registry import CELLS
from harness.ranks.distributed import World
from harness.rundir.layout import trace_name
from preprocessing.base import atomic
from preprocessing.base.atomic import refusal
from preprocessing.base.terminal import size

MASK = (1 << 64) - 1
MUCH_WAIT, MUCH_PADDING, MUCH_SPREAD = 0.1, 0.2, 0.25
"""From which share of waiting, of padding, and of difference between ranks a log line says so in words."""
MUCH_REDUCE = 0.3
"""From which share of the time that all ranks wait for gradients from other machines a log line says so."""
LEAST_BYTES = 1 << 18
"""Fewer bytes of gradients cost the way to and fro, which no compression shortens."""
LEAST_S = 1.0
"""A shorter time between two log lines is too noisy to judge by."""
MUCH_COST = 0.05
"""A slow rank is reported if the others wait for its forward passes for at least this share of the time."""
LASTING_S, LASTING_LINES = 60.0, 3
"""So long, and for so many log lines in a row, the same rank is slow before that is said: cores that others use too
slow one rank down for a moment, then another.
"""
TIMING = (
    *("rows_per_s", "tokens_per_s", "data_wait", "all_reduce", "mfu", "memory_bytes"),
    *("slowest_rank", "fastest_rank", "rank_spread", "verdict"),
)
"""Figures of a log line that no two runs share; all others are a function of the run."""
BACKWARD_AND_FORWARD = 3
"""A backward pass costs twice its forward pass (gradients of inputs and of weights)."""
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
PROBES = 5


@dataclass
class SlowRank:
    """The rank that has been slow for the last log lines, if there is one, and for how long."""

    rank: int | None = None
    seconds: float = 0.0
    lines: int = 0
    due_s: float = LASTING_S
    """When it is reported next: first after ``LASTING_S``, then each time that it has lasted twice as long."""

    def lasts(self, rank: int | None, seconds: float) -> bool:
        """Record the rank that was slow for so many seconds, None for none. True if it should be reported."""
        if rank is None or rank != self.rank:
            self.rank, self.seconds, self.lines, self.due_s = rank, 0.0, 0, LASTING_S
        if rank is None:
            return False
        self.seconds, self.lines = self.seconds + seconds, self.lines + 1
        if self.lines < LASTING_LINES or self.seconds < self.due_s:
            return False
        self.due_s = 2 * self.seconds
        return True


@dataclass(frozen=True)
class Gradients:
    """What the ranks of several machines send each other at every step."""

    bytes: int
    compressed: bool = False
    """They travel as bf16."""


@dataclass
class Counted:
    """What a rank has counted since the last log line."""

    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    skipped: int = 0
    hash: int = 0
    """Sum (modulo 2**64) of the hashes of all rows that it consumed since the start of the run."""
    unlabelled_rows: int = 0
    loss: torch.Tensor | float = 0.0
    unlabelled_loss: torch.Tensor | float = 0.0

    def plain(self) -> dict[str, Any]:
        """All of it by name, on the host."""
        return {**vars(self), "loss": float(self.loss), "unlabelled_loss": float(self.unlabelled_loss)}


@dataclass
class Meter:
    """Adds up what this rank did since the last log line; ``read`` sums over ranks and starts again.

    Tokens, speeds and the hash of rows are those of labelled and unlabelled rows together; rows and loss are those of
    labelled rows, and unlabelled ones have their own.
    The loss stays on the device until it is read, so that logging is the only moment at which the host waits for it.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    flops_per_token: int = 0
    peak_flops: float = 0.0
    """Measured FLOP/s of all ranks' devices together; 0 when unknown."""
    predictions: int = 0
    """Predictions for each token but one of every row: the loss is a mean over them; 0: a mean over rows."""
    gradients: Gradients | None = None
    """Set where backward passes are timed for the wait for other machines, on all ranks."""
    counted: Counted = field(default_factory=Counted)
    wait_s: float = 0.0
    paused_s: float = 0.0
    forward_s: float = 0.0
    reduce_s: float = 0.0
    ready_at: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    slow: SlowRank = field(default_factory=SlowRank)
    started: float = field(default_factory=time.perf_counter)

    def add(
        self, batch: StepBatch, global_step: int, loss: torch.Tensor, unlabelled_loss: torch.Tensor | None = None
    ) -> None:
        """Count one step's micro-batches and the sums of their rows' losses."""
        for micro in batch.micro_batches:
            self.counted.rows += micro.num_rows
            self.count_tokens(micro, global_step)
        for micro in batch.unlabelled:
            self.counted.unlabelled_rows += micro.num_rows
            self.count_tokens(micro, global_step)
        self.wait_s += batch.wait_s
        self.counted.loss = self.counted.loss + loss
        if unlabelled_loss is not None:
            self.counted.unlabelled_loss = self.counted.unlabelled_loss + unlabelled_loss

    def count_tokens(self, micro: Batch, global_step: int) -> None:
        self.counted.tokens += micro.num_tokens
        self.counted.padded_tokens += micro.num_padded_tokens
        consumed = row_hash(micro.rows, global_step, unlabelled=not micro.labelled)
        self.counted.hash = (self.counted.hash + consumed) & MASK

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time a forward pass, which no other rank can slow down; on CUDA by events that are read at the log line."""
        if self.device.type == "cuda":
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self.events.append((first, last))
            return
        started = time.perf_counter()
        yield
        self.forward_s += time.perf_counter() - started

    def watch_gradients(self, parameters: Iterable[torch.nn.Parameter], gradients: Gradients) -> None:
        """Time from here on how long the sum of gradients takes longer than the backward pass that computes them."""
        self.gradients = gradients

        def ready(_: torch.Tensor) -> None:
            self.ready_at = time.perf_counter()

        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(ready)

    @contextmanager
    def reducing(self) -> Iterator[None]:
        """The backward pass at whose end the gradients of all ranks are summed."""
        yield
        if self.gradients is not None:
            self.reduce_s += time.perf_counter() - self.ready_at

    def pause(self, seconds: float) -> None:
        """Leave out time that was not spent training, such as a validation."""
        self.paused_s += seconds

    def state(self, world: World) -> list[dict[str, Any]]:
        """What every rank has counted since the last log line, as plain values; every rank calls it."""
        counted = self.counted.plain()
        exact = {name: counted[name].hex() for name in ("loss", "unlabelled_loss")}
        return world.gather_objects(counted | exact, "what was counted since the last log line")

    def load(self, parts: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Take up what ``state`` gave: this rank's own part, or all of it on rank 0 if there are other ranks now."""
        mine = [parts[rank]] if len(parts) == world_size else parts if rank == 0 else []
        sums = {name: sum(part[name] for part in mine) for name in vars(Counted()) if not name.endswith("loss")}
        losses = {
            name: torch.tensor(sum(float.fromhex(part[name]) for part in mine), dtype=torch.float32, device=self.device)
            for name in ("loss", "unlabelled_loss")
        }
        self.counted = Counted(**{**sums, **losses})
        self.counted.hash &= MASK
        self.counted.skipped = max(part["skipped"] for part in parts)

    def read(self, world: World) -> dict[str, Any]:
        """Figures since the last call, over all ranks; ``verdict`` says in words what is wrong, if anything is."""
        mine = self.counted.plain() | {
            "wait_s": self.wait_s,
            "forward_s": self.forward_s + sum(first.elapsed_time(last) / 1e3 for first, last in self.events),
            "reduce_s": self.reduce_s,
            "seconds": time.perf_counter() - self.started - self.paused_s,
            "memory_bytes": memory_bytes(self.device),
        }
        ranks = world.gather_objects(mine, "the figures of a log line")
        self.counted = Counted(hash=self.counted.hash)
        self.wait_s = self.paused_s = self.forward_s = self.reduce_s = 0.0
        self.events.clear()
        self.started = time.perf_counter()
        return summarize(ranks, self)


def summarize(ranks: Sequence[dict[str, Any]], meter: Meter) -> dict[str, Any]:
    """The figures of a log line from those of each rank; ``meter.slow`` remembers which rank was slow before."""

    def total(name: str) -> Any:
        return sum(rank[name] for rank in ranks)

    rows, tokens = total("rows"), total("tokens")
    elapsed = max(rank["seconds"] for rank in ranks)
    speeds = [rank["tokens"] / max(rank["forward_s"] + rank["wait_s"], 1e-9) for rank in ranks]
    slowest, fastest = speeds.index(min(speeds)), speeds.index(max(speeds))
    figures: dict[str, Any] = {
        "loss": total("loss") / (max(1, meter.predictions * (tokens - rows)) if meter.predictions else rows),
        "rows": rows,
        "rows_per_s": (rows + total("unlabelled_rows")) / elapsed,
        "tokens_per_s": tokens / elapsed,
        "padding": 1 - tokens / total("padded_tokens"),
        "data_wait": max(rank["wait_s"] / rank["seconds"] for rank in ranks),
        "all_reduce": None,
        "mfu": meter.flops_per_token * tokens / elapsed / meter.peak_flops if meter.peak_flops else None,
        "memory_bytes": max(rank["memory_bytes"] for rank in ranks),
        "skipped": max(rank["skipped"] for rank in ranks),
        "slowest_rank": slowest,
        "fastest_rank": fastest,
        "rank_spread": 1 - speeds[slowest] / speeds[fastest],
        "row_hash": f"{total('hash') & MASK:016x}",
    }
    if total("unlabelled_rows"):
        figures["unlabelled_loss"] = total("unlabelled_loss") / total("unlabelled_rows")
        figures["unlabelled_rows"] = total("unlabelled_rows")
    if meter.gradients is not None:  # the rank that waits least is the last to come, and waits only for the network
        figures["all_reduce"] = min(rank["reduce_s"] / rank["seconds"] for rank in ranks)
    others = [speed for rank, speed in enumerate(speeds) if rank != slowest]
    cost = 0.0
    if others:
        share = ranks[slowest]["forward_s"] / max(ranks[slowest]["seconds"], 1e-9)
        cost = max(0.0, share * (1 - speeds[slowest] / statistics.median(others)))
    figures["verdict"] = None if elapsed < LEAST_S else verdict(ranks, figures, meter, cost, elapsed)
    return figures


def verdict(
    ranks: Sequence[dict[str, Any]], figures: dict[str, Any], meter: Meter, cost: float, elapsed: float
) -> str | None:
    """What is wrong and what to do, as one sentence; None when nothing is.

    ``cost``: share of the time that the others wait for the slowest rank's forward passes, against the median speed of
    the others. Backward passes, which are not timed, come on top.
    """
    is_slow = figures["rank_spread"] > MUCH_SPREAD and cost > MUCH_COST
    lasts = meter.slow.lasts(figures["slowest_rank"] if is_slow else None, elapsed)
    waits = [rank["wait_s"] / rank["seconds"] for rank in ranks]
    if max(waits) > MUCH_WAIT:
        rank = waits.index(max(waits))
        return f"data-bound on rank {rank}: it waited {waits[rank]:.0%} of the time; use faster storage or stage"
    gradients = meter.gradients
    if gradients is not None and gradients.bytes > LEAST_BYTES and figures["all_reduce"] > MUCH_REDUCE:
        share = f"{figures['all_reduce']:.0%} of the time goes by waiting for the sum of {size(gradients.bytes)} of"
        mend = "" if gradients.compressed else "set optim.gradient_compression to bf16, which halves them, or "
        return (
            f"network-bound: {share} gradients a step between machines; {mend}raise global_batch, which sends them "
            "less often"
        )
    if figures["padding"] > MUCH_PADDING:
        return f"padding is {figures['padding']:.0%} of what is computed; lower order.length_noise"
    if lasts:
        spread = f"{figures['rank_spread']:.0%} slower than rank {figures['fastest_rank']}"
        return (
            f"rank {figures['slowest_rank']} computes {spread}, for {meter.slow.seconds:,.0f} s now, and the others "
            f"wait for it {cost:.0%} of the time or more; look at its device and at who else uses it"
        )
    return None


def memory_bytes(device: torch.device) -> int:
    """Most memory in use so far: allocated on the CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak_memory(device: torch.device) -> None:
    """Let ``memory_bytes`` begin anew on a CUDA device, after something that is no part of training."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def synchronize(device: torch.device) -> None:
    """Wait for the device, where work is queued on one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_per_token(config: ModelConfig) -> int:
    """Floating-point operations of training on one real token: the gates of every layer and direction.

    Embedding, pooling and the last layer are left out: they are small beside them.
    """
    directions = 2 if config.bidirectional else 1
    inputs = [config.embedding_dim] + [config.hidden_size * directions] * (config.num_layers - 1)
    gates = sum(CELLS[config.cell].gates * config.hidden_size * (size + config.hidden_size) for size in inputs)
    return BACKWARD_AND_FORWARD * 2 * directions * gates


def flops_of(config: RunConfig) -> int:
    """The same for the task of a run: a language model's projection and candidates come on top."""
    shape = config.model
    if config.task != LANGUAGE_MODEL:
        return flops_per_token(shape)
    output = shape.embedding_dim * (shape.hidden_size + config.language_model.candidates)
    return flops_per_token(shape) + BACKWARD_AND_FORWARD * 2 * (2 if shape.bidirectional else 1) * output


def measure_peak(device: torch.device, precision: str) -> float:
    """FLOP/s of a large square matrix product on this device in this precision, best of a few: the practical peak."""
    size = MATRIX_SIZE[device.type]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(PROBES + 1):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(left, right)
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


class StepProfiler:
    """``torch.profiler`` for the steps from the first to the last chosen one; idle without any.

    The trace is for a browser's tracing page or Perfetto.
    """

    def __init__(self, steps: Sequence[int], directory: Path) -> None:
        """``steps``: empty, or the first and the last step."""
        self.steps, self.directory = tuple(steps), directory
        self.running: profile | None = None

    def before(self, step: int) -> None:
        """Start if ``step`` is the first to be recorded."""
        if self.steps and step == self.steps[0]:
            cards = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.running = profile(activities=[ProfilerActivity.CPU, *cards])
            self.running.start()

    def after(self, step: int) -> None:
        """Stop and write the trace if ``step`` was the last to be recorded."""
        if self.running is None or step != self.steps[1]:
            return
        self.running.stop()
        try:
            self.write(self.running, self.directory / trace_name(*self.steps))
        except OSError as error:  # a trace is not worth a training
            print(f"warning: {refusal(error, self.directory)}; training goes on without it", file=sys.stderr)
        self.running = None

    def write(self, recorded: profile, path: Path) -> None:
        """Write the trace. Raises ``OSError``, which torch itself does not.

        On a full disk torch leaves the beginning of a file, under the name or under that of a temporary file of its
        own, which it forgets.
        """
        with atomic.replacing(path) as temporary:
            try:
                recorded.export_chrome_trace(str(temporary))
                if not temporary.exists() or not temporary.read_bytes()[-64:].rstrip().endswith(b"}"):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            finally:
                temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)
