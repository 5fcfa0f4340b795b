# SPDX-License-Identifier: Apache-2.0
"""What can be asked of an evaluation; importing this brings no torch, so that ``--help`` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.config import require


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate the best weights of a run on one split of a dataset."""

    run: str
    """Run directory whose bundle is evaluated."""
    data: str
    """Dataset directory; its vocabulary must be the one of the training."""
    split: str = "test"
    """Split to evaluate."""
    output: str | None = None
    """Directory for SPLIT.json and SPLIT-predictions.parquet; RUN/evaluation unless given."""
    batch: int = 512
    """Rows per batch and process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes CUDA devices when there are any."""
    stage_dir: str = "auto"
    """Where the split is copied once per node: a directory, none, or auto, which copies from network file systems."""
    timeout_s: int = 600
    """Longest wait of one process for another."""
    threads: int | None = None
    """Threads of each process on a CPU. null: OMP_NUM_THREADS where you set it, else its share of the cores."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.timeout_s >= 1, "timeout_s", self.timeout_s, "at least 1")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")
