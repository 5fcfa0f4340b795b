# SPDX-License-Identifier: Apache-2.0
"""The linear model on the shards: equals scikit-learn's, is stored by fingerprint, compared with a network."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from harness.baseline import linear, results
from harness.baseline.linear import Linear, measure
from harness.baseline.results import BaselineConfig, folder_of, read_results
from preprocessing.dataset.shards import VOCABULARY, Split, read_manifest, write_manifest
from preprocessing.text.vocabulary import Vocabulary
from tests import datasets
from tests.commands import read_json, unwrapped
from tests.corpora import Command, prepare, write_csv
from tests.datasets import sentences, write_dataset

pytestmark = pytest.mark.thorough

ROWS = {"train": 400, "validation": 120, "test": 90}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), num_classes=2)


def write_data(root: Path, num_classes: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "sentences", sentences_some_of_them_mislabelled)
        write_dataset(root, ROWS, num_classes=num_classes)
    return root


def sentences_some_of_them_mislabelled(
    rows: int, num_classes: int, seed: int, longest: int
) -> tuple[list[str], np.ndarray]:
    """So that no model is right on every row."""
    texts, labels = sentences(rows, num_classes, seed, longest)
    wrong = np.random.default_rng(seed).random(rows) < 0.1
    return texts, np.where(wrong, (labels + 1) % num_classes, labels)


@pytest.fixture
def own(data: Path, tmp_path: Path) -> Path:
    """A writable copy of the dataset."""
    return Path(shutil.copytree(data, tmp_path / "own", ignore=shutil.ignore_patterns("baseline")))


def texts_of(data: Path, split: Split) -> list[str]:
    """The rows of a split as words, read back through the vocabulary."""
    tokens = Vocabulary.read(data / VOCABULARY).tokens.to_pylist()
    rows = [row[:length] for block in split.blocks for row, length in zip(block.ids, block.length, strict=True)]
    return [" ".join(tokens[number] for number in row) for row in rows]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_it_is_what_scikit_learn_makes_of_the_texts(
    num_classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_data(tmp_path, num_classes)
    monkeypatch.setattr(linear, "TOLERANCE", 1e-8)
    manifest = read_manifest(data)
    train, test = (Split(data, manifest, name) for name in ("train", "test"))
    plain = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, lowercase=False, token_pattern=r"\S+")
    theirs, labels = plain.fit_transform(texts_of(data, train)), train.column("label")
    learned, found = Linear.learn(data, manifest), measure(data, manifest)
    assert len(learned.ngrams) == len(plain.vocabulary_)
    assert found["validation"][0]["temperature"] == found["test"][0]["temperature"] != 1.0
    reference = LogisticRegression(C=10.0, tol=1e-8, max_iter=1000).fit(theirs, labels)
    seen = plain.transform(texts_of(data, test))
    np.testing.assert_allclose(learned.logits(test), reference.decision_function(seen), atol=1e-3)
    assert found["test"][0]["accuracy"] == reference.score(seen, test.column("label"))


def test_it_is_measured_once_for_each_fingerprint_and_again_if_damaged(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results.main(BaselineConfig(data=str(own)))
    first = unwrapped(capsys.readouterr().out)
    manifest, path = read_manifest(own), own / "baseline" / "test.json"
    with monkeypatch.context() as patch:
        patch.setattr(results, "measure", None)  # a second time nothing is computed
        results.main(BaselineConfig(data=str(own)))
    assert unwrapped(capsys.readouterr().out).replace("found in", "written in") == first
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    results.main(BaselineConfig(data=str(own)))
    said = f"warning: {path}: damaged; delete it, and `padless baseline` makes it again; computing it again now\n"
    assert capsys.readouterr().err == said
    assert read_json(path)["accuracy"] == json.loads(whole)["accuracy"]
    write_manifest(own, replace(manifest, splits={**manifest.splits, "test": []}))
    assert read_results(folder_of(own), read_manifest(own).fingerprint) == {}


def test_where_nothing_can_be_written_the_figures_are_shown(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "baseline").symlink_to("/proc/nowhere")  # nobody can make a folder there, not even root
    results.main(BaselineConfig(data=str(own)))
    out, err = capsys.readouterr()
    assert re.search(r"^ +validation  95 % +test  95 %\nrows +120 +90\naccuracy +0\.", out, re.MULTILINE)
    assert err.startswith(f"warning: {own}/baseline cannot be written (")


def test_a_dataset_that_teaches_nothing_is_refused(tmp_path: Path, command: Command) -> None:
    write_dataset(tmp_path, {"train": 60, "validation": 20}, num_classes=1)
    write_manifest(tmp_path, replace(read_manifest(tmp_path), labels=["fine", "dull"]))
    assert command("baseline", "--data", tmp_path) == 3
    assert "every training row is 'fine', and there" in command.sentence
    assert not (tmp_path / "baseline").exists()


def test_a_label_that_an_emoji_alone_decides_is_learned(tmp_path: Path) -> None:
    random, signs = np.random.default_rng(1), ("👍🏽", "👎")
    words = [" ".join(random.choice([*"abcdef", "好", "🎬", "…"], 8)) for _ in range(800)]
    source = write_csv(tmp_path / "a.csv", [(f"{some}{signs[row % 2]}", row % 2) for row, some in enumerate(words)])
    manifest = prepare(source, tmp_path / "data")
    assert {"👍", "👎", "🎬", "好"} <= {*Vocabulary.read(tmp_path / "data" / VOCABULARY).tokens.to_pylist()}
    figures, _ = measure(tmp_path / "data", manifest)["test"]
    assert figures["accuracy"] >= 0.99
