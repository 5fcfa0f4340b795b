# SPDX-License-Identifier: Apache-2.0
"""What can be asked of ``label``; importing this brings no torch, so that ``--help`` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preprocessing.base.errors import ConfigError, check_processes, check_wait, require


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Write soft labels: the probability of each class for every unlabelled row, as a run or a linear model has it.

    A training learns them beside the labelled rows: --self_training.labels NAME --order.unlabelled_batch ROWS.
    """

    data: str
    """Dataset directory; its vocabulary must be the one of the run's training."""
    run: str | None = None
    """Run directory (or bundle directory) whose best weights are the teacher."""
    baseline: bool = False
    """In place of a run: a linear model of the training rows, as `python -m harness baseline` measures it."""
    output: str | None = None
    """File to write; DATA/soft_labels/NAME.arrow unless given, NAME being the run's or baseline."""
    batch: int = 512
    """Rows per batch and process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes CUDA devices when there are any."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    stage_dir: str = "auto"
    """Where a split is copied once per node: a directory, none, or auto, which copies from network file systems."""
    timeout_s: int = 600
    """Longest wait of one process for another."""
    threads: int | None = None
    """Threads of each process on a CPU. null: OMP_NUM_THREADS where you set it, else its share of the cores."""

    def __post_init__(self) -> None:
        """Check ranges, and that there is one teacher."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        check_wait("timeout_s", self.timeout_s)
        check_processes("threads", self.threads)
        if (self.run is None) == (not self.baseline):
            raise ConfigError("no teacher, or two: give --run RUN, or --baseline")
