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
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig
from tests import checkpoints
from tests.commands import unwrapped
from tests.corpora import reviews, write_csv


def test_every_checkpoint_is_listed_and_damage_is_an_exit_code(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "status.json").write_text('{"state": "failed", "step": 20}')
    selection = Selection("accuracy", best=0.5, best_step=10).state()
    for step in (10, 20):
        trainer = {**checkpoints.state_of(step)["trainer"], "epochs_done": step // 10}
        checkpoints.write(run, step, {"weight": torch.zeros(2)}, trainer=trainer, selection=selection)
    assert main(["checkpoint", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"step 20    \d+ kB, whole, 2 epochs; best so far: accuracy 0.5000 at step 10", lines[1])
    path = run / "checkpoints" / "step-00000020" / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["checkpoint", str(run)]) == 3
    assert f"damaged: {path}: its sha256" in unwrapped(capsys.readouterr().out)
    assert main(["checkpoint", str(run), "--json", "true"]) == 3
    shown = json.loads(capsys.readouterr().out)
    assert [one["damage"] is None for one in shown] == [True, False]
    assert f"{path}: its sha256" in shown[1]["damage"]


def begun(run: Path, state: str, changed: int, accuracy: float) -> None:
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("data: data/mine\n")
    lines = [{"kind": "validation", "step": 5, "accuracy": one, "best": one == accuracy} for one in (accuracy, 0.1)]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run / "status.json").write_text(json.dumps({"state": state, "step": 10}))
    write_figures(run, "test", {"accuracy": accuracy - 0.25})
    os.utime(run / "status.json", (changed, changed))


def test_runs_are_listed_newest_first(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun(Path("runs/old"), "finished", 86_400, 0.75)
    begun(Path("runs/a/deep"), "running", 5 * 86_400, 0.5)
    for seed in (0, 1):
        begun(Path(f"runs/many/seed-{seed}"), ("finished", "failed")[seed], (3 + seed) * 86_400, 0.5 + seed / 4)
    (tmp_path / "runs/a/deep/test.json").write_text("{}")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(re.sub(r"\d\d-\d\d-\d\d \d\d:\d\d", "then", line).split()) for line in lines] == [
        "run data step val acc test acc changed state",
        "runs/a/deep data/mine 10 0.5000 then interrupted",
        "runs/many data/mine 10 0.6250 0.3750 then 1/2 done",
        "runs/old data/mine 10 0.7500 0.5000 then finished",
    ]
    assert max(map(len, lines)) <= 80
    assert main(["runs", "runs/old", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["run"], one["validation"], one["state"]) == ("runs/old", 0.75, "finished")


def test_a_written_configuration_is_one_for_both_commands(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(text, label if at else "", f"film {at % 9}") for at, (text, label) in enumerate(reviews(60))]
    write_csv(tmp_path / "mine.csv", rows, ("avis", "note", "film"), delimiter=";")
    assert main(["init", "mine.csv"]) == 0
    content = (tmp_path / "mine.yaml").read_text()
    assert "# labels of the 60 rows looked at: 'positive (30)', 'negative (29)'" in content
    assert (
        "    # Column that holds the label; auto: label, or the one that looks like it.\n    label_column: note"
        in content
    )
    prepared = cli.parse(PreprocessConfig, ["--config", "mine.yaml"], prog="test")
    assert (prepared.output, prepared.source.path, prepared.source.delimiter) == ("data/mine", ["mine.csv"], ";")
    assert (prepared.source.label_column, prepared.source.missing_label) == ("note", "drop")
    trained = cli.parse(LaunchRecipe, ["--config", "mine.yaml"], prog="test")
    assert trained == cli.parse(LaunchRecipe, ["--data", "data/mine"], prog="test")
    with pytest.raises(ConfigError, match=r"mine.yaml: is there already; name another file with -o"):
        main(["init", "mine.csv"])
