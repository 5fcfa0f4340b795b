# SPDX-License-Identifier: Apache-2.0
"""End-to-end walkthrough: a CSV file, preprocessing, training by two processes, evaluation, prediction."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from padless.commands import main
from padless.core import cli
from preprocessing.dataset.shards import read_manifest
from tests.helpers.commands import CPU, PLAIN_RECIPE, read_json, run_module, status_of, succeed
from tests.helpers.datasets import sentences

pytestmark = pytest.mark.processes

ROWS = 700
MISLABELLED = 35
EXACT = ("--device", "cpu", "--precision", "fp32")
SMALL = "--model.embedding_dim 16 --model.hidden_size 16 --epochs 2 --tracking.log_every 1 --global_batch 32"
TRAINING = f"{SMALL} --baseline none --precision fp32 --optim.lr 0.01 --evaluation.threshold f1"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "reviews.csv"
    texts, labels = sentences(ROWS, 2, seed=3, longest=80)
    labels[::MISLABELLED] = 1 - labels[::MISLABELLED]  # a split on which all is right has no temperature to fit
    texts = [f"<p>{text}<br/>&amp; {number}</p>" for number, text in enumerate(texts)]
    pd.DataFrame({"text": texts, "label": np.array(["neg", "pos"])[labels]}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def data(corpus: Path) -> Path:
    output = corpus.parent / "dataset"
    assert cli.run(main, ["prepare", str(corpus), "--output", str(output), "--text.max_tokens", "64"]) == 0
    return output


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    directory = data.parent / "two"
    options = (*CPU, "--data", data, "--run", directory, *PLAIN_RECIPE, *TRAINING.split())
    succeed(run_module("padless", "train", *options))
    return directory


def test_the_run_directory_holds_everything(run: Path, data: Path) -> None:
    status = status_of(run)
    test = read_json(run / "test.json")
    manifest = read_manifest(data)
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    assert test["rows"] == manifest.rows("test") == sum(rows for _, _, rows in test["confusion"])
    assert test["accuracy"] > 0.9
    assert [path.name for path in run.rglob("*") if ".tmp-" in path.name] == []


def test_evaluation_repeats_the_test_of_the_training(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("evaluate", "--run", run, "--data", data, "--split", "test", *EXACT)
    assert cli.run(main, [*map(str, words)]) == 0
    repeated = read_json(run / "evaluation" / "test.json")
    first = read_json(run / "test.json")
    assert re.search(rf"^accuracy +{first['accuracy']:.4f} ", capsys.readouterr().out, re.M)
    assert set(repeated) == {*first, "texts", "precision"}
    for name in ("rows", "accuracy", "f1", "confusion", "temperature", "threshold", "dataset", "labels"):
        assert repeated[name] == first[name], name
    assert first["temperature"] != 1.0
    assert repeated["log_loss"] == pytest.approx(first["log_loss"], abs=1e-6)


def test_predictions_of_raw_texts_are_those_of_the_evaluation(run: Path, corpus: Path) -> None:
    evaluated = pd.read_parquet(run / "test-predictions.parquet")
    raw = pd.read_csv(corpus)
    assert set(evaluated["label"]) == {"neg", "pos"}
    chosen, output = corpus.parent / "chosen.csv", corpus.parent / "predicted.parquet"
    raw.iloc[evaluated["row"].to_numpy() - 1].to_csv(chosen, index=False)
    words = ("predict", "--run", run, "--input", chosen, "--output", output, *EXACT)
    assert cli.run(main, [*map(str, words)]) == 0
    predicted = pd.read_parquet(output)
    assert list(predicted["predicted"]) == list(evaluated["predicted"])
    for name in ("probability_neg", "probability_pos"):
        np.testing.assert_allclose(predicted[name], evaluated[name], rtol=0, atol=1e-5)
