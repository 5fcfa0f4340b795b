# SPDX-License-Identifier: Apache-2.0
"""Options of the training as users type them: a dry run, a diverging rate, compressed gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import PLAIN, sentence, succeed
from tests.datasets import write_dataset
from tests.runs import train_to_end

pytestmark = pytest.mark.processes

SMALL = (*PLAIN, "--model.embedding_dim", 8, "--model.hidden_size", 8, "--global_batch", 20, "--precision", "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 160, "validation": 30, "test": 30})
    return root


def test_a_dry_run_measures_and_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = succeed(train_to_end("--data", data, "--run", run, "--dry_run", *SMALL))
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "longest step (20 rows)" in result.stdout
    assert "MiB at most in one process" in lines["memory"]
    assert "of training (32 steps)" in lines["full"]
    assert not run.exists()


def test_a_diverging_learning_rate_gets_a_sentence(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train_to_end("--data", data, "--run", run, *SMALL, "--optim.lr", 1000)
    assert result.returncode == 2
    assert sentence(result).startswith("optim.lr: training diverged: at step 20 the loss is")
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
