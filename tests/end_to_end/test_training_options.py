# SPDX-License-Identifier: Apache-2.0
"""Trainings as users type them: a dry run, a diverging rate, lines in a terminal, a pretraining and its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import PLAIN_RECIPE, read_json, read_metrics, sentence, status_of, succeed
from tests.helpers.datasets import shared_dataset
from tests.helpers.runs import train_to_end

pytestmark = pytest.mark.processes

SMALL = (
    *PLAIN_RECIPE,
    *["--model.embedding_dim", "8", "--model.hidden_size", "8", "--global_batch", "20", "--precision", "fp32"],
)


data = shared_dataset({"train": 160, "validation": 30, "test": 30})


def test_a_diverging_learning_rate_gets_a_sentence(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = train_to_end("--data", data, "--run", run, *SMALL, "--optim.lr", 1000)
    assert result.returncode == 2
    assert sentence(result).startswith("optim.lr: training diverged: at step 20 the loss is")
    assert status_of(run)["state"] == "failed"


unlabelled = shared_dataset({"train": 60, "validation": 20, "test": 20, "unlabelled": 60}, longest=20)


def test_a_pretraining_ends_well_and_says_what_it_learned(unlabelled: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    keys = ("--task", "language_model", "--language_model.candidates", 20, "--epochs", 2)
    result = train_to_end("--data", unlabelled, "--run", run, *SMALL, *keys, processes=2)
    output = " ".join(succeed(result).stdout.split())
    assert f"padless train DATA --init.weights {run}" in output
    status, lines = status_of(run), read_metrics(run, "validation")
    assert (status["state"], status["step"]) == ("finished", 12)
    assert [(line["epoch"], line["rows"]) for line in lines] == [(1, 20), (2, 20)]
    assert read_metrics(run, "train")[-1]["rows"] == 240  # training and unlabelled rows, twice
    assert read_json(run / "bundle" / "bundle.json")["task"] == "language_model"
    assert not (run / "test.json").exists()
    perplexity = min(line["perplexity"] for line in lines)
    assert f"<span>Perplexity</span><strong>{perplexity:.4f}</strong>" in (run / "report.html").read_text()
