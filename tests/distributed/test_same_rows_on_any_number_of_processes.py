# SPDX-License-Identifier: Apache-2.0
"""Real runs: the row hash of every log line is the same on 1, 2 and 4 ranks, and no dataset changes under a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import ModelConfig, OrderConfig, RunConfig, SelfTrainingConfig, TrackingConfig
from harness.data import placement
from harness.ranks.session import open_session
from harness.training.assembly import open_run
from harness.training.trainer import Trainer
from preprocessing.base.errors import UserError
from tests.commands import read_json, read_metrics
from tests.datasets import write_dataset, write_random_soft_labels
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes

ROWS, BUDGET = {"global_batch": 21}, {"global_batch_tokens": 1300, "micro_batch": 3}
BOTH = {**ROWS, "order": OrderConfig(unlabelled_batch=13), "self_training": SelfTrainingConfig(labels="drawn")}
RUNS: dict[str, dict[str, Any]] = {"budget": BUDGET, "both": BOTH}
"""``both``: unlabelled rows beside the labelled ones."""


def configure(data: Path | str, run: Path, **options: Any) -> RunConfig:
    small, every_step = ModelConfig(embedding_dim=4, hidden_size=4), TrackingConfig(log_every=1)
    fixed: dict[str, Any] = {"epochs": 2, "precision": "fp32", "model": small, "tracking": every_step}
    return RunConfig(data=str(data), run=str(run), timeout_s=60, **fixed, **options)


def train(data: Path | str, root: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Several runs one after the other, on ranks that have met once."""
    with open_session("cpu", "fp32", 60) as session:
        torch.set_num_threads(1)  # threads of a tiny network only wait for each other
        for name, options in runs.items():
            with open_run(configure(data, root / name, **options), session) as run:
                run.trainer.fit()


def hashes(run: Path) -> list[str]:
    return [line["row_hash"] for line in read_metrics(run, "train")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_dataset(root / "data", {"train": 150, "validation": 20, "test": 20, "unlabelled": 60})
    write_random_soft_labels(root / "data", "drawn")
    run_ranks(train, 1, root / "data", root / "1", RUNS)
    run_ranks(train, 4, root / "data", root / "4", RUNS)
    return root


@pytest.mark.parametrize("name", RUNS)
def test_one_and_four_ranks_log_the_same_rows(runs: Path, name: str) -> None:
    alone = hashes(runs / "1" / name)
    assert len(alone) == len(set(alone)) >= 14
    assert hashes(runs / "4" / name) == alone
    ours, theirs = ([line["loss"] for line in read_metrics(runs / ranks / name, "train")] for ranks in ("1", "4"))
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("task", ["classifier", "language_model"])
def test_ranks_consume_the_same_rows_of_a_mixture(tmp_path: Path, task: str) -> None:
    write_dataset(tmp_path / "a", {"train": 150, "validation": 20, "test": 20})
    write_dataset(tmp_path / "b", {"train": 31, "validation": 9}, base=tmp_path / "a", seed=4)
    write_dataset(tmp_path / "c", {"train": 64, "validation": 20}, base=tmp_path / "a", seed=8)
    lines = []
    for ranks in (1, 2, 4):
        mixture = f"{tmp_path}/a:0.5,{tmp_path}/b:0.3,{tmp_path}/c:0.2"
        run_ranks(train, ranks, mixture, tmp_path / str(ranks), {"run": {**ROWS, "task": task}})
        lines.append(read_metrics(tmp_path / str(ranks) / "run", "train"))
    hashes, losses = ([[line[key] for line in one] for one in lines] for key in ("row_hash", "loss"))
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes[0])) == 2 * -(-245 // 21)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(losses[2], abs=1e-5)


def train_while_a_shard_is_replaced(data: Path) -> tuple[int, str] | None:
    """From inside the second step; exit code and sentence that training ends with."""
    shard, update, done = data / "train" / "00000-w0064.arrow", Trainer.update, []

    def harmful(self: Trainer, batch: Any) -> Any:
        if not done and self.step == 1 and self.world.rank == 0:  # all ranks have mapped it for their first step
            done.append(shutil.copy(shard, shard.with_suffix(".new")))
            os.replace(shard.with_suffix(".new"), shard)
        return update(self, batch)

    Trainer.update = harmful  # type: ignore[method-assign]
    placement.CHECK_EVERY_S = 30.0  # on a busy machine, one rank would notice it within the epoch
    with open_session("cpu", "fp32", 60) as session:
        try:
            with open_run(configure(data, data.parent / "run", **ROWS), session) as run:
                run.trainer.fit()
        except UserError as error:
            return error.exit_code, str(error)
    return None


def test_a_dataset_that_changes_under_a_run(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 150, "validation": 20, "test": 20})
    for end in run_ranks(train_while_a_shard_is_replaced, 2, tmp_path / "data"):
        assert end is not None
        assert (end[0], "this shard was removed or replaced while the run used it" in end[1]) == (3, True)
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert len(read_metrics(tmp_path / "run", "train")) == 8  # the epoch that was under way is whole, and logged
