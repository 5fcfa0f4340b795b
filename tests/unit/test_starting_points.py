# SPDX-License-Identifier: Apache-2.0
"""``checkpoint RUN``: checkpoints that a run can resume from, and whether they are valid; ``runs``; ``init FILE``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import torch

from harness.__main__ import main
from harness.config import LaunchRecipe
from harness.rundir import checkpoint
from harness.rundir.results import write_figures
from harness.training.run import Selection
from preprocessing.base import cli
from preprocessing.config import PreprocessConfig
from tests import checkpoints
from tests.commands import unwrapped
from tests.corpora import reviews, write_csv


def test_every_checkpoint_is_listed_and_damage_is_an_exit_code(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: data/mine\n")
    selection = Selection("accuracy", best=0.5, best_step=10).state()
    for step in (10, 20):
        trainer = {**checkpoints.state_of(step)["trainer"], "epochs_done": step // 10}
        checkpoints.write(run, step, {"weight": torch.zeros(2)}, trainer=trainer, selection=selection)
    path = checkpoint.path_of(run, 10) / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["checkpoint", str(run)]) == 3
    said = unwrapped(capsys.readouterr().out)
    assert f"damaged: {path}: its sha256" in said
    assert re.search(r"step-00000020 \d+ kB, whole, 2 epochs, best so far: step 10$", said)
    assert main(["checkpoint", str(run), "--json"]) == 3
    assert [one["damage"] is None for one in json.loads(capsys.readouterr().out)] == [False, True]


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
