# SPDX-License-Identifier: Apache-2.0
"""Throughput between two log lines: tokens/s, padding, data wait, memory; exact sums over ranks."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.batch import StepBatch
from harness.data.order import row_hash
from harness.ranks.distributed import World

MASK = (1 << 64) - 1
TIMING = (
    *("rows_per_s", "tokens_per_s", "data_wait", "memory_bytes", "slowest_rank", "rank_spread"),
    "seconds",
)
"""Figures of a log line that differ between two identical runs; all others are reproducible."""


@dataclass
class Counted:
    """Counts of one rank since the last log line."""

    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    hash: int = 0
    """Sum (modulo 2**64) of the hashes of all rows consumed since the start of the run."""
    loss: torch.Tensor | float = 0.0

    def plain(self) -> dict[str, Any]:
        """All counts by name, on the host."""
        return {**vars(self), "loss": float(self.loss)}


@dataclass
class Meter:
    """Counts this rank's work since the last log line; ``read`` sums over ranks and resets the counts.

    The loss stays on the device until it is read, so the host waits for the device only at a log line.
    """

    device: torch.device
    predictions: int
    """Predictions per token, for all tokens of a row but one; the loss is a mean over them. 0: a mean over rows."""
    counted: Counted = field(default_factory=Counted)
    wait_s: float = 0.0
    paused_s: float = 0.0
    """Time not spent training, such as in a validation."""
    forward_s: float = 0.0
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def add(self, batch: StepBatch, global_step: int, loss: torch.Tensor) -> None:
        """Count one step's micro-batches and the sum of their rows' losses."""
        counted = self.counted
        for micro in batch.micro_batches:
            counted.rows += micro.num_rows
            counted.tokens += micro.num_tokens
            counted.padded_tokens += micro.ids.numel()
            counted.hash = (counted.hash + row_hash(micro.rows, global_step)) & MASK
        self.wait_s += batch.wait_s
        counted.loss = counted.loss + loss

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Time a forward pass, which does not wait for other ranks; on CUDA with events, read at the log line."""
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

    def state(self, world: World) -> list[dict[str, Any]]:
        """The counts of every rank since the last log line, as plain values; every rank calls it."""
        counted = self.counted.plain()
        return world.gather_objects(
            counted | {"loss": counted["loss"].hex()}, "what was counted since the last log line"
        )

    def load(self, parts: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Load a result of ``state``: this rank's part, or everything on rank 0 if the number of ranks has changed."""
        mine = [parts[rank]] if len(parts) == world_size else parts if rank == 0 else []
        counted = {name: sum(part[name] for part in mine) for name in parts[0] if name != "loss"}
        loss = sum(float.fromhex(part["loss"]) for part in mine)
        self.counted = Counted(**counted, loss=torch.tensor(loss, dtype=torch.float32, device=self.device))
        self.counted.hash &= MASK

    def read(self, world: World) -> dict[str, Any]:
        """Figures since the last call, over all ranks."""
        mine = self.counted.plain() | {
            "wait_s": self.wait_s,
            "forward_s": self.forward_s + sum(first.elapsed_time(last) / 1e3 for first, last in self.events),
            "seconds": time.perf_counter() - self.started - self.paused_s,
            "memory_bytes": memory_bytes(self.device),
        }
        ranks = world.gather_objects(mine, "the figures of a log line")
        self.counted = Counted(hash=self.counted.hash)
        self.wait_s = self.paused_s = self.forward_s = 0.0
        self.events.clear()
        self.started = time.perf_counter()
        return summarize(ranks, self.predictions)


def summarize(ranks: Sequence[dict[str, Any]], predictions: int = 0) -> dict[str, Any]:
    """The figures of a log line from those of each rank; ``predictions``: see ``Meter``."""
    total = {name: sum(rank[name] for rank in ranks) for name in ranks[0]}
    rows, tokens = total["rows"], total["tokens"]
    elapsed = max(rank["seconds"] for rank in ranks)
    speeds = [rank["tokens"] / max(rank["forward_s"] + rank["wait_s"], 1e-9) for rank in ranks]
    return {
        "loss": total["loss"] / (max(1, predictions * (tokens - rows)) if predictions else rows),
        "rows": rows,
        "rows_per_s": rows / elapsed,
        "tokens_per_s": tokens / elapsed,
        "padding": 1 - tokens / total["padded_tokens"],
        "data_wait": max(rank["wait_s"] / rank["seconds"] for rank in ranks),
        "memory_bytes": max(rank["memory_bytes"] for rank in ranks),
        "slowest_rank": speeds.index(min(speeds)),
        "rank_spread": 1 - min(speeds) / max(speeds),
        "row_hash": f"{total['hash'] & MASK:016x}",
    }


def memory_bytes(device: torch.device) -> int:
    """Peak memory so far: allocated on the CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def synchronize(device: torch.device) -> None:
    """Wait for queued work on the device; returns at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
