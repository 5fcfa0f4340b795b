# SPDX-License-Identifier: Apache-2.0
"""A dataset may not change under a run: all ranks end with one sentence, and the epoch that was under way is whole."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config import ModelConfig, RunConfig, TrackingConfig
from harness.ranks.session import open_session
from harness.training.assembly import open_run
from harness.training.trainer import Trainer
from preprocessing.base.errors import UserError
from tests.commands import read_metrics
from tests.datasets import write_dataset
from tests.ranks import run_ranks

pytestmark = pytest.mark.processes


def train_while_a_shard_is_replaced(data: Path) -> tuple[int, str] | None:
    """From inside the first step; exit code and sentence that training ends with."""
    shard, update, done = data / "train" / "00000-w0064.arrow", Trainer.update, []

    def harmful(self: Trainer, batch: Any) -> Any:
        if not done and self.world.rank == 0:
            done.append(shutil.copy(shard, shard.with_suffix(".new")))
            os.replace(shard.with_suffix(".new"), shard)
        return update(self, batch)

    Trainer.update = harmful  # type: ignore[method-assign]
    small, logged = ModelConfig(embedding_dim=4, hidden_size=4), TrackingConfig(log_every=1)
    fixed: dict[str, Any] = {"epochs": 2, "global_batch": 21, "precision": "fp32", "timeout_s": 60}
    config = RunConfig(data=str(data), run=str(data.parent / "run"), model=small, tracking=logged, **fixed)
    with open_session("cpu", "fp32", 60) as session:
        try:
            with open_run(config, session) as run:
                run.trainer.fit()
        except UserError as error:
            return error.exit_code, str(error)
    return None


def test_a_dataset_that_changes_under_a_run(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", {"train": 150, "validation": 20, "test": 20})
    for end in run_ranks(train_while_a_shard_is_replaced, 2, tmp_path / "data"):
        assert end is not None
        assert (end[0], "this shard was removed or replaced while the run used it" in end[1]) == (3, True)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert len(read_metrics(tmp_path / "run", "train")) == 8  # the epoch that was under way is whole, and logged
