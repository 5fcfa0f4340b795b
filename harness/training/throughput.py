# SPDX-License-Identifier: Apache-2.0
"""Throughput between two log lines: tokens/s, padding, data wait, memory; exact sums over ranks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from harness.batch import StepBatch
from harness.distributed.world import World
from padless.core.randomness import splitmix64

COUNTS = ("rows", "tokens", "padded_tokens", "hash")
"""What a rank counts since the last log line; but the hash, the sum (modulo 2**64) of the hashes of all rows consumed,
since the start of the run."""
HASH_MASK = (1 << 64) - 1
TIMING = ("rows_per_s", "tokens_per_s", "data_wait", "memory_bytes", "seconds")
"""Figures of a log line that differ between two identical runs; all others are reproducible."""


class Meter:
    """Counts this rank's work since the last log line; the loss stays on the device until it is read."""

    def __init__(self, device: torch.device, predictions: int) -> None:
        """``predictions`` per token, for all tokens of a row but one; the loss is a mean over them. 0: over rows."""
        self.device, self.predictions = device, predictions
        self.counts, self.loss = dict.fromkeys(COUNTS, 0), torch.zeros((), device=device)
        self.wait_s, self.started = 0.0, time.perf_counter()

    def add(self, batch: StepBatch, global_step: int, loss: torch.Tensor) -> None:
        """Count one step's micro-batches and the sum of their rows' losses."""
        counts = self.counts
        for micro_batch in batch.micro_batches:
            counts["rows"] += micro_batch.num_rows
            counts["tokens"] += micro_batch.num_tokens
            counts["padded_tokens"] += micro_batch.ids.numel()
            counts["hash"] = (counts["hash"] + row_hash(micro_batch.rows, global_step)) & HASH_MASK
        self.wait_s += batch.wait_s
        self.loss = self.loss + loss

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """The time of the block is no time of training."""
        paused = time.perf_counter()
        yield
        self.started += time.perf_counter() - paused

    def state(self, world: World) -> list[dict[str, Any]]:
        """The counts of every rank since the last log line, as plain values; every rank calls it, and waits for its
        device.
        """
        counts = self.counts | {"loss": float(self.loss).hex()}
        return world.gather_objects(counts, "the counts since the last log line")

    def load(self, counts_by_rank: list[dict[str, Any]], rank: int, world_size: int) -> None:
        """Load a result of ``state``: this rank's part, or everything on rank 0 if the number of ranks has changed."""
        shares = counts_by_rank if rank == 0 else []
        if len(counts_by_rank) == world_size:
            shares = [counts_by_rank[rank]]
        loss = sum(float.fromhex(share["loss"]) for share in shares)
        self.counts = sum_by_name(shares, COUNTS)
        self.counts["hash"] &= HASH_MASK
        self.loss = torch.tensor(loss, dtype=torch.float32, device=self.device)

    def take(self) -> dict[str, Any]:
        """The counts of this rank since the last call without the loss, and the time that they took; starts anew."""
        work = self.counts | {
            "wait_s": self.wait_s,
            "seconds": time.perf_counter() - self.started,
            "memory_bytes": peak_memory_bytes(self.device),
        }
        self.counts = dict.fromkeys(COUNTS, 0) | {"hash": self.counts["hash"]}
        self.loss = torch.zeros((), device=self.device)
        self.wait_s, self.started = 0.0, time.perf_counter()
        return work


def sum_by_name(mappings: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """For each name the sum over all mappings."""
    return {name: sum(map(itemgetter(name), mappings)) for name in names}


def summarize_throughput(ranks: Sequence[dict[str, Any]], predictions: int = 0) -> dict[str, Any]:
    """The figures of a log line from those of each rank; ``predictions``: see ``Meter``."""
    total = sum_by_name(ranks, ranks[0])
    rows, tokens = total["rows"], total["tokens"]
    seconds = max(rank["seconds"] for rank in ranks)
    slowest_wait = max(rank["wait_s"] / rank["seconds"] for rank in ranks)
    num_losses = max(1, predictions * (tokens - rows)) if predictions else rows
    return {
        "loss": total["loss"] / num_losses,
        "rows": rows,
        "rows_per_s": rows / seconds,
        "tokens_per_s": tokens / seconds,
        "padding": 1 - tokens / total["padded_tokens"],
        "data_wait": slowest_wait,
        "memory_bytes": max(rank["memory_bytes"] for rank in ranks),
        "row_hash": f"{total['hash'] & HASH_MASK:016x}",
    }


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: allocated on the CUDA device, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes


def synchronize(device: torch.device) -> None:
    """Wait for queued work on the device; returns at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row_hash(rows: np.ndarray, step: int) -> int:
    """Unsigned 64-bit hash of the rows of a step; hashes of ranks and steps are added modulo 2**64.

    A sum does not depend on the order of its terms, so every split of the rows over ranks and micro-batches gives the
    same total. A row that is missing, repeated or moved to another step changes it (splitmix64, Steele et al. 2014).
    """
    hashes = splitmix64(rows.astype(np.uint64) ^ splitmix64(np.array([step + 1])))
    return int(np.add.reduce(hashes, dtype=np.uint64))
