# SPDX-License-Identifier: Apache-2.0
"""The report of runs of 2 to 150 classes, with and without a test split: its pages, and the values that they show. No
training, no browser.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from harness.baselines.measured import BaselineConfig
from harness.baselines.measured import main as baseline
from harness.config import ModelConfig, OptimConfig
from harness.output.report import write_report
from harness.rundir.bundle_files import read_info, write_info
from harness.rundir.json_files import Line
from harness.rundir.metrics_log import read_log
from harness.rundir.records import Ending, write_status
from harness.rundir.results import read_figures, read_predictions
from padless.core.errors import ConfigError, DataError
from preprocessing.dataset.views import find_originals
from tests.helpers.commands import read_json
from tests.helpers.corpora import prepare, reviews, write_csv
from tests.helpers.report_runs import write_data, write_run

pytestmark = pytest.mark.thorough

HOSTILE = "<script>alert(1)</script>"
QUOTED = "\"'><img src=x onerror=alert(2)>"


def words(path: Path) -> str:
    """The visible text of a page: no tags or style, single spaces."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>|</?mark[^>]*>|<wbr>", "", path.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Path:
    """A dataset of two classes, on which a TF-IDF baseline was measured."""
    data = write_data(folder / "pair", 2, 200)
    baseline(BaselineConfig(data=str(data), json=True))
    return data


@pytest.fixture(scope="module")
def page_of_many_classes(folder: Path) -> Path:
    """A report of 30 classes without a test split."""
    data = write_data(folder / "many", 30, 600, test=False)
    return write_report(write_run(folder / "many" / "run", data))


def best_line(run: Path) -> Line:
    """The line of the best validation."""
    return [line for line in read_log(run) if line.get("best")][-1]


def test_without_a_test_split_the_page_shows_validation_and_says_so(page_of_many_classes: Path) -> None:
    page = words(page_of_many_classes)
    figures = read_figures(page_of_many_classes.parent / "evaluation", "validation")
    assert f"Validation Accuracy {figures['accuracy']:.4f}" in page
    assert f"F1 (macro) {figures['f1']:.4f}" in page
    assert f"There are few rows, {figures['rows']}: " in page
    assert "The 20 worst of 30 classes" in page
    assert 'class="confusion' not in page_of_many_classes.read_text()
    texts = pd.read_csv(page_of_many_classes.parent.parent / "corpus.csv")["text"]
    assert all(texts[mistake["row"] - 1] in words(page_of_many_classes) for mistake in figures["mistakes"])


def test_a_source_that_has_changed_gives_no_texts(folder: Path, pair: Path) -> None:
    run = write_run(folder / "changed", pair)
    corpus = pair.parent / "corpus.csv"
    content = corpus.read_bytes()
    try:
        corpus.write_bytes(content + b"more,positive\n")
        path = write_report(run)
    finally:
        corpus.write_bytes(content)
    page = words(path)
    assert f"{corpus} is not as it was when the dataset was made of it." in page
    figures = read_figures(run, "test")
    assert " ".join(figures["mistakes"][0]["tokens"][:5]) in page
    linear = read_json(pair / "baseline" / "test.json")
    sentence = f"Accuracy on test: network {figures['accuracy']:.4f}, TF-IDF baseline {linear['accuracy']:.4f}: "
    assert sentence in page


def test_figures_of_other_weights_or_another_dataset_are_not_shown(
    page_of_many_classes: Path, pair: Path, tmp_path: Path
) -> None:
    """The run is under way, too."""
    run = Path(shutil.copytree(page_of_many_classes.parent, tmp_path / "run"))
    write_info(run / "bundle", replace(read_info(run / "bundle"), weights_sha256="1" * 64))
    write_status(run, Ending("preempted", 12, 85))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while it wrote
    page = words(write_report(run))
    assert "preempted at step 12" in page
    best = best_line(run)
    assert f"Validation Accuracy {best['accuracy']:.4f}" in page
    assert f"The best validation so far, after step {best['step']}" in page
    assert "Mistakes" not in page
    shutil.copy(write_run(tmp_path / "other", pair) / "test.json", run)
    page = words(write_report(run))
    assert "The best validation so far" in page


def test_predictions_of_another_run_of_the_dataset_are_refused(pair: Path, tmp_path: Path) -> None:
    run, other_run = (write_run(tmp_path / f"{seed}", pair, seed=seed) for seed in (0, 1))
    shutil.copy(other_run / "test-predictions.parquet", run)
    with pytest.raises(DataError, match=r"0/test-predictions\.parquet: .*not the predictions of test\.json"):
        read_predictions(run, "test", ["label"])
    assert "No comparison with the TF-IDF baseline" in words(write_report(run))


def test_the_page_of_a_run_is_renewed_and_another_file_only_where_that_is_wanted(pair: Path, tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run", pair), tmp_path / "page.html"
    for path in (run / "report.html", other):
        path.write_text("mine")
    assert "mine" not in write_report(run).read_text()
    with pytest.raises(ConfigError):
        write_report(run, other)
    assert other.read_text() == "mine"
    assert "mine" not in write_report(run, other, overwrite=True).read_text()


def test_the_page_begins_with_what_the_model_reaches_and_whether_to_trust_it(folder: Path, pair: Path) -> None:
    config = {"model": ModelConfig(dropout=0.3), "optim": OptimConfig(label_smoothing=0.1)}
    run = write_run(folder / "verdict", pair, skill=8.0, **config)
    page = words(write_report(run))
    figures, linear = read_figures(run, "test"), read_json(pair / "baseline" / "test.json")
    (low, high), rows = figures["intervals"]["accuracy"], figures["rows"]
    start = f"Right on {figures['accuracy']:.1%} of {rows} test rows (95 %: {low:.1%} to {high:.1%}), the TF-IDF"
    assert f"{start} baseline on {linear['accuracy']:.1%}. " in page
    assert "The training loss includes model.dropout 0.3, optim.label_smoothing 0.1, " in page


def test_the_page_advises_more_epochs_and_says_what_is_no_better_than_the_largest_class(
    tmp_path: Path, pair: Path
) -> None:
    assert "No better than the majority class" in words(write_report(write_run(tmp_path / "random", pair, skill=0.0)))
    run = write_run(tmp_path / "run", pair)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 150))
    assert "Validation was still improving: --epochs" in words(write_report(run))


def test_no_text_becomes_an_element_or_an_attribute(folder: Path) -> None:
    rows = [(f"text {HOSTILE} {QUOTED} number {row}, </script><!-- ", (HOSTILE, QUOTED)[row % 2]) for row in range(120)]
    corpus = write_csv(folder / "hostile.csv", rows)
    data = write_data(folder / "hostile", 2, 0, corpus=corpus)
    run = write_run(folder / QUOTED / "run", data, skill=1.0)
    path = write_report(run)
    page = path.read_text()
    assert not re.search(r"<(script|iframe|object|embed|form|base)\b|<[^>]*\son\w+=", page)
    sources = re.findall(r'<img src="([^"]*)"', page)
    assert len(sources) > 3
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert f"{HOSTILE} {QUOTED}" in words(path)
    assert "Content-Security-Policy" in page


def test_the_originals_of_rows_come_from_their_source_or_it_is_said_why_not(tmp_path: Path) -> None:
    rows = [(f'{text}.\n<br />It\'s, "so"!', label) for text, label in reviews(60, words=8)]
    source, later = tmp_path / "corpus.csv.gz", write_csv(tmp_path / "later.csv", rows[40:])
    source.write_bytes(gzip.compress(write_csv(tmp_path / "plain.csv", rows[:40]).read_bytes()))
    parts = ("--source.part_mb", "0.001", "--source.test_path", str(later))
    manifest = prepare(source, tmp_path / "data", *parts)
    expected = {row: text for row, (text, _) in enumerate(rows, 1)}
    assert find_originals(manifest, range(1, 61)) == (expected, None)
    source.unlink()
    assert find_originals(manifest, [3]) == ({}, f"{source}: no such file; check its name")
    config = manifest.provenance["config"]
    config = {**config, "source": {**config["source"], "path": ["s3://bucket/corpus.csv"]}}
    remote = replace(manifest, provenance={**manifest.provenance, "config": config})
    assert find_originals(remote, [1]) == ({}, "a report reads no remote sources, and none of more than 256 MiB")
