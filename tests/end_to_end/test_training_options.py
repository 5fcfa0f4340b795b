# SPDX-License-Identifier: Apache-2.0
"""Trainings as users type them: a dry run, a diverging rate, lines in a terminal, a pretraining and its files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from harness.__main__ import main
from harness.rundir.bundle_files import read_info, read_scores
from tests.commands import PLAIN_RECIPE, read_json, read_metrics, sentence, status_of, succeed
from tests.datasets import shared_dataset
from tests.runs import train_to_end

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


def test_costs_decide_from_the_training_on(data: Path, tmp_path: Path) -> None:
    """In the bundle, its figures and its page, until an evaluation has others; scores are those of validation rows."""
    run, costs = tmp_path / "run", "{positive: 8}"
    words = ("--data", data, "--run", run, *SMALL, "--epochs", 1, "--device", "cpu")
    succeed(train_to_end(*words, "--evaluation.costs", costs))
    info, figures = read_info(run / "bundle"), read_json(run / "test.json")
    assert (info.costs, info.threshold, figures["threshold"]) == ({"positive": 8.0}, 1 / 9, 1 / 9)
    predictions = pd.read_parquet(run / "test-predictions.parquet")
    assert ((predictions["probability_positive"] >= 1 / 9) == (predictions["predicted"] == "positive")).all()
    is_wrong = predictions["label"] != predictions["predicted"]
    assert figures["cost"] == pytest.approx((is_wrong * (1 + 7 * (predictions["label"] == "positive"))).mean())
    page = (run / "report.html").read_text()
    assert f"A row costs {figures['cost']:.4f} on average" in page
    assert [entry["level"] for entry in figures["sets"]] == [0.8, 0.9, 0.95]
    assert all(f"<td>{entry['coverage']:.1%}</td>" in page for entry in figures["sets"])
    evaluation = ["evaluate", str(run), "--device", "cpu", "--quiet"]
    assert main([*evaluation, "--costs", "{negative: 3}"]) == 0
    assert read_json(run / "evaluation" / "test.json")["threshold"] == 0.75
    assert main([*evaluation, "--split", "validation"]) == 0
    validated = pd.read_parquet(run / "evaluation" / "validation-predictions.parquet")
    is_positive = validated["label"] == "positive"
    chances = validated["probability_positive"].where(is_positive, validated["probability_negative"])
    assert sorted(1 - chances) == pytest.approx(read_scores(run / "bundle", info.weights), abs=1e-5)


PRETRAINING = (
    "--task language_model --model.embedding_dim 12 --model.hidden_size 8 --language_model.candidates 20 --epochs 2"
)
PRETRAINING += " --global_batch 20 --patience null --threads 1 --device cpu"


unlabelled = shared_dataset({"train": 60, "validation": 20, "test": 20, "unlabelled": 60}, longest=20)


@pytest.fixture(scope="module")
def run(unlabelled: Path) -> Path:
    run = unlabelled.parent / "run"
    options = ("--data", unlabelled, "--run", run, *PRETRAINING.split())
    output = " ".join(succeed(train_to_end(*options, processes=2)).stdout.split())
    assert "model language model, 1-layer BiLSTM 12→8, 2,861 parameters" in output
    assert f"padless train DATA --init.weights {run}" in output
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
