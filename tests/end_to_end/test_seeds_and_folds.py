# SPDX-License-Identifier: Apache-2.0
"""Seeds and folds by one command: killed in the middle, continued to the same end; every row predicted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import padless
from tests.helpers.commands import read_json
from tests.helpers.corpora import prepare, reviews, write_csv
from tests.helpers.datasets import rows_by_number, write_dataset
from tests.helpers.runs import final, kill, launch, log, wait_for_step

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]


def to_the_end(data: Path, run: Path, *words: str) -> str:
    """Start the command and wait until it succeeds; returns the output of all its starts."""
    assert launch(data, run, *words).wait(400) == 0, log(run)[-3000:]
    return log(run)


def test_seeds_killed_in_the_second_end_in_the_same_table(tmp_path: Path) -> None:
    data, reference, run = tmp_path / "data", tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    write_dataset(data, {"train": 300, "validation": 80, "test": 60})
    words = ("--seeds", "0,1,2")
    to_the_end(data, reference, *words)
    process = launch(data, run, *words)
    wait_for_step(process, run / "seed-1", 20)
    kill(process)
    assert not (run / "seeds.json").exists()
    process = launch(data, run, *words)
    wait_for_step(process, run / "seed-1", 30)
    psutil.Process(process.pid).terminate()
    assert process.wait(100) == 85
    assert not (run / "seed-2").exists()
    assert "\ntest:\n" in to_the_end(data, run, *words)
    for seed in ("seed-0", "seed-1", "seed-2"):
        assert final(run / seed) == final(reference / seed)
    assert (run / "seeds.json").read_bytes() == (reference / "seeds.json").read_bytes()
    accuracies = [read_json(run / f"seed-{seed}" / "test.json")["accuracy"] for seed in range(3)]
    accuracy = read_json(run / "seeds.json")["splits"]["test"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(accuracies))
    assert accuracy["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert padless.read_metrics(run, "validation")["seed"].value_counts().to_dict() == {0: 3, 1: 3, 2: 3}


def test_each_row_is_predicted_by_the_fold_that_held_it_out(tmp_path: Path) -> None:
    rows = [(text, label, f"film {row % 20}") for row, (text, label) in enumerate(reviews(300))]
    corpus = write_csv(tmp_path / "c.csv", rows, ("text", "label", "film"))
    data, run = tmp_path / "data", tmp_path / "one" / "run"
    prepare(corpus, data, "--splits.folds", 3, "--splits.group_column", "film")
    to_the_end(data, run, "--folds", "3", "--epochs", "2")
    folds = {number: row.fold for number, row in rows_by_number(data, "train", "validation").items()}
    table = pq.read_table(run / "out-of-fold.parquet").to_pylist()
    assert {line["row"]: line["fold"] for line in table} == folds
    assert len(table) == len(folds)
    assert all(line["label"] == rows[line["row"] - 1][1] for line in table)
    summary = read_json(run / "folds.json")
    right = [line["label"] == line["predicted"] for line in table]
    assert summary["out_of_fold"]["accuracy"] == pytest.approx(np.mean(right))
