# SPDX-License-Identifier: Apache-2.0
"""Seeds and folds by one command: killed and stopped in the middle, continued to the same table; every row once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

import padless
from harness.rundir.bundle_files import read_info
from preprocessing.__main__ import main as preprocess
from preprocessing.base import cli
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.commands import run_module, sentence, succeed
from tests.corpora import reviews, write_csv
from tests.datasets import write_dataset
from tests.runs import final, kill, launch, steps_done, wait_for_step, wait_until

pytestmark = [pytest.mark.processes, pytest.mark.slow]
SEEDS = ("--seeds", "0,1,2")


def table_of(log: Path) -> str:
    """The last table that a log holds, and the sentences below it up to that which has a path."""
    text = log.read_text()
    return text[text.rindex("\n3 seeds: ") :].partition("\nwritten to")[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds that nobody disturbed; the dataset lies beside."""
    run = tmp_path_factory.mktemp("whole") / "run"
    write_dataset(run.with_name("data"), {"train": 300, "validation": 80, "test": 60})
    assert launch(run.with_name("data"), run, *SEEDS).wait(400) == 0, (run.parent / "log").read_text()[-3000:]
    return run


@pytest.mark.timeout(900, func_only=True)
def test_seeds_killed_in_the_second_end_in_the_same_table(whole: Path, tmp_path: Path) -> None:
    data, run = whole.with_name("data"), tmp_path / "killed" / "run"
    process = launch(data, run, *SEEDS)
    wait_until(lambda: process.poll() is not None or steps_done(run / "seed-1") >= 20, 300)
    kill(process)
    made = (run / "seed-0" / "bundle" / "bundle.json").stat().st_mtime_ns
    assert not (run / "seeds.json").exists()
    process = launch(data, run, *SEEDS)
    wait_for_step(process, run / "seed-1", 30)
    psutil.Process(process.pid).terminate()
    assert process.wait(100) == 85
    assert not (run / "seed-2").exists()
    assert launch(data, run, *SEEDS).wait(300) == 0, (run.parent / "log").read_text()[-3000:]
    assert (run / "seed-0" / "bundle" / "bundle.json").stat().st_mtime_ns == made
    for seed in ("seed-0", "seed-1", "seed-2"):
        assert final(run / seed) == final(whole / seed)
    assert (run / "seeds.json").read_bytes() == (whole / "seeds.json").read_bytes()
    assert table_of(run.parent / "log") == table_of(whole.parent / "log")
    found = json.loads((run / "seeds.json").read_text())
    accuracies = [json.loads((run / f"seed-{seed}" / "test.json").read_text())["accuracy"] for seed in range(3)]
    assert found["splits"]["test"]["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert found["splits"]["test"]["accuracy"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
    assert "run: 3 seeds" in (run / "report.html").read_text()
    frame = padless.read_metrics(run, "validation")
    assert frame["seed"].value_counts().to_dict() == {0: 3, 1: 3, 2: 3}
    with pytest.raises(padless.UserError, match="is a folder of runs; name one of them: seed-0, seed-1, seed-2"):
        padless.load(run)


@pytest.mark.timeout(400, func_only=True)
def test_new_texts_start_from_one_of_many(whole: Path, tmp_path: Path) -> None:
    """With an enlarged vocabulary, and for two seeds again, as docs/starting-from-weights.md has it."""
    donor, data, run = whole / "seed-1", tmp_path / "data", tmp_path / "new" / "run"
    corpus = write_csv(tmp_path / "new.csv", [(f"{text} unheard", label) for text, label in reviews(120, seed=5)])
    keys = ["--executor.workers", "1", "--vocabulary.min_count", "1", "--text.max_tokens", "64", "--quiet"]
    keys += ["--vocabulary.base", str(donor), "--vocabulary.extend", "true"]
    assert cli.run(preprocess, ["run", str(corpus), "--output", str(data), *keys]) == 0
    old, new = Vocabulary.read(donor / "bundle" / VOCABULARY), Vocabulary.read(data / VOCABULARY)
    assert new.tokens.to_pylist()[: len(old)] == old.tokens.to_pylist()
    assert "unheard" in new.tokens.to_pylist()[len(old) :]
    words = ("--init.weights", str(donor), "--seeds", "0,1", "--epochs", "1")
    assert launch(data, run, *words).wait(300) == 0, (run.parent / "log").read_text()[-3000:]
    for seed in (0, 1):
        started = read_info(run / f"seed-{seed}" / "bundle").started_from
        assert started is not None
        assert started["sha256"] == read_info(donor / "bundle").weights_sha256
    assert [one["seed"] for one in json.loads((run / "seeds.json").read_text())["runs"]] == [0, 1]


@pytest.mark.timeout(500, func_only=True)
def test_each_row_is_predicted_by_the_fold_that_held_it_out(tmp_path: Path) -> None:
    rows = [(text, label, f"film {row % 20}") for row, (text, label) in enumerate(reviews(300))]
    corpus = write_csv(tmp_path / "c.csv", rows, ("text", "label", "film"))
    data, run = tmp_path / "data", tmp_path / "one" / "run"
    keys = ["--executor.workers", "1", "--vocabulary.min_count", "1", "--text.max_tokens", "64", "--quiet"]
    keys += ["--splits.folds", "3", "--splits.group_column", "film"]
    assert cli.run(preprocess, ["run", str(corpus), "--output", str(data), *keys]) == 0
    assert launch(data, run, "--folds", "3", "--epochs", "2").wait(400) == 0, (run.parent / "log").read_text()[-3000:]
    manifest = read_manifest(data)
    folds = {
        int(row): shard.info.fold
        for name in ("train", "validation")
        for shard in Split(data, manifest, name).shards
        for block in shard.blocks
        for row in block.row
    }
    table = pq.read_table(run / "out-of-fold.parquet").to_pylist()
    assert {line["row"]: line["fold"] for line in table} == folds
    assert len(table) == len(folds)
    assert all(line["label"] == rows[line["row"] - 1][1] for line in table)
    films = {rows[row - 1][2]: fold for row, fold in folds.items()}
    assert all(films[rows[row - 1][2]] == fold for row, fold in folds.items())
    found = json.loads((run / "folds.json").read_text())
    right = [line["label"] == line["predicted"] for line in table]
    assert found["out_of_fold"]["rows"] == len(folds)
    assert found["out_of_fold"]["accuracy"] == pytest.approx(np.mean(right))
    assert [one["splits"]["validation"]["rows"] for one in found["runs"]] == manifest.statistics["folds"]["rows"]
    evaluated = succeed(
        run_module("harness", "evaluate", "--run", run / "fold-1", "--data", data, "--split", "validation")
    )
    assert f"{manifest.statistics['folds']['rows'][1]}" in evaluated.stdout
    refused = run_module("harness", "predict", "--run", run, "a text")
    assert refused.returncode == 3
    assert "is a folder of runs; name one of them: fold-0, fold-1, fold-2" in sentence(refused)
