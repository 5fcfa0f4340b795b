# SPDX-License-Identifier: Apache-2.0
"""The report of real runs: its content, and that its command repeats the run.

unit/test_report_page.py tests made-up runs of every size; test_pages_in_a_browser.py tests reports in a browser.
"""

from __future__ import annotations

import html
import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

from harness.report.page import write_report
from preprocessing.dataset.shards import read_manifest
from tests.commands import PLAIN, logged, read_json, read_metrics, run_module, status_of, succeed, unwrapped
from tests.corpora import prepare
from tests.datasets import sentences, write_dataset
from tests.runs import train_to_end
from tests.unit.test_report_page import words

pytestmark = pytest.mark.processes

NAME = "<img src=x>"
SMALL = "--model.embedding_dim 8 --model.hidden_size 8 --precision fp32 --device cpu --global_batch 32"
TRAINING = (*PLAIN, *f"{SMALL} --optim.lr 0.02 --epochs 2 --tracking.log_every 2".split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    texts, labels = sentences(600, 2, seed=3, longest=60)
    texts = [f"{text} {'x' * 300}" for text in texts]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(place / "reviews.csv", index=False)
    prepare(place / "reviews.csv", place / "data", "--source.labels", "{dull: [0], fine: [1]}")
    return place / "data"


@pytest.fixture(scope="module")
def run(place: Path, data: Path) -> Path:
    succeed(train_to_end("--data", data, "--run", place / NAME, *TRAINING))
    return place / NAME


def test_the_report_of_a_finished_run_says_what_its_files_say(run: Path, data: Path) -> None:
    page, test = words(run / "report.html"), read_json(run / "test.json")
    for name, shown in (("accuracy", "Accuracy"), ("roc_auc", "ROC AUC"), ("log_loss", "Log loss")):
        low, high = test["intervals"][name]
        assert f"{shown} {test[name]:.4f} {low:.4f} to {high:.4f}" in page
    assert f"from {test['calibration']['ece_before']:.4f} to {test['ece']:.4f}" in page
    assert f"fingerprint {read_manifest(data).fingerprint}" in page
    texts = pd.read_csv(data.parent / "reviews.csv")["text"]
    assert len(test["mistakes"]) > 0
    assert all(texts[mistake["row"] - 1] in page for mistake in test["mistakes"])
    assert "optim.lr 0.02" in page


@pytest.mark.slow
def test_its_command_makes_the_same_run_again(run: Path, place: Path) -> None:
    content = html.unescape((run / "report.html").read_text())
    line = next(line for line in content.splitlines() if line.startswith("padless train"))
    arguments = shlex.split(line.removesuffix("</code></pre>"))[1:]
    succeed(run_module("harness", *arguments))
    again = Path(f"{run}-again")
    for name in ("step", "row_hash"):
        assert logged(run, name) == logged(again, name)
    # the launcher's ranks may have another number of threads, which on some processors changes last bits
    assert logged(run, "loss") == pytest.approx(logged(again, "loss"), abs=1e-5)
    text = re.search(r"dataset\.yaml</summary>\s*<pre><code>(.*?)</code></pre>", content, re.DOTALL)
    (place / "dataset.yaml").write_text(text[1])
    built = ("--config", place / "dataset.yaml", "--output", place / "rebuilt")
    succeed(run_module("preprocessing", "prepare", *built))
    assert read_manifest(place / "rebuilt").fingerprint == read_manifest(place / "data").fingerprint


def break_matplotlib() -> None:
    """Make the import of matplotlib fail in each rank."""
    sys.modules["matplotlib"] = None  # type: ignore[assignment]


def test_a_run_without_test_split_is_measured_on_validation_and_ends_well_where_no_chart_can_be_drawn(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    write_dataset(tmp_path / "data", {"train": 200, "validation": 60}, num_classes=3)
    result = succeed(train_to_end("--data", tmp_path / "data", "--run", run, *TRAINING, before=break_matplotlib))
    assert "has no test split" in unwrapped(result.stdout)
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: no report written (import of matplotlib halted")
    assert status_of(run)["state"] == "finished"
    assert not (run / "test.json").exists()
    figures = read_json(run / "evaluation" / "validation.json")
    best = [line for line in read_metrics(run, "validation") if line["best"]][-1]
    assert (figures["step"], figures["accuracy"]) == (best["step"], best["accuracy"])
    assert f"Validation Accuracy {figures['accuracy']:.4f}" in words(write_report([run]))
