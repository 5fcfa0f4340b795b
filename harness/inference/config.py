# SPDX-License-Identifier: Apache-2.0
"""What can be asked of an evaluation; importing this brings no torch, so that ``--help`` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.config import require
from preprocessing.base.errors import ConfigError, check_processes, check_wait
from preprocessing.config import SourceConfig


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
    quiet: bool = False
    """Print nothing but warnings and errors."""
    stage_dir: str = "auto"
    """Where the split is copied once per node: a directory, none, or auto, which copies from network file systems."""
    timeout_s: int = 600
    """Longest wait of one process for another."""
    threads: int | None = None
    """Threads of each process on a CPU. null: OMP_NUM_THREADS where you set it, else its share of the cores."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        check_wait("timeout_s", self.timeout_s)
        check_processes("threads", self.threads)


@dataclass(frozen=True, kw_only=True)
class EvaluateHereConfig:
    """Evaluate the best weights of a run on new labelled rows, or on a split of a dataset, in this process.

    The rows are read as those of the training were, and compared with them: unknown words, lengths and classes.
    """

    run: str
    """Run directory (or bundle directory) whose best weights are evaluated."""
    input: str | None = None
    """Labelled rows: a file, a glob or a folder, in any format that preprocessing reads."""
    source: SourceConfig = field(default_factory=SourceConfig)
    """How the input is read, where it differs from the corpus of the training."""
    data: str | None = None
    """Dataset directory, in place of an input; its vocabulary must be the one of the training."""
    split: str = "test"
    """Split of the dataset."""
    output: str | None = None
    """Directory for the figures and the predictions; RUN/evaluation unless given."""
    json: bool = False
    """Print the figures of an input as one JSON object instead of tables."""
    batch: int = 512
    """Rows per batch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to run; auto takes a CUDA device if there is one."""

    def __post_init__(self) -> None:
        """Check ranges, and that there is one thing to evaluate on."""
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        if (self.input is None) == (self.data is None):
            raise ConfigError("nothing to evaluate on, or two things: give --input FILE, or --data DATASET")
        if self.source.path != SourceConfig().path:
            raise ConfigError("source.path: evaluate reads --input; leave this out")
        if self.source.has_unlabelled:
            what = "rows that are measured need a label"
            raise ConfigError(f"source.unlabelled_path and source.missing_label: {what}; drop leaves the others out")
