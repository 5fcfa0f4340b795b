# SPDX-License-Identifier: Apache-2.0
"""Options of the training as users type them: a dry run, a diverging rate, compressed gradients."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from preprocessing.base import terminal
from tests.commands import PLAIN, read_json, sentence, succeed
from tests.datasets import shared_dataset
from tests.ranks import start_ranks
from tests.runs import _train, train_to_end

pytestmark = pytest.mark.processes

SMALL = (*PLAIN, "--model.embedding_dim", 8, "--model.hidden_size", 8, "--global_batch", 20, "--precision", "fp32")


data = shared_dataset({"train": 160, "validation": 30, "test": 30})


def test_a_dry_run_measures_and_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = succeed(train_to_end("--data", data, "--run", run, "--dry_run", *SMALL))
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "longest step (20 rows)" in result.stdout
    assert "MiB at most in one process" in lines["memory"]
    assert "of training (32 steps)" in lines["full"]
    assert not run.exists()


def redraw_often() -> None:
    """As often as in a longer training."""
    terminal.REDRAW_EVERY_S = 0.01


def test_a_training_leaves_at_most_25_lines_in_a_terminal(data: Path, tmp_path: Path) -> None:
    ours, theirs = os.openpty()  # of unknown size: 80 columns
    screen, pieces = Path(os.ttyname(theirs)), []
    threading.Thread(target=lambda: [pieces.append(os.read(ours, 1 << 16)) for _ in iter(int, 1)], daemon=True).start()
    words = tuple(map(str, ("--data", data, "--run", tmp_path / "run", *SMALL, "--epochs", 12, "--baseline", "none")))
    for rank in start_ranks(_train, 2, words, screen, screen, redraw_often):
        rank.join(100)
        assert rank.exitcode == 0
    written = b"".join(pieces).decode()
    assert re.search(r"epoch +\d+/12  .*step \d+/96  .*loss \d", written)  # the live line
    shown = [re.sub("\x1b\\[\\d*m", "", line.rpartition(terminal.WIPE)[2]) for line in written.split("\r\n")]
    rows = [line.split()[0] for line in shown if line[:4].strip() not in ("", "note")]  # of a poor model
    assert [row for row in rows if "/12" not in row] == (
        ["data", "model", "training", "device", "run", "few", "epoch", "test", "finished", "next"]
    )
    assert len(rows) == 22


def test_a_diverging_learning_rate_gets_a_sentence(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train_to_end("--data", data, "--run", run, *SMALL, "--optim.lr", 1000)
    assert result.returncode == 2
    assert sentence(result).startswith("optim.lr: training diverged: at step 20 the loss is")
    assert read_json(run / "status.json")["state"] == "failed"
