# SPDX-License-Identifier: Apache-2.0
"""The TF-IDF baseline on the shards: equals scikit-learn's, is stored by fingerprint; a run is compared with it."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from harness.baselines import measured, tfidf
from harness.baselines.measured import BaselineConfig, compare_linear, read_results
from harness.baselines.tfidf import learn_linear, measure_linear
from harness.config import RunConfig
from harness.output import report as run_report
from harness.output.report import RunReport
from harness.rundir.bundle_files import OF_WEIGHTS, read_info
from harness.rundir.events import Observer
from harness.rundir.layout import BASELINE
from harness.rundir.records import Ending
from harness.rundir.results import Predictions
from padless.core.errors import ConfigError, DataError
from padless.core.processes import lock_file
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest, write_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests.helpers.bundles import write_index
from tests.helpers.commands import read_json, unwrapped
from tests.helpers.corpora import Command, contents
from tests.helpers.datasets import copy_of, rewritten, split_of, texts_in, write_dataset

pytestmark = pytest.mark.thorough

ROWS = {"train": 400, "validation": 120, "test": 90}


def write_data(root: Path, num_classes: int) -> Path:
    """Some rows are mislabelled, so that no model is right on all of them."""
    write_dataset(root, ROWS, num_classes=num_classes)
    for name in ROWS:
        rewritten(root, name, label=make_mislabeller(num_classes))
    return root


def make_mislabeller(num_classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Gives a tenth of the rows the label of the next class."""
    random = np.random.default_rng(0)
    return lambda labels: np.where(random.random(len(labels)) < 0.1, (labels + 1) % num_classes, labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), num_classes=2)


data_copy = copy_of("data")


def texts_of(data: Path, split: Split) -> list[str]:
    """The rows of a split as words, read back through the vocabulary."""
    tokens = Vocabulary.read(data / VOCABULARY).tokens.to_pylist()
    return [" ".join(map(tokens.__getitem__, row)) for row in texts_in(split)]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_it_is_what_scikit_learn_makes_of_the_texts(
    num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path, num_classes)
    monkeypatch.setattr(tfidf, "TOLERANCE", 1e-8)
    manifest = read_manifest(data)
    train, test = (split_of(data, name) for name in ("train", "test"))
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, lowercase=False, token_pattern=r"\S+")
    theirs, labels = vectorizer.fit_transform(texts_of(data, train)), train.column("label")
    facts, (logits,) = learn_linear(data, manifest, [test])
    on_validation, on_test = (figures for figures, _ in measure_linear(data, manifest))
    assert facts["features"] == len(vectorizer.vocabulary_)
    assert on_validation["temperature"] == on_test["temperature"] != 1.0
    reference = LogisticRegression(C=10.0, tol=1e-8, max_iter=1000).fit(theirs, labels)
    test_features = vectorizer.transform(texts_of(data, test))
    np.testing.assert_allclose(logits, reference.decision_function(test_features), atol=1e-3)
    assert on_test["accuracy"] == reference.score(test_features, test.column("label"))


def test_it_is_measured_once_for_each_fingerprint_and_again_if_a_damaged_file_is_deleted(
    data_copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured.main(BaselineConfig(data=str(data_copy)))
    first = unwrapped(capsys.readouterr().out)
    manifest, path = read_manifest(data_copy), data_copy / "baseline" / "test.json"
    with monkeypatch.context() as patch:
        patch.setattr(measured, "measure_linear", None)  # a second time nothing is computed
        measured.main(BaselineConfig(data=str(data_copy)))
    assert unwrapped(capsys.readouterr().out).replace("measured before, found in", "written in") == first
    content = path.read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"test\.json: damaged"):
        measured.main(BaselineConfig(data=str(data_copy)))
    assert path.read_bytes() == content[:100]
    path.unlink()
    measured.main(BaselineConfig(data=str(data_copy)))
    assert read_json(path)["accuracy"] == json.loads(content)["accuracy"]
    write_manifest(data_copy, replace(manifest, splits={**manifest.splits, "test": []}))
    assert read_results(data_copy / BASELINE, read_manifest(data_copy).fingerprint) == {}


def test_what_is_not_measured_is_said(
    data_copy: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of another dataset, shards that are gone since, a full disk, and rows of one label."""
    other, output = write_data(tmp_path / "other", 3), tmp_path / "figures"
    assert command("baseline", "--data", other, "-o", output) == 0
    first = contents(output)
    assert command("baseline", "--data", data_copy, "-o", output) == 2
    assert contents(output) == first
    with monkeypatch.context() as patch:
        patch.setattr(measured, "write_results", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        assert command("baseline", "--data", other, "-o", tmp_path / "full") == 4
    next((other / "train").iterdir()).unlink()
    assert command("baseline", "--data", other) == 3
    one_label = tmp_path / "one_label"
    write_dataset(one_label, {"train": 60, "validation": 20}, num_classes=1)
    assert command("baseline", "--data", one_label) == 3
    assert not (one_label / "baseline").exists()


def hits(rows: int, right: int, num_moved: int = 0) -> np.ndarray:
    """Which rows are right: the first ``right`` of them, with the last ``num_moved`` of these moved to the end."""
    is_right = np.arange(rows) < right - num_moved
    is_right[rows - num_moved :] = True
    return is_right


def write_results(folder: Path, right: np.ndarray, **facts: Any) -> None:
    """Predictions for the test split of two classes, right where ``right`` is true, and figures with ``facts``."""
    labels = np.arange(len(right)) % 2
    predicted = np.where(right, labels, 1 - labels)
    chances = np.stack((1 - predicted, predicted), axis=1).astype(float)
    predictions = Predictions(np.arange(len(right)), labels, predicted, chances)
    figures = {"split": "test", "accuracy": float(right.mean()), "seconds": 3.2, **facts}
    measured.write_results(folder, figures, ["no", "yes"], "text", predictions)


@pytest.mark.parametrize(
    ("network", "linear_model", "difference", "verdict"),
    [
        (hits(1000, 950), hits(1000, 900), 0.05, "the network is above"),
        (hits(1000, 890), hits(1000, 900), -0.01, "the network is below"),
        (hits(1000, 900, 100), hits(1000, 905), -0.005, "no difference"),
    ],
)
def test_the_verdict_is_about_the_rows_that_both_predicted(
    tmp_path: Path, network: np.ndarray, linear_model: np.ndarray, difference: float, verdict: str
) -> None:
    """The intervals of the two accuracies overlap in all cases but the first."""
    write_index(tmp_path / "bundle", dataset="d")
    write_results(tmp_path, network, **{OF_WEIGHTS: read_info(tmp_path / "bundle").weights_sha256})
    write_results(tmp_path / BASELINE, linear_model, dataset="d", recipe=tfidf.RECIPE)
    comparison = compare_linear(tmp_path, "data")[1]
    assert comparison.verdict.startswith(verdict)
    assert comparison.difference == pytest.approx(difference)
    assert comparison.low < difference < comparison.high


class RecordingObserver(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def print_text(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.processes
def test_the_end_of_a_run_says_how_the_linear_model_does(
    data_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fingerprint, tracker = tmp_path / "run", read_manifest(data_copy).fingerprint, RecordingObserver()
    write_index(run / "bundle", dataset=fingerprint)
    facts = {OF_WEIGHTS: read_info(run / "bundle").weights_sha256}
    write_results(run, np.arange(ROWS["test"]) % 2 == 0, **facts)
    report = RunReport(RunConfig(run=str(run), data=str(data_copy)), tracker)
    report.begin()
    report.close(Ending("preempted", 10, 85, "SIGTERM received"))
    assert report.fit.returncode == -signal.SIGKILL
    assert (tracker.lines, (data_copy / BASELINE).exists()) == ([], False)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as if the dataset were read-only
    monkeypatch.setattr(run_report, "END_S", 60)
    report.begin()
    assert os.getpriority(os.PRIO_PROCESS, report.fit.pid) == 19
    report.close(Ending("finished", 10))
    fitted, comparison = report.fit, compare_linear(run, data_copy)[1]
    (run / "bundle").rename(run / "gone")
    assert compare_linear(run, data_copy)[1] == comparison
    (run / "gone").rename(run / "bundle")
    report.begin()
    assert report.fit is fitted  # it is kept in the run: none is started again
    assert comparison.linear == read_results(run / BASELINE, fingerprint)["test"]
    wait = "waiting up to 60 s for the TF-IDF baseline (--baseline none leaves it out)"
    assert tracker.lines == [
        wait,
        f"{comparison.verdict} (accuracy {comparison.linear['accuracy']:.4f}): {comparison.points}",
    ]


def test_two_commands_at_once_fit_once(data_copy: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first; here not long enough."""
    folder = data_copy / BASELINE
    monkeypatch.setattr(measured, "MEASURE_LIMIT_S", 0)
    with lock_file(folder / measured.LOCK, 0, ConfigError("")):
        assert command("baseline", "--data", data_copy) == 2
    assert not (folder / "test.json").exists()
    assert command("baseline", "--data", data_copy) == 0
    assert (folder / "test.json").exists()
