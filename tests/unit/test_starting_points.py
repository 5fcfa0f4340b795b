# SPDX-License-Identifier: Apache-2.0
"""``runs`` and ``init FILE``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.config import LaunchRecipe
from harness.rundir.results import write_figures
from preprocessing.base import cli
from preprocessing.config import PreprocessConfig
from tests.corpora import reviews, write_csv


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
