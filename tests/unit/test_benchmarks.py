# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: every contender works, the output has one format, nothing is repeated.

Their figures are not tested. And the script that proves what holds on a card, run on a CPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import corpora, loader, measuring, pretrain, recurrence, speedrun, text
from benchmarks.__main__ import main
from harness.rundir.metrics_log import MetricsLog
from preprocessing.__main__ import main as preprocessing
from preprocessing.base import cli
from preprocessing.text.spec import TextSpec
from tests.commands import run_command, succeed
from tests.corpora import write_csv
from tests.datasets import sentences, write_dataset
from tests.gpu import prove

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("default")]


def check(values: dict[str, Any], unit: str, *peers: str) -> None:
    """Check the output format of a benchmark."""
    assert (values["unit"], set(values["peers"])) == (unit, set(peers))
    assert values["ratios"] == {name: values["ours"] / value for name, value in values["peers"].items()}
    assert min(values["ours"], *values["peers"].values()) > 0
    lines = next(measuring.rendered(values)).splitlines()
    assert all(map(str.startswith, lines, ["contender", "ours", *values["peers"]]))
    assert len(lines) == 2 + len(peers)


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PEERS", {"CountVectorizer": text.PEERS["CountVectorizer"]})
    texts = ["A great<br />film, isn't it?", "Two bad films &amp; a good one."] * 20
    check(text.measure(texts, TextSpec(), rounds=1), "docs/s", "CountVectorizer")


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


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands run in this process; trainings are only noted here."""
    noted = []

    def run(package: str, *arguments: object) -> None:
        words = list(map(str, arguments))
        if package == "harness":
            noted.append(words)
        else:
            assert cli.run(preprocessing, [*words, "--executor.workers", "1"]) == 0

    monkeypatch.setattr(corpora, "run", run)
    monkeypatch.setattr(speedrun, "run", run)
    return noted


def test_speedrun(tmp_path: Path, capsys: pytest.CaptureFixture[str], trainings: list[list[str]]) -> None:
    """The run of fold 1 keeps its first weights; nothing is measured twice."""
    texts, labels = sentences(300, 2, 0, 12)
    rows = zip(texts, labels, (["validation"] + ["train"] * 4) * 60, strict=True)
    file, out = write_csv(tmp_path / "mine.csv", rows, ("text", "label", "split")), tmp_path / "out"
    for fold, seconds in enumerate((10.0, 15.0)):
        run = out / "runs" / f"fold-{fold}"
        run.mkdir(parents=True)
        log = MetricsLog(run)
        for step, accuracy in ((1, 0.5), (2, 1.0)):
            log.write("validation", {"step": step, "seconds": seconds * step}, "throughput.jsonl")
            log.write("validation", {"step": step, "accuracy": accuracy, "best": step == 1 or fold == 0})
    for _ in range(2):
        assert main(["speedrun", str(file), f"--output={out}", "--folds=2", "--targets=[0.5,0.9]", "--json"]) == 0
    assert [words[words.index("--fold") + 1] for words in trainings] == ["0", "1"] * 2
    values = json.loads(capsys.readouterr().out.rpartition("\n{")[2].join(["{", ""]))
    check(values, "s", *values["peers"])
    assert len((out / "figures.jsonl").read_text().splitlines()) == 1 + 2 * len(values["peers"])
    ours, *peers = values["table"]
    assert (ours["seconds"], ours["0.5"], ours["0.9"]) == (30.0, 15.0, None)
    assert ours["0.5 + prepare"] == round(15.0 + values["prepare_s"], 1)
    assert min(peer["accuracy"] for peer in peers[:2]) > 0.8


def test_the_proof_says_at_once_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prove.missing("cpu") == []
    monkeypatch.setattr(prove, "find_spec", lambda name: None if name in ("yaml", "narwhals") else name)
    monkeypatch.setattr(prove.shutil, "which", lambda name: None)
    monkeypatch.setattr(prove.sysconfig, "get_path", lambda name: "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    packages, compiler, headers = prove.missing("cuda")
    assert packages == f"packages are missing: {sys.executable} -m pip install pyyaml narwhals"
    assert compiler == "Triton needs a C compiler: apt-get install gcc, or set CC"
    assert headers == "Triton needs Python's headers, /nowhere/Python.h: apt-get install python3-dev"


@pytest.mark.slow
@pytest.mark.timeout(700, func_only=True)
def test_every_claim_holds_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "tests/gpu/prove.py", "--out", str(tmp_path), "--device", "cpu"]
    result = succeed(run_command(command, 600))
    assert "Proof on cpu: every claim holds" in result.stdout
