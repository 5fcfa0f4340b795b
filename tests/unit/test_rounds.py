# SPDX-License-Identifier: Apache-2.0
"""Rounds of a self-training: what each training is asked for, what is not done again, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config import OrderConfig, RunConfig, SelfTrainingConfig
from harness.data.checks import check_learning
from harness.launch import launcher, rounds, sequence
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, DataError
from tests.commands import PLAIN
from tests.datasets import write_dataset

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 60, "validation": 20, "unlabelled": 40})
    return root


class Recorded:
    """Stands for the launcher: which trainings and labellings were asked for, and the exit code that each gives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> None:
        self.trained: list[RunConfig] = []
        self.labelled: list[tuple[Path, Path]] = []
        self.there: set[Path] = set()
        """Soft labels of whose rounds are there."""
        self.codes = codes
        monkeypatch.setattr(launcher, "train", self.train)
        monkeypatch.setattr(rounds, "label", self.label)
        monkeypatch.setattr(rounds, "is_of", lambda path, run: run in self.there)

    def train(self, options: list[str], words: list[str], recipe: RunConfig) -> int:
        assert cli.parse(RunConfig, words, prog="launch") == recipe
        self.trained.append(recipe)
        return self.codes[len(self.trained) - 1] if len(self.trained) <= len(self.codes) else 0

    def label(self, options: list[str], recipe: RunConfig, run: Path, output: Path) -> int:
        self.labelled.append((run, output))
        return 0


def launch(data: Path, run: Path, *words: str) -> int:
    asked = [
        *PLAIN,
        f"--data={data}",
        f"--run={run}",
        "--order.unlabelled_batch=8",
        "--self_training.weight=0.5",
        *words,
    ]
    return rounds.train([], asked, cli.parse(RunConfig, asked, prog="launch"))


def test_each_round_learns_from_the_one_before(data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = Recorded(monkeypatch, [])
    first = '--self_training.first={"epochs": 9, "model.dropout": 0.25}'
    assert launch(data, tmp_path / "run", "--self_training.rounds=2", first) == 0
    runs = [tmp_path / "run" / "round-0", tmp_path / "run" / "round-1", tmp_path / "run"]
    assert [Path(one.run) for one in seen.trained] == runs
    assert [one.epochs for one in seen.trained] == [9, 4, 4]
    assert [one.model.dropout for one in seen.trained] == [0.25, 0.0, 0.0]
    assert [one.order.unlabelled_batch for one in seen.trained] == [0, 8, 8]
    assert [one.self_training.weight for one in seen.trained] == [1.0, 0.5, 0.5]
    assert [one.self_training.rounds for one in seen.trained] == [0, 0, 0]
    files = [run / "soft_labels.arrow" for run in runs[:2]]
    assert seen.labelled == list(zip(runs[:2], files, strict=True))
    assert [one.self_training.labels for one in seen.trained] == ["none", *map(str, files)]


def test_labels_that_are_there_are_not_made_again(data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = Recorded(monkeypatch, [])
    seen.there = {tmp_path / "run" / "round-0"}
    assert launch(data, tmp_path / "run", "--self_training.rounds=2") == 0
    assert [run.name for run, _ in seen.labelled] == ["round-1"]


def test_a_round_that_does_not_end_well_is_the_end(data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = Recorded(monkeypatch, [0, 85])
    assert launch(data, tmp_path / "run", "--self_training.rounds=2") == 85
    assert [Path(one.run).name for one in seen.trained] == ["round-0", "round-1"]
    assert [run.name for run, _ in seen.labelled] == ["round-0"]


def test_a_time_limit_is_that_of_all_rounds(data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = Recorded(monkeypatch, [])
    moments = iter([0.0, 10.0, 40.0, 59.5])
    monkeypatch.setattr(sequence.time, "monotonic", lambda: next(moments))
    assert launch(data, tmp_path / "run", "--self_training.rounds=2", "--max_time=60") == 85
    assert [one.max_time for one in seen.trained] == ["50", "20"]


def test_a_dry_run_tries_the_first_round_alone(data: Path, tmp_path: Path, monkeypatch) -> None:
    seen = Recorded(monkeypatch, [])
    assert launch(data, tmp_path / "run", "--self_training.rounds=1", "--dry_run=true") == 0
    assert len(seen.trained) == 1
    assert seen.labelled == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--order.unlabelled_batch=0"], "no round learns from unlabelled rows; set order.unlabelled_batch"),
        (["--task=language_model"], "a language model has no labels"),
        (['--self_training.first={"epohcs": 9}'], "epohcs"),
    ],
)
def test_what_rounds_cannot_do_gets_a_sentence(
    data: Path, tmp_path: Path, monkeypatch, words: list[str], said: str
) -> None:
    seen = Recorded(monkeypatch, [])
    with pytest.raises(ConfigError, match=said):
        launch(data, tmp_path / "run", "--self_training.rounds=1", *words)
    assert seen.trained == []


def test_rounds_want_unlabelled_rows(tmp_path: Path, monkeypatch) -> None:
    write_dataset(tmp_path / "data", {"train": 60, "validation": 20})
    Recorded(monkeypatch, [])
    with pytest.raises(DataError, match=r"has no unlabelled rows for self_training.rounds; build it with source\."):
        launch(tmp_path / "data", tmp_path / "run", "--self_training.rounds=1")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"rounds": -1}, "self_training.rounds: -1"),
        ({"rounds": 1, "labels": "mine"}, "rounds make soft labels of their own"),
        ({"first": {"epochs": 2}}, "self_training.first: is about rounds"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SelfTrainingConfig(**keys)


def test_a_labelling_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "soft_labels.arrow").write_bytes(b"half a file")
    assert rounds.is_of(tmp_path / "soft_labels.arrow", tmp_path) is False


@pytest.mark.parametrize(
    ("key", "asked"),
    [
        ("order.unlabelled_batch", {"order": OrderConfig(unlabelled_batch=8)}),
        ("self_training.labels", {"self_training": SelfTrainingConfig(labels="mine")}),
    ],
)
def test_a_language_model_learns_no_labels(key: str, asked: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: a language model learns from all rows and predicts no labels"):
        check_learning(RunConfig(task="language_model", **asked))
