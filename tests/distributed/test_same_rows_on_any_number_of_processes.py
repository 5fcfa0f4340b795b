# SPDX-License-Identifier: Apache-2.0
"""Real runs: the row hash of every log line is the same on 1 and 4 ranks, and a dataset may not change under a run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.config import ModelConfig, OrderConfig, RunConfig, SelfTrainingConfig, TrackingConfig
from harness.ranks.session import open_session
from harness.training.assembly import open_run
from harness.training.trainer import Trainer
from preprocessing.base.errors import UserError
from tests.commands import read_metrics
from tests.datasets import write_dataset, write_random_soft_labels
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes

ROWS, BUDGET = {"global_batch": 21}, {"global_batch_tokens": 1300, "micro_batch": 3}
BOTH = {**ROWS, "order": OrderConfig(unlabelled_batch=13), "self_training": SelfTrainingConfig(labels="drawn")}
RUNS: dict[str, dict[str, Any]] = {"rows": ROWS, "budget": BUDGET, "both": BOTH}
"""``both``: unlabelled rows beside the labelled ones."""


def configure(data: Path, run: Path, **options: Any) -> RunConfig:
    small, every_step = ModelConfig(embedding_dim=4, hidden_size=4), TrackingConfig(log_every=1)
    fixed: dict[str, Any] = {"epochs": 2, "precision": "fp32", "model": small, "tracking": every_step}
    return RunConfig(data=str(data), run=str(run), timeout_s=60, **fixed, **options)


def train(data: Path, root: Path, runs: dict[str, dict[str, Any]]) -> None:
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


def remove(shard: Path) -> None:
    shard.unlink()


def replace(shard: Path) -> None:
    shutil.copy(shard, shard.with_suffix(".new"))
    os.replace(shard.with_suffix(".new"), shard)


def rebuild(shard: Path) -> None:
    other = shard.parents[2] / "other"
    write_dataset(other, {"train": 151, "validation": 20, "test": 20})
    os.replace(other / "dataset.json", shard.parents[1] / "dataset.json")


HARMS = {
    remove: "this shard was removed while the run used it",
    replace: "this shard was replaced while the run used it",
    rebuild: "the dataset changed since the run began",
}


def train_while_harm_is_done(root: Path) -> list[tuple[int, str]]:
    """For each harm, done to a shard from inside the first step: exit code and sentence that training ends with."""
    update = Trainer.update
    ends = []
    with open_session("cpu", "fp32", 60) as session:
        torch.set_num_threads(1)  # threads of a tiny network only wait for each other
        for harm in HARMS:
            data, done = root / harm.__name__ / "data", []

            def harmful(self: Trainer, batch: Any, harm: Any = harm, data: Path = data, done: list = done) -> Any:
                if not done and self.world.rank == 0:
                    done.append(harm(data / "train" / "00000-w0064.arrow"))
                return update(self, batch)

            Trainer.update = harmful  # type: ignore[method-assign]
            try:
                with open_run(configure(data, data.parent / "run", **ROWS), session) as run:
                    run.trainer.fit()
            except UserError as error:
                ends.append((error.exit_code, str(error)))
    return ends


def test_a_dataset_that_changes_under_a_run(tmp_path: Path) -> None:
    for harm in HARMS:
        write_dataset(tmp_path / harm.__name__ / "data", {"train": 150, "validation": 20, "test": 20})
    for ends in run_ranks(train_while_harm_is_done, 2, tmp_path):
        assert [code for code, _ in ends] == [3, 3, 3]
        for (_, said), sentence in zip(ends, HARMS.values(), strict=True):
            assert sentence in said
    for harm, sentence in HARMS.items():
        run = tmp_path / harm.__name__ / "run"
        status = json.loads((run / "status.json").read_text())
        assert (status["state"], status["exit_code"]) == ("failed", 3)
        assert sentence in status["reason"]
        assert len(read_metrics(run, "train")) == 8  # the epoch that was under way is whole, and logged
