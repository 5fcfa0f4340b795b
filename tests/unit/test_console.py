# SPDX-License-Identifier: Apache-2.0
"""What a training prints and logs: few lines, of 80 columns; a narrow terminal drops columns."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from harness.config import RunConfig
from harness.ranks.precision import Choice
from harness.rundir.metrics_log import read_log
from harness.rundir.records import Ending
from harness.rundir.results import read_figures
from harness.training.console import Console
from preprocessing.base.terminal import cells
from preprocessing.dataset.shards import Manifest, read_manifest
from tests.report_runs import write_data, write_run

CHOICES = {name: Choice("value", "a reason") for name in ("device", "precision", "processes", "recurrence")}
TRAINED = {"loss": 0.6931, "tokens_per_s": 1_234_567.8, "data_wait": 0.123, "verdict": None}
EMPTY = Manifest([], {}, "", "uint16", 64, 2, "", {}, "")
STOPPED = Ending("preempted", 50, 85, "SIGUSR2 received, which is what SLURM sends before the time is up")


def replay(ending: Ending, **more: Any) -> None:
    """Print the run in ``run``."""
    config = RunConfig(data="data", run="run", epochs=4, **more)
    console = Console(config, read_manifest("data"), total_steps=200, logs=True)
    console.start(CHOICES)
    for line in read_log(Path("run")):
        verdict = {"verdict": "data-bound: a rank waited 12% of the time; use faster storage or stage_dir"}
        console.log(line["kind"], TRAINED | verdict | line)
        console.advance(line["step"])
    console.results({"test": read_figures(Path("run"), "test") or {}})
    console.close(ending)


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [2, 40])
def test_little_is_printed_and_the_log_has_it_all_without_a_line_wider_than_eighty_columns(
    classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("run"), write_data(Path(), classes, 900))
    capsys.readouterr()
    replay(Ending("finished", 200))
    said, log = capsys.readouterr().out, Path("run/log.txt").read_text()
    assert [line for line in (said + log).splitlines() if cells(line) > 80] == []
    assert [line.split(" ")[0] for line in said.splitlines()[:5]] == ["data", "model", "training", "device", "run"]
    assert len(said.splitlines()) < 25
    assert set(said.splitlines()) <= set(log.splitlines())
    for word in ("started ", "recurrence value: a reason", "calibration on test", "recall"):
        assert word in log
        assert word not in said
    assert said.count("data-bound") == 1
    replay(STOPPED, verbose=True)
    replay(STOPPED, quiet=True)
    assert "recurrence value: a reason" in capsys.readouterr().out
    assert Path("run/log.txt").read_text().count("recurrence") == 3
    with Path("run/metrics.jsonl").open("a") as file:
        file.write("damaged\n")
    ended = Console(RunConfig(data="data", run="run"), read_manifest("data"), total_steps=200)
    ended.results({"test": read_figures(Path("run"), "test") or {}})
    assert capsys.readouterr().out.startswith("test  ")


def test_a_validation_says_how_uncertain_it_is_and_marks_what_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(RunConfig(run=str(tmp_path), epochs=4, select="calibrated"), EMPTY, 125_000)
    console.log("train", TRAINED)
    found = {"accuracy": 0.88, "f1": 0.8712, "log_loss": 0.3012, "calibrated_log_loss": 0.2512}
    console.log("validation", {"epoch": 2, "step": 62_500, "rows": 400, "best": True, **found})
    head, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["epoch", "loss", "accuracy", "F1", "log", "loss", "calibrated*", "time"]
    assert row == ["2/4", "0.6931", "0.8800", "±", "0.0319", "0.8712", "0.3012", "0.2512", "0s", "best"]


def test_the_first_step_after_a_start_counts_in_no_estimate_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(RunConfig(run=str(tmp_path), epochs=4), EMPTY, 400, first_step=100)
    for now[0], number in ((50.0, 101), (51.0, 102), (60.0, 111)):
        assert "left" not in str(console.state()) or number > 102
        console.advance(number)
    console.log("train", TRAINED)
    share, texts = console.state()
    assert share == 111 / 400
    assert texts == ["epoch 2/4", "step 111/400", "loss 0.693", "1,234,568 tok/s", "4m49s left", "wait 12.3%"]
