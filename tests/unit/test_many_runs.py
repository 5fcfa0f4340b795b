# SPDX-License-Identifier: Apache-2.0
"""Many trainings in one command: the configuration of each, refusals, and the table of their figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.baseline.results import BaselineConfig
from harness.baseline.results import main as baseline
from harness.config import RunConfig
from harness.data.views import held_out
from harness.launch import launcher
from harness.launch.stop import STOP
from harness.rundir import layout
from harness.training import preflight
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import read_manifest
from tests.commands import PLAIN
from tests.datasets import cut_into_folds, write_dataset

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 120, "validation": 30, "test": 30}, widths=(8, 16, 24, 32, 40, 48, 64))
    cut_into_folds(root, 3)
    return root


class Recorded:
    """Replaces the launcher: records trainings, and gives each an exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> None:
        self.trained: list[RunConfig] = []
        self.codes = codes
        monkeypatch.setattr(launcher, "train", self.train)

    def train(self, options: list[str], words: list[str], recipe: RunConfig) -> int:
        assert cli.parse(RunConfig, words, prog="launch") == recipe
        self.trained.append(recipe)
        return self.codes[len(self.trained) - 1] if len(self.trained) <= len(self.codes) else 0


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    monkeypatch.setattr(STOP, "heard", [])
    monkeypatch.setattr(launcher, "conclude", lambda *_: None)
    return Recorded(monkeypatch, [])


def launch(data: Path, run: Path, *words: str) -> int:
    return main(["train", *PLAIN, f"--data={data}", f"--run={run}", *words])


def test_each_seed_is_a_run_of_its_own_and_one_that_does_not_end_well_is_the_end(
    data: Path, tmp_path: Path, seen: Recorded
) -> None:
    seen.codes = [0, 85]
    assert launch(data, tmp_path / "imdb", "--epochs=2", "--seeds", "4,0,7") == 85
    found = [(one.seed, one.run, one.epochs, one.tracking.group, one.tracking.name) for one in seen.trained]
    assert found == [(seed, str(tmp_path / f"imdb/seed-{seed}"), 2, "imdb", f"imdb seed-{seed}") for seed in (4, 0)]


@pytest.mark.parametrize("word", ["--dry_run", "a signal"])
def test_a_dry_run_and_a_signal_end_a_command_after_its_first_run(
    data: Path, tmp_path: Path, seen: Recorded, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    if word == "a signal":
        train = launcher.train
        monkeypatch.setattr(launcher, "train", lambda *asked: STOP.heard.append("SIGTERM") or train(*asked))
    dry = word == "--dry_run"
    assert launch(data, tmp_path / "r", "--seeds=0,1", *([word] if dry else [])) == (0 if dry else 85)
    assert [one.seed for one in seen.trained] == [0]


def test_a_time_limit_is_that_of_all_runs(
    data: Path, tmp_path: Path, seen: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = iter([0.0, 10.0, 59.5])
    monkeypatch.setattr(launcher.time, "monotonic", lambda: next(moments))
    assert launch(data, tmp_path / "run", "--seeds=0,1", "--max_time=60") == 85
    assert [one.max_time for one in seen.trained] == ["50"]


@pytest.mark.parametrize(
    ("options", "restarts"),
    [
        (["--max_restarts", "2"], 2),
        (["--num_machines", "2", "--num_processes", "2"], 3),
    ],
)
def test_several_machines_start_lost_ranks_again_unless_told(
    options: list[str], restarts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def begin(attempt: int) -> str:
        starts.append(attempt)
        return "mine"

    monkeypatch.setattr(launcher, "start", lambda arguments: launcher.Failure(1, "a rank was lost"))
    monkeypatch.setattr(launcher.meeting, "note_end", lambda *_: None)
    arguments = launcher.accelerate_arguments(options, [])
    assert launcher.run_with_restarts(RunConfig(run=str(tmp_path / "run")), arguments, begin) == 1
    assert starts == list(range(restarts + 1))


def begun(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("{}\n")
    return path


def test_one_run_and_many_do_not_share_a_directory(data: Path, tmp_path: Path) -> None:
    for name in ("one", "many/seed-0", "many/seed-1"):
        begun(tmp_path / name)
    with pytest.raises(ConfigError, match="one holds a single run; name another directory for --seeds"):
        layout.check_many(tmp_path / "one", "seed")
    with pytest.raises(ConfigError, match="many holds the runs seed-0, seed-1; name another directory for --folds"):
        layout.check_many(tmp_path / "many", "fold")
    asked = RunConfig(data=str(data), run=str(tmp_path / "many"))
    with pytest.raises(ConfigError, match=r"holds the runs seed-0, seed-1; name another .* or go on with --seeds 0,1"):
        preflight.find_resume_point(asked, print, print)


def test_the_linear_model_on_the_same_folds(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for as_json in (True, False):
        baseline(BaselineConfig(data=str(data), folds=True, json=as_json))
    said = capsys.readouterr().out
    found = json.JSONDecoder().raw_decode(said)[0]
    manifest = read_manifest(data)
    assert [found[f"fold-{fold}"]["rows"] for fold in range(3)] == [
        held_out(manifest, fold, data).rows("validation") for fold in range(3)
    ]
    assert f"fold-2       {found['fold-2']['accuracy']:.4f}" in said
