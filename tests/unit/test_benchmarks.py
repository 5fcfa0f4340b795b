# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: every contender does its work, what is printed has one form, nothing is done twice.

Their figures are no test's business.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import corpora, limits, loader, measuring, predict, pretrain, recurrence, text
from benchmarks.__main__ import main
from harness.inference.scorer import open_scorer
from preprocessing.base import cli
from preprocessing.base.errors import DataError
from preprocessing.text.spec import TextSpec
from tests.bundles import write_run
from tests.datasets import sentences, write_dataset

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("default")]


def check(values: dict[str, Any], unit: str, *peers: str) -> None:
    """The form that every benchmark prints."""
    assert (values["unit"], set(values["peers"])) == (unit, set(peers))
    assert values["ratios"] == {name: values["ours"] / value for name, value in values["peers"].items()}
    assert min(values["ours"], *values["peers"].values()) > 0
    lines = next(measuring.rendered(values)).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["contender", "ours", *values["peers"]]


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PEERS", {"CountVectorizer": text.PEERS["CountVectorizer"]})
    texts = ["A great<br />film, isn't it?", "Two bad films &amp; a good one."] * 20
    check(text.measure(texts, TextSpec(), rounds=1), "docs/s", "CountVectorizer")
    monkeypatch.setitem(sys.modules, "bs4", None)
    with pytest.raises(DataError, match="bs4 is not installed; pip install beautifulsoup4 brings it"):
        text.notebook(TextSpec())


@pytest.mark.filterwarnings("ignore")
def test_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {name: one for name, one in loader.CONTENDERS.items() if "workers" not in name}
    monkeypatch.setattr(loader, "CONTENDERS", alone)
    values = loader.measure(loader.LoaderConfig(rows=1000, width=16, batch=50, rounds=1))
    check(values, "rows/s", *(alone.keys() - {"ours"}))


@pytest.mark.slow
def test_a_step() -> None:
    sizes = {"batch": 2, "hidden_size": 4, "rounds": 1}
    layer = recurrence.measure(recurrence.RecurrenceConfig(**sizes))
    words = pretrain.measure(pretrain.PretrainConfig(**sizes, vocabulary=50, embedding_dim=4, candidates=8))
    for values in (layer, words):
        check(values, "tokens/s", *values["peers"])
        assert len(values["peers"]) == 2


@pytest.mark.slow
def test_train_as_users_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", {"train": 200, "validation": 20})
    sizes = ["--model.embedding_dim", "8", "--model.hidden_size", "8", "--batch", "16", "--steps", "2", "--rounds", "2"]
    assert main(["train", "--data", str(tmp_path / "data"), "--json", *sizes]) == 0
    values = json.loads(capsys.readouterr().out)
    check(values, "tokens/s", "padded to the maximum, random order", "packed, random order")
    assert 0 <= values["ours_details"]["padding"] < 0.5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benchmarks")
    write_run(root)
    (root / "in.txt").write_text("\n".join(f"a fine film w{number}" for number in range(60)))
    return root


@pytest.mark.slow
def test_predict_computes_what_predict_does(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = (bundle / "in.txt").read_text().splitlines()
    scorer = open_scorer(bundle / "run", "torch", 1024, {"device": "cpu", "precision": "fp32"})
    plain = open_scorer(bundle / "run")
    np.testing.assert_allclose(predict.logits(scorer, texts), plain.score(plain.encode(texts)), atol=1e-6)
    monkeypatch.setattr(predict, "notebook", lambda _: lambda some: [one.split() for one in some])
    assert len(predict.NotebookLoop(scorer)(texts[:3])) == 3


@pytest.mark.processes
def test_limits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CASES", {"text_bytes": limits.CASES["text_bytes"]})
    limits.main(limits.LimitsConfig(json=True))
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["size"], line["end"]) == ("text_bytes", 100_000, "done")
    assert line["peak_mb"] > 20  # a new process begins with the peak of the one that starts it


def write_corpus(path: Path, rows: int = 300) -> Path:
    texts, labels = sentences(rows, 2, 0, 12)
    split = ["validation" if row % 5 == 0 else "train" for row in range(rows)]
    lines = [f"{text},c{label},{where}" for text, label, where in zip(texts, labels, split, strict=True)]
    path.write_text("\n".join(["text,label,split", *lines]) + "\n")
    return path


def test_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands run in this process but for trainings, which only count, and reach 0.8, 0.81, …"""
    trainings: list[list[str]] = []

    def run(*arguments: object) -> None:
        package, *words = map(str, arguments)
        if "launch" in words:
            trainings.append(words)
        else:
            assert (
                cli.run(importlib.import_module(f"{package}.__main__").main, [*words, "--executor.workers", "1"]) == 0
            )

    monkeypatch.setattr(corpora, "accuracy_of", lambda *_: 0.79 + len(trainings) / 100)
    monkeypatch.setattr(corpora, "run", run)
    file = write_corpus(tmp_path / "mine.csv")
    keys = [
        "--output",
        str(tmp_path / "out"),
        "--recipe",
        "imdb-quick",
        "--measure",
        "validation",
        "--labels",
        "[50,0]",
    ]
    assert main(["corpora", str(file), *keys, "--seeds", "[0]"]) == 0
    with (tmp_path / "out" / "figures.jsonl").open("a") as lines_of:
        lines_of.write('{"key": "cut o\n')
    assert main(["corpora", str(file), *keys, "--seeds", "[0,2]", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out.rpartition("\n[")[2].join(["[", ""]))
    assert [words[words.index("--seed") + 1] for words in trainings] == ["0"] * 4 + ["2"] * 4
    assert [(line["rows"], line["method"]) for line in lines[:4]] == [
        (50, "linear"),
        (50, "labelled"),
        (50, "all texts"),
        (240, "linear"),
    ]
    assert (lines[1]["accuracy"], lines[1]["seeds"]) == ("0.8200", 2)
    assert float(lines[3]["accuracy"]) > 0.8
