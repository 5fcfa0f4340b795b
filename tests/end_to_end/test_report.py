# SPDX-License-Identifier: Apache-2.0
"""Of real runs: the report, whose command repeats the run; evaluation and predictions repeat the test. In a real
browser, on a phone and a desktop: reports of 2 to 150 classes; explanations of malicious
texts.
"""

from __future__ import annotations

import html
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.output.many_runs import collect
from harness.output.report import write_report
from harness.rundir.layout import members
from harness.rundir.results import write_summary
from preprocessing.dataset.shards import read_manifest
from tests.helpers.commands import (
    PLAIN_RECIPE,
    read_json,
    read_metrics,
    run_module,
    status_of,
    succeed,
    unwrapped,
    values_in_log,
)
from tests.helpers.corpora import prepare, write_csv
from tests.helpers.datasets import sentences, write_dataset
from tests.helpers.report_runs import write_data, write_run
from tests.helpers.runs import train_to_end
from tests.unit.test_report_page import HOSTILE, QUOTED, words

pytestmark = pytest.mark.processes

NAME = "<img src=x>"
SMALL = "--model.embedding_dim 8 --model.hidden_size 8 --precision fp32 --device cpu --global_batch 32"
TRAINING = (
    *PLAIN_RECIPE,
    *f"{SMALL} --optim.lr 0.02 --epochs 2 --tracking.log_every 2".split(),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def data(root: Path) -> Path:
    texts, labels = sentences(600, 2, seed=3, longest=60)
    texts = [f"{text} {'x' * 300}" for text in texts]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(root / "reviews.csv", index=False)
    prepare(root / "reviews.csv", root / "data", "--source.labels", "{dull: [0], fine: [1]}")
    return root / "data"


@pytest.fixture(scope="module")
def run(root: Path, data: Path) -> Path:
    succeed(train_to_end("--data", data, "--run", root / NAME, *TRAINING, "--evaluation.threshold", "f1"))
    return root / NAME


def test_the_report_of_a_finished_run_says_what_its_files_say(run: Path, data: Path) -> None:
    page, test = words(run / "report.html"), read_json(run / "test.json")
    for name, title in (("accuracy", "Accuracy"), ("log_loss", "Log loss")):
        low, high = test["intervals"][name]
        assert f"{title} {test[name]:.4f} {low:.4f} to {high:.4f}" in page
    assert f"ROC AUC {test['roc_auc']:.4f} PR AUC {test['pr_auc']:.4f}" in page
    assert f"fingerprint {read_manifest(data).fingerprint}" in page
    texts = pd.read_csv(data.parent / "reviews.csv")["text"]
    assert len(test["mistakes"]) > 0
    assert all(texts[mistake["row"] - 1] in page for mistake in test["mistakes"])
    assert "optim.lr 0.02" in page


def test_evaluation_repeats_the_test_of_the_training(run: Path, data: Path) -> None:
    words = ("evaluate", run, "--data", data, "--split", "test", "--device", "cpu", "--precision", "fp32")
    output, first = succeed(run_module("padless", *words)).stdout, read_json(run / "test.json")
    repeated = read_json(run / "evaluation" / "test.json")
    assert re.search(rf"^accuracy +{first['accuracy']:.4f} ", output, re.M)
    assert set(repeated) == {*first, "texts", "precision"}
    assert first["rows"] == read_manifest(data).rows("test") == sum(rows for _, _, rows in first["confusion"])
    for name in ("rows", "accuracy", "f1", "confusion", "temperature", "threshold", "dataset", "labels"):
        assert repeated[name] == first[name], name
    assert first["temperature"] != 1.0
    assert repeated["log_loss"] == pytest.approx(first["log_loss"], abs=1e-6)


def test_predictions_of_raw_texts_are_those_of_the_evaluation(run: Path, root: Path) -> None:
    evaluated = pd.read_parquet(run / "test-predictions.parquet")
    assert set(evaluated["label"]) == {"dull", "fine"}
    chosen, output = root / "chosen.csv", root / "predicted.parquet"
    pd.read_csv(root / "reviews.csv").iloc[evaluated["row"].to_numpy() - 1].to_csv(chosen, index=False)
    words = ("predict", run, chosen, "--output", output, "--device", "cpu", "--precision", "fp32")
    succeed(run_module("padless", *words))
    predicted = pd.read_parquet(output)
    assert list(predicted["predicted"]) == list(evaluated["predicted"])
    for name in ("probability_dull", "probability_fine"):
        assert list(predicted[name]) == pytest.approx(list(evaluated[name]), abs=1e-5)


@pytest.mark.slow
def test_its_command_makes_the_same_run_again(run: Path, root: Path) -> None:
    content = html.unescape((run / "report.html").read_text())
    line = next(line for line in content.splitlines() if line.startswith("padless train"))
    arguments = shlex.split(line.removesuffix("</code></pre>"))[1:]
    succeed(run_module("padless", *arguments))
    repeated_run = Path(f"{run}-again")
    for name in ("step", "row_hash"):
        assert values_in_log(run, name) == values_in_log(repeated_run, name)
    # the launcher's ranks may have another number of threads, which on some processors changes last bits
    assert values_in_log(run, "loss") == pytest.approx(values_in_log(repeated_run, "loss"), abs=1e-5)
    text = re.search(r"dataset\.yaml</summary>\s*<pre><code>(.*?)</code></pre>", content, re.DOTALL)
    (root / "dataset.yaml").write_text(text[1])
    built = ("--config", root / "dataset.yaml", "--output", root / "rebuilt")
    succeed(run_module("padless", "prepare", *built))
    assert read_manifest(root / "rebuilt").fingerprint == read_manifest(root / "data").fingerprint


def break_matplotlib() -> None:
    """Make the import of matplotlib fail in each rank."""
    sys.modules["matplotlib"] = None  # type: ignore[assignment]


def test_a_run_without_test_split_is_measured_on_validation_and_ends_well_where_no_chart_can_be_drawn(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    write_dataset(tmp_path / "data", {"train": 200, "validation": 60}, num_classes=3)
    result = succeed(train_to_end("--data", tmp_path / "data", "--run", run, *TRAINING, setup=break_matplotlib))
    assert "has no test split" in unwrapped(result.stdout)
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: no report written (import of matplotlib halted")
    assert status_of(run)["state"] == "finished"
    assert not (run / "test.json").exists()
    figures = read_json(run / "evaluation" / "validation.json")
    best = [line for line in read_metrics(run, "validation") if line["best"]][-1]
    assert (figures["step"], figures["accuracy"]) == (best["step"], best["accuracy"])


PHONE, DESK = 390, 1440
"""Pixels."""
OVERFLOWING = """[...document.querySelectorAll("body *:not(script)")].filter(part =>
    part.clientWidth && getComputedStyle(part).display !== "inline" && part.scrollWidth > part.clientWidth + 1
).map(part => `${part.tagName}.${part.className}: ${part.scrollWidth} > ${part.clientWidth}`)"""
"""Elements whose content is wider than they are: cut off, laid over a neighbour, or behind a scroll bar."""
SCROLLING = """[...document.querySelectorAll("body *")].filter(part =>
    ["auto", "scroll"].includes(getComputedStyle(part).overflowX)).length"""
OPEN = "open => document.querySelectorAll('details').forEach(part => part.open = open)"


def write_page(root: Path, kind: str) -> Path:
    """A report of runs on two classes with hostile names and texts, or on 150 classes."""
    number = 150 if kind == "150 classes" else 2
    rows = [(f"text {HOSTILE} {QUOTED} {row}</script> {'x' * 300}", (HOSTILE, QUOTED)[row % 2]) for row in range(120)]
    corpus = write_csv(root / "hostile.csv", rows) if number == 2 else None
    data = write_data(root / "data", number, 300, corpus=corpus)
    if kind != "nine seeds":
        run = write_run(root / QUOTED / ("long-name_" * 12), data, skill=4.0 if number > 2 else 1.0)
        return write_report(run, root / "page.html")
    for seed in range(9):
        write_run(root / "seeds" / f"seed-{seed}", data, skill=1 + seed / 9, seed=seed)
    write_summary(root / "seeds", "seed", collect(members(root / "seeds")))
    return write_report(root / "seeds")


@pytest.mark.parametrize("kind", ["2 classes", "150 classes", pytest.param("nine seeds", marks=pytest.mark.slow)])
def test_a_browser_without_network_shows_it_whole_on_a_desk_and_a_phone(
    browser: Any, tmp_path: Path, kind: str
) -> None:
    address = write_page(tmp_path, kind).resolve().as_uri()
    for width in (DESK, PHONE):
        check_page(browser, address, width)


def check_page(browser: Any, address: str, width: int) -> None:
    """Everything fits the width, nothing is loaded, no script runs."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    try:
        page = context.new_page()
        messages = []
        requests = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        for opened in (False, True):
            page.evaluate(OPEN, opened)
            assert page.evaluate("document.documentElement.scrollWidth") <= page.evaluate("innerWidth") == width
            assert page.evaluate(OVERFLOWING) == []
        assert page.evaluate(SCROLLING) == 0
        assert (messages, requests) == ([], [address])
        charts = page.evaluate(
            "[...document.querySelectorAll('img')].map(one => one.complete * one.naturalWidth && one.width)"
        )
        assert len(charts) >= 4
        assert all(250 < chart <= 460 for chart in charts)
        injected = "h1 *:not(bdi, wbr), td bdi *:not(wbr), th bdi *:not(wbr), mark *"
        assert page.locator(injected).count() == 0
    finally:
        context.close()
