# SPDX-License-Identifier: Apache-2.0
"""One small run with all that belongs to it, and how each of its files is read and really used.

Made once, in this process: a dataset, a training with checkpoints, an export.
``tests/artefacts.py`` names its files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from harness.config import CheckpointConfig, ModelConfig, OptimConfig, RunConfig, TrackingConfig
from harness.inference.engines import open_scorer
from harness.ranks.session import Session, open_session
from harness.report.runs import read_run
from harness.report.views import view
from harness.rundir import checkpoint
from harness.rundir.bundle_files import read_info
from harness.rundir.metrics_log import MetricsLog, read_log
from harness.rundir.training_facts import read_training
from harness.training import assembly
from harness.training.checkpointer import State
from harness.training.resume import find_resume_point
from harness.training.run import Run
from harness.training.writer import RunWriter
from tests.datasets import write_dataset
from tests.exports import export

TEXTS = ["a fine film", "awful w1 w2 awful w1 w2", "", "w1 w2 w3 w4 odd"]
DIM = 4


def digest(*values: Any) -> str:
    """sha256 over arrays, tensors and plain values."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, dict):
            found.update(digest(*(part for item in sorted(value.items()) for part in item)).encode())
        elif isinstance(value, torch.Tensor | np.ndarray):
            found.update(np.asarray(value).tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


class Stage:
    """The run and its surroundings below ``root``."""

    def __init__(self, root: Path, session: Session) -> None:
        """Make all of it; takes seconds."""
        self.root, self.data, self.run = root, root / "data", root / "run"
        rows = {"train": 40, "validation": 16, "test": 16}
        write_dataset(self.data, rows, longest=12, widths=(8, 16), block_rows=16)
        self.config = RunConfig(
            data=str(self.data),
            run=str(self.run),
            device="cpu",
            precision="fp32",
            epochs=2,
            global_batch=10,
            model=ModelConfig(embedding_dim=DIM, hidden_size=4, wide=64),
            optim=OptimConfig(ema=0.9),
            checkpoint=CheckpointConfig(every_steps=3, keep_last=2),
            tracking=TrackingConfig(log_every=1),
        )
        with mock.patch.object(assembly, "measure_peak", return_value=1e9):
            with assembly.open_run(self.config, session) as run:
                run.train()
            self.live: Run = assembly.assemble(self.config, session, RunWriter(self.config, active=False), {})
        self.export = root / "export"
        assert export(self.run, "--output", self.export, "--onnx", "--quiet") == 0
        self.steps = checkpoint.steps(self.run)

    # What is done with each of them.

    def predict(self, place: Path, engine: Any = "torch") -> list[list[float]]:
        """The probabilities of a few texts."""
        scorer = open_scorer(place, engine)
        found: list[list[float]] = scorer.score(scorer.encode(TEXTS)).tolist()
        return found

    def evaluate_with(self, place: Path) -> Any:
        """What new rows would be read with and held against."""
        return read_training(place, read_info(place).dataset)

    def resume(self) -> tuple[str, tuple[str, ...]]:
        """Go on from the newest checkpoint that is whole: the state that a trainer then has, and what was said."""
        said: list[str] = []
        point = find_resume_point(self.config, said.append, said.append)
        if point.checkpoint is None:
            return "begins anew", tuple(said)
        state = State.read(point.checkpoint)
        self.live.trainer.load(state, point.checkpoint.path)
        self.live.selection.load(point.checkpoint.state["selection"])
        loaded = self.live.trainer.state()
        return digest(loaded.tensors, loaded.values, self.live.selection.state()), tuple(said)

    def log_on(self) -> tuple[int, tuple[str, ...]]:
        """Open the metrics as a run does that goes on, and read them: how many lines, and what was said."""
        kept = checkpoint.verify(checkpoint.path_of(self.run, self.steps[-1])).state["log_bytes"]
        log = MetricsLog(self.run, kept)
        log.close()
        return len(read_log(self.run)), tuple(log.mended)

    def report(self) -> list[str]:
        """All that a page about the run shows; which parts there are."""
        facts = read_run(self.run)
        shown = view(facts, "run")
        assert facts.speed_summary.keys() <= {"seconds", "tokens_per_s", "data_wait", "mfu", "padding", "memory_bytes"}
        assert facts.beside is None
        return sorted(shown)


@contextmanager
def staged(root: Path) -> Iterator[Stage]:
    """A stage below ``root``."""
    with open_session("cpu", "fp32", 60) as session:
        yield Stage(root, session)
