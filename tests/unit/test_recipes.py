# SPDX-License-Identifier: Apache-2.0
"""Starting points: recipes by name in any folder, a configuration written for a file, the list of runs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.__main__ import main as harness
from harness.config import LaunchRecipe, RunConfig
from harness.rundir.results import write_figures
from preprocessing.base import cli, configuration
from preprocessing.config import PreprocessConfig
from tests.corpora import reviews, write_csv

TRAIN = "default imdb imdb-gpu imdb-pretrained imdb-quick imdb-unlabelled quickstart seed"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without a checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["train", "pretrain", "preprocess"])
def test_every_recipe_is_valid(kind: str) -> None:
    config_class, more = (PreprocessConfig, ["--output", "d"]) if kind == "preprocess" else (RunConfig, [])
    found = [
        cli.parse(config_class, ["--config", f"{kind}/{name}", *more], prog="test")
        for name in configuration.names(kind)
    ]
    assert len(found) > 1
    assert all(isinstance(one, config_class) for one in found)


def test_a_recipe_is_found_by_name_unless_a_file_here_has_it(folder: Path) -> None:
    both = cli.parse(RunConfig, ["--config", "imdb.yaml", "--config=quickstart", "--epochs", "9"], prog="test")
    assert (both.run, both.epochs) == ("runs/quickstart", 9)
    assert cli.parse(RunConfig, ["--config", "pretrain/imdb"], prog="test").task == "language_model"
    (folder / "imdb.yaml").write_text("run: mine\n")
    assert cli.parse(RunConfig, ["--config", "imdb"], prog="test").run == "mine"


def test_recipes_are_listed_and_copied_to_where_a_checkout_has_them(folder: Path, capsys) -> None:
    assert harness(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert " ".join(re.findall(r"^  (\S+) ", shown.partition("pretrain:")[0], re.MULTILINE)) == TRAIN
    assert set(re.findall(r"^(\w+):", shown, re.MULTILINE)) == {path.name for path in configuration.SHIPPED.iterdir()}
    harness(["recipes", "imdb", "accelerate/cpu"])
    copied = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.yaml"))
    places = ("accelerate/cpu", "preprocess/imdb", "pretrain/imdb", "train/imdb")
    assert copied == sorted(capsys.readouterr().out.split()) == [f"configs/{place}.yaml" for place in places]
    mine = folder / "configs/train/imdb.yaml"
    mine.write_text("epochs: 1\n")
    harness(["recipes", "imdb", "--overwrite"])
    assert mine.read_bytes() == configuration.file_of("train", "imdb").read_bytes()


def begun(run: Path, state: str, day: int, accuracy: float) -> None:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: data/mine\n")
    lines = [{"kind": "validation", "step": 5, "accuracy": one, "best": one == accuracy} for one in (accuracy, 0.1)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "status.json").write_text(json.dumps({"state": state, "step": 10}))
    write_figures(run, "test", {"accuracy": accuracy - 0.25})
    os.utime(run / "status.json", (day * 86_400, day * 86_400))


def test_runs_are_listed_newest_first(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun(Path("runs/old"), "finished", 1, 0.75)
    begun(Path("runs/a/seed-0"), "running", 5, 0.5)
    Path("runs/a/seed-0/test.json").write_text("{}")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"( +\d{4}-\S+ \S+)? +", " ", line) for line in lines] == [
        "run data step best test when state",
        "runs/a/seed-0 data/mine 10 0.5000 interrupted",
        "runs/old data/mine 10 0.7500 0.5000 finished",
    ]
    assert max(map(len, lines)) <= 80
    assert main(["runs", "runs/old", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["run"], one["best"], one["state"]) == ("runs/old", 0.75, "finished")


def test_a_written_configuration_is_one_for_both_commands(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(*row, "fr") for row in reviews(60)]
    write_csv(tmp_path / "mine.csv", rows, ("avis", "note", "langue"), delimiter=";")
    assert main(["init", "mine.csv", "--source.where", "langue:fr"]) == 0
    content = (tmp_path / "mine.yaml").read_text()
    assert "# source: mine.csv: delimiter ';'\n" in content
    assert (
        "  # Column that holds the label; auto: label, or the one that looks like it.\n  source.label_column: "
        in content
    )
    prepared = cli.parse(PreprocessConfig, ["--config", "mine.yaml"], prog="test")
    assert (prepared.output, prepared.source.path, prepared.source.where) == (
        "data/mine",
        ["mine.csv"],
        {"langue": "fr"},
    )
    assert (prepared.source.text_column, prepared.source.label_column) == ("avis", "note")
    trained = cli.parse(LaunchRecipe, ["--config", "mine.yaml"], prog="test")
    assert trained == cli.parse(LaunchRecipe, ["--data", "data/mine"], prog="test")
