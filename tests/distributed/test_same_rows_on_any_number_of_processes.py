# SPDX-License-Identifier: Apache-2.0
"""Real runs: the row hash of every log line is the same on 1, 2 and 4 ranks, and no dataset changes under a run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import OrderConfig, RunConfig, SelfTrainingConfig, TrackingConfig
from harness.data import placement
from harness.ranks.session import open_session
from harness.training.assembly import open_run
from harness.training.trainer import Trainer
from preprocessing.base.errors import UserError
from tests.commands import logged, read_metrics, status_of
from tests.datasets import write_dataset, write_random_soft_labels
from tests.ranks import run_ranks
from tests.runs import small

pytestmark = pytest.mark.processes

ROWS, BUDGET = {"global_batch": 21}, {"global_batch_tokens": 1300, "micro_batch": 3}
BOTH = {**ROWS, "order": OrderConfig(unlabelled_batch=13), "self_training": SelfTrainingConfig(labels="drawn")}
MIXED = "{0}/data:0.5,{0}/b:0.3,{0}/c:0.2"
RUNS: dict[str, dict[str, Any]] = {
    "budget": BUDGET,
    "both": BOTH,
    "mixture": {"data": MIXED, **ROWS},
    "pretraining on a mixture": {"data": MIXED, **ROWS, "task": "language_model"},
}
"""``both``: unlabelled rows beside the labelled ones."""


def configure(run: Path, data: str = "{0}/data", **options: Any) -> RunConfig:
    """``data`` lies in the folder of the run's folder, ``{0}``."""
    every_step = TrackingConfig(log_every=1)
    return small(data.format(run.parents[1]), run, timeout_s=60, epochs=2, tracking=every_step, **options)


def train(root: Path) -> None:
    """Several runs one after the other, on ranks that have met once."""
    with open_session("cpu", "fp32", 60) as session:
        torch.set_num_threads(1)  # threads of a tiny network only wait for each other
        for name, options in RUNS.items():
            with open_run(configure(root / name, **options), session) as run:
                run.trainer.fit()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_dataset(root / "data", {"train": 150, "validation": 20, "test": 20, "unlabelled": 60})
    write_random_soft_labels(root / "data", "drawn")
    write_dataset(root / "b", {"train": 31, "validation": 9}, base=root / "data", seed=4)
    write_dataset(root / "c", {"train": 64, "validation": 20}, base=root / "data", seed=8)
    for ranks in (1, 4):
        run_ranks(train, ranks, root / str(ranks))
    return root


@pytest.mark.parametrize("name", RUNS)
def test_one_and_four_ranks_log_the_same_rows(runs: Path, name: str) -> None:
    alone = logged(runs / "1" / name, "row_hash")
    assert len(alone) == len(set(alone)) >= 14
    assert logged(runs / "4" / name, "row_hash") == alone
    ours, theirs = (logged(runs / ranks / name, "loss") for ranks in ("1", "4"))
    assert ours == pytest.approx(theirs, abs=1e-5)


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
            with open_run(configure(data.parent / "runs" / "run", **ROWS), session) as run:
                run.trainer.fit()
        except UserError as error:
            return error.exit_code, str(error)
    return None


def test_a_dataset_that_changes_under_a_run(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 150, "validation": 20, "test": 20})
    for end in run_ranks(train_while_a_shard_is_replaced, 2, tmp_path / "data"):
        assert (end[0], "this shard was removed or replaced while the run used it" in end[1]) == (3, True)
    status = status_of(tmp_path / "runs" / "run")
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert (
        len(read_metrics(tmp_path / "runs" / "run", "train")) == 8
    )  # the epoch that was under way is whole, and logged
