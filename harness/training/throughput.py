# SPDX-License-Identifier: Apache-2.0
"""Where time goes between two log lines: tokens/s, padding, data wait, utilisation, memory; exact sums over ranks."""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from harness.batch import StepBatch
from harness.config import ModelConfig, RunConfig
from harness.data.order import row_hash
from harness.model.registry import CELLS
from harness.ranks.distributed import World
from harness.rundir.layout import trace_name
from harness.settings.task import LANGUAGE_MODEL
from preprocessing.base import atomic
from preprocessing.base.printable import size
from preprocessing.base.storage import refusal

MASK = (1 << 64) - 1
MUCH_WAIT, MUCH_PADDING, MUCH_SPREAD = 0.1, 0.2, 0.25
"""From which share of waiting, of padding, and of difference between ranks on a log line says so in words."""
MUCH_REDUCE = 0.3
"""From which share of the time that all ranks wait for gradients from other machines a log line says so."""
LEAST_BYTES = 1 << 18
"""Fewer bytes of gradients cost the way to and fro, which no compression shortens."""
LEAST_S = 1.0
"""A shorter time between two log lines is too noisy to judge by."""
MUCH_COST = 0.05
"""A slow rank is worth a word from this share of the time that the others wait for its forward passes alone."""
LASTING_S, LASTING_LINES = 60.0, 3
"""So long, and for so many log lines in a row, the same rank is slow before that is said: cores that others use too
slow one rank down for a moment, then another.
"""
INTEGERS = ("rows", "tokens", "padded_tokens", "skipped", "hash")
FLOATS = ("loss", "wait_s", "forward_s", "seconds", "memory_bytes")
UNLABELLED = ("unlabelled_rows", "unlabelled_loss")
"""Two more, where steps have unlabelled rows."""
REDUCE = "reduce_s"
"""One more, where ranks on CPUs of several machines learn together."""
TIMING = (
    "rows_per_s",
    "tokens_per_s",
    "data_wait",
    "all_reduce",
    "mfu",
    "memory_bytes",
    "slowest_rank",
    "fastest_rank",
    "rank_spread",
    "verdict",
)
"""Figures of a log line that no two runs share; all others are a function of the run."""


@dataclass
class SlowRank:
    """The rank that has been slow for the last log lines, if there is one, and for how long."""

    rank: int | None = None
    seconds: float = 0.0
    lines: int = 0
    due_s: float = LASTING_S
    """When it is said next: first after ``LASTING_S``, then each time that it has lasted twice as long."""

    def lasts(self, rank: int | None, seconds: float) -> bool:
        """Take note of who was slow for so many seconds, None for nobody; whether it has lasted so long that it is to
        be said.
        """
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
    ready_at: float = 0.0
    reduce_s: float = 0.0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    unlabelled: bool = False
    """Whether steps have unlabelled rows too, on all ranks."""
    unlabelled_rows: int = 0
    skipped: int = 0
    wait_s: float = 0.0
    paused_s: float = 0.0
    forward_s: float = 0.0
    rows_hash: int = 0
    """Sum (modulo 2**64) of the hashes of all rows this rank consumed since the start of the run."""
    loss_sum: torch.Tensor | None = None
    unlabelled_loss_sum: torch.Tensor | None = None
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    slow: SlowRank = field(default_factory=SlowRank)
    started: float = field(default_factory=time.perf_counter)

    def add(self, batch: StepBatch, global_step: int, loss_sum: torch.Tensor) -> None:
        """Count one step's micro-batches and the sum of their rows' losses."""
        for micro in batch.micro_batches:
            self.rows += micro.num_rows
            self.tokens += micro.num_tokens
            self.padded_tokens += micro.num_padded_tokens
            self.rows_hash = (self.rows_hash + row_hash(micro.rows, global_step)) & MASK
        for micro in batch.unlabelled:
            self.unlabelled_rows += micro.num_rows
            self.tokens += micro.num_tokens
            self.padded_tokens += micro.num_padded_tokens
            self.rows_hash = (self.rows_hash + row_hash(micro.rows, global_step, unlabelled=True)) & MASK
        self.wait_s += batch.wait_s
        self.loss_sum = loss_sum if self.loss_sum is None else self.loss_sum + loss_sum

    def add_unlabelled(self, loss_sum: torch.Tensor) -> None:
        """Count the sum of the losses of one step's unlabelled rows."""
        before = self.unlabelled_loss_sum
        self.unlabelled_loss_sum = loss_sum if before is None else before + loss_sum

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
        loss = value(self.loss_sum)
        integers = np.array([self.rows, self.tokens, self.padded_tokens, self.skipped, 0, 0], dtype=np.int64)
        integers[-2] = np.uint64(self.rows_hash).astype(np.int64)
        integers[-1] = np.float64(loss).view(np.int64)
        if self.unlabelled:
            integers = np.append(
                integers, [self.unlabelled_rows, np.float64(value(self.unlabelled_loss_sum)).view("i8")]
            )
        table = world.gather_numbers(integers, "what was counted since the last log line")
        counted = [
            {**dict(zip(INTEGERS[:-1], map(int, line), strict=False)), "hash": int(line[4].view(np.uint64))}
            | {"loss": float(line[5].view(np.float64)).hex()}
            for line in table
        ]
        if not self.unlabelled:
            return counted
        more = [(int(line[6]), float(line[7].view(np.float64)).hex()) for line in table]
        pairs = zip(counted, more, strict=True)
        return [part | {"unlabelled_rows": rows, "unlabelled_loss": loss} for part, (rows, loss) in pairs]

    def load(self, parts: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Take up what ``state`` gave: this rank's own part, or all of it on rank 0 if there are other ranks now."""
        mine = [parts[rank]] if len(parts) == world_size else parts if rank == 0 else []
        sums = {name: sum(part[name] for part in mine) for name in ("rows", "tokens", "padded_tokens")}
        self.rows, self.tokens, self.padded_tokens = sums.values()
        self.skipped = max((part["skipped"] for part in parts), default=0)
        self.rows_hash = sum(part["hash"] for part in mine) & MASK
        loss = sum(float.fromhex(part["loss"]) for part in mine)
        self.loss_sum = torch.tensor(loss, dtype=torch.float32, device=self.device) if self.rows else None
        self.unlabelled_rows = sum(part.get("unlabelled_rows", 0) for part in mine)
        if self.unlabelled_rows:
            loss = sum(float.fromhex(part["unlabelled_loss"]) for part in mine)
            self.unlabelled_loss_sum = torch.tensor(loss, dtype=torch.float32, device=self.device)

    def read(self, world: World) -> dict[str, Any]:
        """Figures since the last call, over all ranks; ``verdict`` says in words what is wrong, if anything is."""
        loss = value(self.loss_sum)
        self.forward_s += sum(first.elapsed_time(last) / 1e3 for first, last in self.events)
        seconds = time.perf_counter() - self.started - self.paused_s
        integers = np.array([self.rows, self.tokens, self.padded_tokens, self.skipped, 0], dtype=np.int64)
        integers[-1] = np.uint64(self.rows_hash).astype(np.int64)
        floats = np.array([loss, self.wait_s, self.forward_s, seconds, memory_bytes(self.device)])
        names: tuple[str, ...] = FLOATS
        if self.unlabelled:
            floats, names = (
                np.append(floats, [self.unlabelled_rows, value(self.unlabelled_loss_sum)]),
                (*FLOATS, *UNLABELLED),
            )
        if self.gradients is not None:
            floats, names = np.append(floats, self.reduce_s), (*names, REDUCE)
        table = world.gather_numbers(np.concatenate((integers, floats.view(np.int64))), "the figures of a log line")
        ranks: dict[str, np.ndarray] = dict(zip(INTEGERS, table[:, : len(INTEGERS)].T, strict=True))
        ranks |= dict(zip(names, np.ascontiguousarray(table[:, len(INTEGERS) :]).view(np.float64).T, strict=True))
        self.rows = self.tokens = self.padded_tokens = self.skipped = self.unlabelled_rows = 0
        self.wait_s = self.paused_s = self.forward_s = self.reduce_s = 0.0
        self.events.clear()
        self.loss_sum, self.unlabelled_loss_sum, self.started = None, None, time.perf_counter()
        return summarize(ranks, self.flops_per_token, self.peak_flops, self.slow, self.predictions, self.gradients)


def summarize(
    ranks: dict[str, np.ndarray],
    flops_per_token: int,
    peak_flops: float,
    slow: SlowRank | None = None,
    predictions: int = 0,
    gradients: Gradients | None = None,
) -> dict[str, Any]:
    """The figures of a log line from one column per rank; ``slow`` remembers which rank was slow on the lines before,
    and all else is a pure function. ``predictions`` and ``gradients`` as in ``Meter``.
    """
    rows, tokens, padded_tokens = (int(ranks[name].sum()) for name in ("rows", "tokens", "padded_tokens"))
    elapsed = float(ranks["seconds"].max())
    unlabelled = {name: float(ranks[name].sum()) for name in UNLABELLED if name in ranks}
    speeds = ranks["tokens"] / np.maximum(ranks["forward_s"] + ranks["wait_s"], 1e-9)
    slowest, fastest = int(speeds.argmin()), int(speeds.argmax())
    figures: dict[str, Any] = {
        "loss": float(ranks["loss"].sum()) / (max(1, predictions * (tokens - rows)) if predictions else rows),
        "rows": rows,
        "rows_per_s": (rows + unlabelled.get("unlabelled_rows", 0)) / elapsed,
        "tokens_per_s": tokens / elapsed,
        "padding": 1 - tokens / padded_tokens,
        "data_wait": float((ranks["wait_s"] / ranks["seconds"]).max()),
        "all_reduce": None,
        "mfu": flops_per_token * tokens / elapsed / peak_flops if peak_flops else None,
        "memory_bytes": int(ranks["memory_bytes"].max()),
        "skipped": int(ranks["skipped"].max()),
        "slowest_rank": slowest,
        "fastest_rank": fastest,
        "rank_spread": float(1 - speeds[slowest] / speeds[fastest]),
        "row_hash": f"{sum(int(value) for value in ranks['hash'].view(np.uint64)) & MASK:016x}",
    }
    if unlabelled:
        figures["unlabelled_loss"] = unlabelled["unlabelled_loss"] / unlabelled["unlabelled_rows"]
        figures["unlabelled_rows"] = int(unlabelled["unlabelled_rows"])
    if REDUCE in ranks:  # the rank that waits least is the last to come, and waits for nobody but the network
        figures["all_reduce"] = float((ranks[REDUCE] / ranks["seconds"]).min())
    figures["verdict"] = verdict(ranks, figures, slow or SlowRank(), gradients)
    return figures


def value(loss_sum: torch.Tensor | None) -> float:
    """A sum of losses on the host; 0 for none."""
    return 0.0 if loss_sum is None else float(loss_sum)


def cost_of_slowest(ranks: dict[str, np.ndarray], slowest: int) -> float:
    """Share of the time that the others wait for the slowest rank's forward passes: what these take longer than at the
    median speed of the others. Backward passes, which are not timed, come on top.
    """
    speeds = ranks["tokens"] / np.maximum(ranks["forward_s"] + ranks["wait_s"], 1e-9)
    others = np.delete(speeds, slowest)
    if not len(others):
        return 0.0
    share = ranks["forward_s"][slowest] / max(float(ranks["seconds"][slowest]), 1e-9)
    return max(0.0, float(share * (1 - speeds[slowest] / np.median(others))))


def verdict(
    ranks: dict[str, np.ndarray], figures: dict[str, Any], before: SlowRank, gradients: Gradients | None = None
) -> str | None:
    """What is wrong and what to do, as one sentence; None when nothing is. ``before``: who was slow until now."""
    elapsed = float(ranks["seconds"].max())
    if elapsed < LEAST_S:
        return None
    cost = cost_of_slowest(ranks, figures["slowest_rank"])
    is_slow = figures["rank_spread"] > MUCH_SPREAD and cost > MUCH_COST
    lasts = before.lasts(figures["slowest_rank"] if is_slow else None, elapsed)
    waits = ranks["wait_s"] / ranks["seconds"]
    rank = int(waits.argmax())
    if waits[rank] > MUCH_WAIT:
        return f"data-bound on rank {rank}: it waited {waits[rank]:.0%} of the time; use faster storage or stage"
    if gradients is not None and gradients.bytes > LEAST_BYTES and figures["all_reduce"] > MUCH_REDUCE:
        share = f"{figures['all_reduce']:.0%} of the time goes by waiting for the sum of {size(gradients.bytes)} of"
        mend = "" if gradients.compressed else "set optim.gradient_compression to bf16, which halves them, "
        return (
            f"network-bound: {share} gradients a step between machines; {mend}{'or ' if mend else ''}raise "
            f"global_batch, which sends them less often"
        )
    if figures["padding"] > MUCH_PADDING:
        return f"padding is {figures['padding']:.0%} of what is computed; raise order.window_rows or lower length_noise"
    if lasts:
        spread = f"{figures['rank_spread']:.0%} slower than rank {figures['fastest_rank']}"
        return (
            f"rank {figures['slowest_rank']} computes {spread}, for {before.seconds:,.0f} s now, and the others "
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


BACKWARD_AND_FORWARD = 3
"""A backward pass costs twice its forward pass (gradients of inputs and of weights)."""
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
PROBES = 5


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


def synchronize(device: torch.device) -> None:
    """Wait for the device, where work is queued on one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


TAIL_BYTES = 64
"""Enough for the end of a trace, which is JSON."""


class StepProfiler:
    """Records the steps from the first to the last chosen one; idle without any."""

    def __init__(self, steps: Sequence[int], directory: Path) -> None:
        """``steps``: empty, or the first and the last step."""
        self.steps = tuple(steps)
        self.directory = directory
        self.running: profile | None = None

    def before(self, step: int) -> None:
        """Start if ``step`` is the first to be recorded."""
        if self.steps and step == self.steps[0]:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self.running = profile(activities=activities)
            self.running.start()

    def after(self, step: int) -> None:
        """Stop and write the trace if ``step`` was the last to be recorded."""
        if self.running is not None and step == self.steps[1]:
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
                if not ends_whole(temporary):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            finally:
                temporary.with_name(f"{temporary.name}.tmp").unlink(missing_ok=True)


def ends_whole(trace: Path) -> bool:
    """Whether a trace is there to its end."""
    if not trace.exists():
        return False
    with open(trace, "rb") as file:
        file.seek(max(0, trace.stat().st_size - TAIL_BYTES))
        return file.read().rstrip().endswith(b"}")
