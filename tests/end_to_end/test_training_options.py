# SPDX-License-Identifier: Apache-2.0
"""Trainings as users type them: a dry run, a diverging rate, lines in a terminal, a pretraining and its files."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import pytest

from preprocessing.base import terminal
from tests.commands import PLAIN, read_json, read_metrics, sentence, status_of, succeed
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
        ["data", "model", "training", "device", "run", "few", "log", "epoch", "test", "finished", "next"]
    )
    assert len(rows) == 23


def test_a_diverging_learning_rate_gets_a_sentence(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train_to_end("--data", data, "--run", run, *SMALL, "--optim.lr", 1000)
    assert result.returncode == 2
    assert sentence(result).startswith("optim.lr: training diverged: at step 20 the loss is")
    assert status_of(run)["state"] == "failed"


PRETRAINING = (
    "--task language_model --model.embedding_dim 12 --model.hidden_size 8 --language_model.candidates 20 --epochs 2"
)
PRETRAINING += " --global_batch 20 --patience null --threads 1 --device cpu"


unlabelled = shared_dataset({"train": 60, "validation": 20, "test": 20, "unlabelled": 60}, longest=20)


@pytest.fixture(scope="module")
def run(unlabelled: Path) -> Path:
    run = unlabelled.parent / "run"
    options = ("--data", unlabelled, "--run", run, *PRETRAINING.split())
    said = " ".join(succeed(train_to_end(*options, processes=2)).stdout.split())
    assert "model language model, 1-layer BiLSTM 12→8, 2,861 parameters" in said
    assert f"padless train DATA --init.weights {run}" in said
    return run


def test_it_ends_well_and_says_what_it_learned(run: Path) -> None:
    status = status_of(run)
    assert (status["state"], status["step"]) == ("finished", 12)
    lines = read_metrics(run, "validation")
    assert [line["epoch"] for line in lines] == [1, 2]
    for line in lines:
        assert line["rows"] == 20
    assert read_metrics(run, "train")[-1]["rows"] == 240  # training and unlabelled rows, twice
    assert read_json(run / "bundle" / "bundle.json")["task"] == "language_model"
    assert not (run / "test.json").exists()


def test_its_report_shows_perplexity(run: Path, unlabelled: Path) -> None:
    best = read_metrics(run, "validation")[-1]
    page = (run / "report.html").read_text()
    assert "BiLSTM\n12→8, a language model, trained on" in page
    assert f"<span>Perplexity</span><strong>{best['perplexity']:.4f}</strong>" in page
    assert f"over {best['targets']:,} tokens of 20 rows" in page
    assert "Validation perplexity" in page
    assert "harness.evaluate" not in page
