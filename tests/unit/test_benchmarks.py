# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: every contender does its work, what is printed has one form, nothing is done twice.

Their figures are no test's business.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import corpora, curve, limits, loader, measuring, predict, pretrain, recurrence, text
from benchmarks.__main__ import main
from benchmarks.measuring import Lines, UnavailableError
from harness.config import ModelConfig
from harness.inference.scorer import open_scorer
from preprocessing.base import cli
from preprocessing.text.spec import TextSpec
from tests.bundles import write_run
from tests.datasets import sentences, write_dataset

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("default")]

TINY = ModelConfig(embedding_dim=4, hidden_size=4)


def check(values: dict[str, Any], unit: str, *peers: str) -> None:
    """The form that every benchmark prints."""
    assert (values["unit"], set(values["peers"])) == (unit, set(peers))
    assert values["ratios"] == {name: values["ours"] / value for name, value in values["peers"].items()}
    assert min(values["ours"], *values["peers"].values()) > 0
    lines = next(measuring.rendered(values)).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["contender", "ours", *values["peers"]]


def test_what_is_there_is_read_and_a_line_that_was_cut_short_is_none(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "new" / "lines.jsonl", "kind", "size")
    lines.add({"kind": "rows", "size": 1, "seconds": 2.0})
    with lines.path.open("a") as file:
        file.write('{"kind": "cut o')
    assert Lines(lines.path, "kind", "size").there == {("rows", 1): {"kind": "rows", "size": 1, "seconds": 2.0}}


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> Any:
        raise UnavailableError("bs4 is not installed; pip install beautifulsoup4 brings it")

    peers = {"CountVectorizer": text.PEERS["CountVectorizer"]}
    monkeypatch.setattr(text, "PEERS", {**peers, "gone": (absent, 1)})
    values = text.measure(
        ["A great<br />film, isn't it?", "Two bad films &amp; a good one."] * 20, TextSpec(), rounds=1
    )
    check(values, "docs/s", *peers)
    assert values["unavailable"] == {"gone": "bs4 is not installed; pip install beautifulsoup4 brings it"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made_up", [True, False])
def test_loader(made_up: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    alone = {name: one for name, one in loader.CONTENDERS.items() if "workers" not in name}
    monkeypatch.setattr(loader, "CONTENDERS", alone)
    write_dataset(tmp_path, {"train": 400, "validation": 20})
    data = None if made_up else str(tmp_path)
    values = loader.measure(loader.LoaderConfig(data=data, rows=1000, width=16, batch=50, rounds=1))
    check(values, "rows/s", *(alone.keys() - {"ours"} - values["unavailable"].keys()))
    assert values["size"]["width"] == (16 if made_up else 64)


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
def test_limits_leave_a_line_and_are_not_tried_again(tmp_path: Path, capsys, monkeypatch) -> None:
    config = limits.LimitsConfig(output=str(tmp_path / "limits.jsonl"), only=["text_bytes"], json=True)
    limits.main(config)
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["kind"], line["size"], line["end"]) == ("text_bytes", 100_000, "done")
    assert line["peak_mb"] > 20  # a new process begins with the peak of the one that starts it
    monkeypatch.setattr(limits, "attempt", lambda *_: pytest.fail("tried again"))
    limits.main(config)
    assert json.loads(capsys.readouterr().out) == [line]


def write_corpus(path: Path, rows: int = 300, held: str = "test") -> Path:
    texts, labels = sentences(rows, 2, 0, 12)
    split = [held if row % 5 == 0 else "train" for row in range(rows)]
    lines = [f"{text},c{label},{where}" for text, label, where in zip(texts, labels, split, strict=True)]
    path.write_text("\n".join(["text,label,split", *lines]) + "\n")
    return path


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands run in this process but for trainings, which only count, and reach 0.8, 0.81, …"""
    words: list[list[str]] = []

    def run(*arguments: object) -> None:
        words.append([str(one) for one in arguments])
        if "launch" not in arguments:
            package, *rest = words.pop()
            rest += ["--executor.workers", "1"] if package == "preprocessing" else []
            assert cli.run(importlib.import_module(f"{package}.__main__").main, rest) == 0

    def accuracy_of(directory: Path, split: str) -> float:
        return 0.79 + len(words) / 100

    for module in (corpora, curve):
        monkeypatch.setattr(module, "accuracy_of", accuracy_of)
    monkeypatch.setattr(corpora, "run", run)
    return words


def test_corpora(trained: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, keys = write_corpus(tmp_path / "mine.csv"), ["--output", str(tmp_path / "out"), "--json"]
    assert main(["corpora", str(file), *keys, "--seeds", "[0,2]"]) == 0
    assert main(["corpora", str(file), *keys]) == 0
    (line,) = json.loads(capsys.readouterr().out.rpartition("\n[")[2].join(["[", ""]))
    assert [words[words.index("--seed") + 1] for words in trained] == ["0", "2", "1"]
    assert (line["rows"], line["split"], line["seeds"]) == (212, "test", 3)
    assert line["network"] == pytest.approx(0.81)
    assert min(line["linear_on_texts"], line["linear_on_shards"]) > 0.8


@pytest.mark.slow
def test_curve(trained: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_corpus(tmp_path / "mine.csv", held="validation")
    keys = ["--output", str(tmp_path / "out"), "--recipe", "imdb-quick", "--draws", "[0]"]
    picture = tmp_path / "curve.svg"
    assert main(["curve", str(file), *keys, "--labels", "[50,0]", "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in shown] == ["labels", "50", "240"]
    assert len(trained) == 4
    first = picture.read_bytes()
    assert main(["curve", str(file), *keys, "--labels", "[50,0]", "--json", "--picture", str(picture)]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert (len(trained), picture.read_bytes()) == (4, first)
    assert lines[0]["methods"]["labelled"] == {"mean": 0.8, "sd": None, "draws": 1, "seconds": pytest.approx(0, abs=60)}
