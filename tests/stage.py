# SPDX-License-Identifier: Apache-2.0
"""One small run with all that belongs to it, and how each of its files is read and really used.

Made once, in this process: a dataset, a training with checkpoints, its report, an export, predictions that were begun,
soft labels, word vectors. ``tests/artefacts.py`` names its files.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from harness.config import CheckpointConfig, ModelConfig, OptimConfig, RunConfig, TrackingConfig
from harness.data import checks, soft_labels
from harness.inference.config import PredictConfig
from harness.inference.engines import open_scorer
from harness.inference.parts import ScoredPart
from harness.inference.place import WORK
from harness.inference.predict import predict_here
from harness.model.vector_files import read_vectors
from harness.ranks.session import Session, open_session
from harness.report.runs import read_run
from harness.report.views import view
from harness.rundir import checkpoint
from harness.rundir.bundle_files import read_info
from harness.rundir.metrics_log import MetricsLog, read_log
from harness.rundir.training_facts import read_training
from harness.tracking.journal import Journal
from harness.training import assembly
from harness.training.checkpointer import State
from harness.training.resume import find_resume_point
from harness.training.run import Run
from harness.training.writer import RunWriter
from preprocessing.base import atomic
from preprocessing.dataset.shards import Split, read_manifest
from tests.datasets import write_dataset, write_random_soft_labels
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
        rows = {"train": 40, "validation": 16, "test": 16, "unlabelled": 10}
        write_dataset(self.data, rows, longest=12, widths=(8, 16), block_rows=16)
        self.labels = write_random_soft_labels(self.data, "dice")
        self.vectors = self.write_vectors()
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
        assert export(self.run, "--output", self.export, "--int8", "--quiet") == 0
        self.begun = self.begin_predictions()
        journal = Journal(self.run, "wandb")
        journal.is_new("train", {"step": 3})
        journal.note(run_id="abc")
        journal.commit()
        self.steps = checkpoint.steps(self.run)

    def write_vectors(self) -> Path:
        """Word vectors in the text format of word2vec."""
        path = self.root / "vectors.vec"
        path.write_text(f"3 {DIM}\n" + "".join(f"{word} 0.5 -0.25 1.0 0.125\n" for word in ("fine", "awful", "w1")))
        return path

    def begin_predictions(self) -> Path:
        """A folder in which the first of two parts is made, and the second is not."""
        texts = [f"{text or 'dull'} {row}" for row, text in enumerate(TEXTS * 3)]
        pq.write_table(pa.table({"text": texts}), self.root / "input.parquet")
        output = self.root / "begun"
        made: list[Any] = []
        make = ScoredPart.make

        def once(part: Any) -> Any:
            if made:
                raise KeyboardInterrupt
            made.append(part)
            return make(part)

        with mock.patch.object(ScoredPart, "make", once):
            try:
                predict_here(self.predicting(output))
            except KeyboardInterrupt:
                return output
        raise AssertionError("one part was all")

    def predicting(self, output: Path) -> PredictConfig:
        """Predictions of the input, in this process, in small parts."""
        options: dict[str, Any] = {"processes": 1, "part_mb": 5e-5, "batch": 4, "quiet": True, "device": "cpu"}
        return PredictConfig(run=str(self.run), input=str(self.root / "input.parquet"), output=f"{output}/", **options)

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

    def go_on_predicting(self) -> bytes:
        """Finish the predictions that were begun, on a copy of them."""
        copy = self.root / "again"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.begun, copy, symlinks=True, copy_function=copied)
        atomic.sign(copy / WORK, copy)  # as the job that went on there would have marked it
        predict_here(self.predicting(copy))
        return b"".join(path.read_bytes() for path in sorted(copy.glob("part-*")))

    def read_rows(self) -> str:
        """Every row of the dataset."""
        manifest = checks.check_dataset(self.data, hashes=True)
        splits = [Split(self.data, manifest, name) for name in manifest.splits]
        blocks = [block for split in splits for block in split.blocks]
        return digest(*(getattr(block, name) for block in blocks for name in ("ids", "length", "label", "row")))

    def learn_from(self) -> str:
        """The targets that soft labels are."""
        manifest = read_manifest(self.data)
        found = soft_labels.read_soft_labels(self.labels)
        soft_labels.check_soft_labels(found, self.data, manifest, ["train"])
        return digest(soft_labels.targets_of(found, Split(self.data, manifest, "train")))

    def start_from(self) -> str:
        """Vectors of three words."""
        found = read_vectors(self.vectors, {b"fine": 2, b"awful": 3, b"w1": 4}, 5, DIM)
        return digest(found.vectors, found.has)

    def journal(self) -> tuple[Any, ...]:
        """What a tracker was told."""
        found = Journal(self.run, "wandb")
        return found.run_id, found.is_new("train", {"step": 2}), sorted(found.finished), found.sent


def copied(source: str, target: str) -> str:
    """Copy a file, a hole as a hole; what is no file is linked."""
    path = Path(source)
    if path.is_file() and path.stat().st_size > 1 << 30:
        with open(target, "wb") as file:
            file.truncate(path.stat().st_size)
        return target
    if path.is_file():
        return shutil.copy(source, target)
    Path(target).symlink_to(path.resolve())
    return target


@contextmanager
def staged(root: Path) -> Iterator[Stage]:
    """A stage below ``root``."""
    with open_session("cpu", "fp32", 60) as session:
        yield Stage(root, session)
