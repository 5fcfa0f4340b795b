# SPDX-License-Identifier: Apache-2.0
"""Many trainings in one command: the configuration of each, stops, and the language model of each."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from harness.config import RunConfig
from harness.launch import launcher, many
from harness.launch.options import TrainConfig
from harness.rundir.records import Ending, write_status
from padless.commands import main
from padless.core.signals import STOP
from tests.helpers.commands import PLAIN_RECIPE
from tests.helpers.datasets import assign_folds, write_dataset

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 120, "validation": 30, "test": 30}, widths=(8, 16, 24, 32, 40, 48, 64))
    assign_folds(root, 3)
    return root


@dataclass
class Launches:
    """In place of the launcher: the trainings, and the exit codes that they are given, the last one to all further."""

    trained: list[RunConfig] = field(default_factory=list)
    codes: tuple[int, ...] = (0,)
    is_signalled: bool = False

    def train(self, _: TrainConfig, recipe: RunConfig, start: launcher.Start) -> int:
        self.trained.append(recipe)
        if self.is_signalled:
            STOP.note(signal.SIGTERM)
        return self.codes[min(len(self.trained), len(self.codes)) - 1]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    for name, value in vars(type(STOP)()).items():
        monkeypatch.setattr(STOP, name, value)
    monkeypatch.setattr(many, "finish_runs", lambda *_: None)
    monkeypatch.setattr(many, "plan_slots", lambda *_: [{}])  # one after the other
    launches = Launches()
    monkeypatch.setattr(launcher, "launch_training", launches.train)
    return launches


def launch(data: Path, run: Path, *words: str) -> int:
    return main(["train", *PLAIN_RECIPE, f"--data={data}", f"--run={run}", *words])


def test_each_seed_is_a_run_of_its_own_and_one_that_does_not_end_well_is_the_end(
    data: Path, tmp_path: Path, launches: Launches
) -> None:
    launches.codes = (0, 85)
    assert launch(data, tmp_path / "imdb", "--epochs=2", "--seeds", "4,0,7") == 85
    facts = [(config.seed, config.run, config.epochs, config.tracking.name) for config in launches.trained]
    assert facts == [(seed, str(tmp_path / f"imdb/seed-{seed}"), 2, f"imdb seed-{seed}") for seed in (4, 0)]


@pytest.mark.parametrize(("option", "code"), [("--dry_run", 0), ("--quiet=true", 85)])
def test_a_dry_run_and_a_signal_end_a_command_after_its_first_run(
    data: Path, tmp_path: Path, launches: Launches, option: str, code: int
) -> None:
    launches.is_signalled = code == 85
    assert launch(data, tmp_path / "r", "--seeds=[0, 1]", option) == code
    assert [config.seed for config in launches.trained] == [0]


def test_each_run_comes_after_its_language_model_unless_that_has_finished(
    data: Path, tmp_path: Path, launches: Launches
) -> None:
    (tmp_path / "r/fold-1-pretrained").mkdir(parents=True)
    write_status(tmp_path / "r/fold-1-pretrained", Ending("finished"))
    words = ["--init.pretrain", "imdb", "--model.hidden_size", "24", "--epochs", "9"]
    assert launch(data, tmp_path / "r", "--folds=all", *words) == 0
    facts = [
        f"{config.task} {config.run.rpartition('/')[2]}, {config.fold}, {config.epochs}" for config in launches.trained
    ]
    models = [f"language_model fold-{fold}-pretrained, {fold}, 3" for fold in (0, 2)]
    runs = [f"classifier fold-{fold}, {fold}, 9" for fold in range(3)]
    assert facts == [models[0], *runs[:2], models[1], runs[2]]
    assert {config.model.hidden_size for config in launches.trained} == {24}


def test_a_time_limit_is_that_of_all_runs(
    data: Path, tmp_path: Path, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single run, and the first of several, begin within any limit."""
    assert launch(data, tmp_path / "short", "--max_time=0.5") == 0
    assert launches.trained.pop().max_time == "0.5"
    moments = iter([0.0, 10.0, 59.5])
    monkeypatch.setattr(many.time, "monotonic", lambda: next(moments))
    assert launch(data, tmp_path / "run", "--seeds=0,1", "--max_time=60") == 85
    assert [config.max_time for config in launches.trained] == ["60"]
