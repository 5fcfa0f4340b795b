# SPDX-License-Identifier: Apache-2.0
"""What a training prints and logs: few lines, of 80 columns; a narrow terminal drops columns."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import ModelConfig, RunConfig
from harness.ranks.precision import Choice
from harness.rundir.metrics_log import MetricsLog
from harness.scores.calibration import Decision
from harness.scores.figures import figures, numbers_of
from harness.scores.metrics import classification_metrics
from harness.training.console import Console
from harness.training.writer import Ending
from preprocessing.base.terminal import cells
from preprocessing.dataset.shards import Manifest, ShardInfo

SIZES = {"train": (900, 4_000_000), "validation": (10, 40), "test": (8, 32)}
"""Rows of the smallest class and of all others, by split."""
LONG = "a label that somebody wrote as a whole sentence, with commas and all that"
CHOICES = {
    "device": Choice("cuda", "GPUs are there, one for each process of this machine"),
    "precision": Choice("bf16", "the device has it"),
    "processes": Choice("8", "as launched"),
    "recurrence": Choice(
        "padded bf16", "cuDNN's persistent kernels take padded input up to 128 hidden units; cuDNN 9.19"
    ),
}


def manifest(names: list[str]) -> Manifest:
    """A manifest without a dataset; its last class has the fewest rows."""
    splits = {}
    for split, (few, many) in SIZES.items():
        counts = {str(number): many for number in range(len(names))} | {str(len(names) - 1): few}
        rows = sum(counts.values())
        splits[split] = [ShardInfo(f"{split}/0.arrow", rows, 64, 0, "", {"60": rows}, counts, 60 * rows)]
    return Manifest(names, splits, "uint16", 64, 30_000, "", {}, "")


def scored(names: list[str], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a split; one row in five is wrong, and more of the last class."""
    few, many = SIZES[split]
    labels = np.repeat(np.arange(len(names)), [many] * (len(names) - 1) + [few])
    random = np.random.default_rng(0)
    said = np.where(random.random(len(labels)) < 0.2 + 0.3 * (labels == len(names) - 1), 0, labels)
    logits = 3.0 * np.eye(len(names))[said] + random.random((len(labels), len(names)))
    return (logits if len(names) > 2 else logits[:, 1] - logits[:, 0]), labels


def as_measured(names: list[str]) -> dict[str, Any]:
    """The part of ``test.json`` that the console reads."""
    logits, labels = scored(names, "test")
    counted = {"lengths": np.full(len(labels), 60), "unknown": np.zeros(len(labels), np.int64)}
    return {"split": "test", **figures(logits, labels, **counted, names=names, decision=Decision(1.3))}


def step(number: int, **more: Any) -> dict[str, Any]:
    """A log line."""
    speed = {"tokens_per_s": 1_234_567.8, "data_wait": 0.123, "padding": 0.0567, "verdict": None}
    return {"step": number, "epoch": number / 62_500, "loss": 0.6931, "lr": 0.002, **speed, **more}


FINISHED = Ending("finished", 125_000)
STOPPED = Ending("preempted", 62_500, 85, "SIGUSR2 received, which is what SLURM sends before the time is up")


def a_run(directory: Path, found: Manifest, ending: Ending = FINISHED, **more: bool) -> None:
    """Print a run of two epochs."""
    config = RunConfig(data="data/reviews", run=str(directory), epochs=2, model=ModelConfig(num_layers=2), **more)
    console = Console(config, found, total_steps=125_000, logs=True)
    console.start(CHOICES)
    log = MetricsLog(directory)
    for epoch in range(2):
        line = step(62_500 * (epoch + 1))
        verdict = "data-bound: a rank waited 12% of the time; use faster storage or stage the dataset"
        console.log("train", line | {"verdict": verdict})
        log.write("train", line)
        console.advance(line["step"])
        values = classification_metrics(*scored(found.labels, "validation"))
        validation = {"step": line["step"], "epoch": epoch + 1, **numbers_of(values), "best": epoch == 0}
        console.log("validation", validation)
        log.write("validation", validation)
    console.results({"test": as_measured(found.labels)})
    console.say("accuracy on test: network 0.8760 (0.8632 to 0.8884), linear model 0.8912: the network is 1.52 below")
    console.rehearsal(0.1234, 64, 123_456_789, 41_133.0)
    for name in ("test.json", "report.html", "config.yaml"):
        (directory / name).touch()
    console.close(ending)


NAMES = {
    "two": ["negative", "positive"],
    "many": [f"intent {number}" for number in range(30)] + ["退款", LONG],
}


@pytest.mark.parametrize("kind", NAMES)
def test_little_is_printed_and_the_log_has_it_all_without_a_line_wider_than_eighty_columns(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    a_run(Path("run"), manifest(NAMES[kind]))
    said, log = capsys.readouterr().out, Path("run/log.txt").read_text()
    assert [line for line in (said + log).splitlines() if cells(line) > 80] == []
    assert [line.split(" ")[0] for line in said.splitlines()[:5]] == ["data", "model", "training", "device", "run"]
    assert len(said.splitlines()) < 30 < len(log.splitlines())
    for line in said.splitlines():
        assert line in log.splitlines()
    for word in ("classes ", "cuDNN's persistent kernels", "calibration on test", "recall"):
        assert word in log
        assert word not in said
    assert said.count("data-bound") == 1
    a_run(Path("run"), manifest(NAMES[kind]), STOPPED, verbose=True)
    a_run(Path("run"), manifest(NAMES[kind]), quiet=True)
    assert "cuDNN's persistent kernels" in capsys.readouterr().out
    assert Path("run/log.txt").read_text().count("62,500 steps of") == 3


def shown(directory: Path, capsys: pytest.CaptureFixture[str], **values: Any) -> list[list[str]]:
    """The head and the row of a validation."""
    select = values.pop("select", "accuracy")
    console = Console(RunConfig(run=str(directory), epochs=4, select=select), manifest(NAMES["two"]), 125_000)
    console.log("train", step(20))
    console.log("validation", values)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


VALIDATED = {"epoch": 2, "step": 62_500, "rows": 400, "accuracy": 0.88, "f1": 0.8712, "log_loss": 0.3012, "best": True}


def test_a_validation_says_how_uncertain_it_is_and_marks_what_chooses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, row = shown(tmp_path, capsys, **VALIDATED)
    assert head == ["epoch", "step", "loss", "accuracy*", "F1", "log", "loss", "time"]
    assert row == ["2/4", "62,500", "0.6931", "0.8800", "±", "0.0319", "0.8712", "0.3012", "0s", "best"]
    head, row = shown(tmp_path, capsys, **VALIDATED, select="calibrated", calibrated_log_loss=0.2512)
    assert head == ["epoch", "loss", "accuracy", "F1", "log", "loss", "calibrated*", "time"]
    assert row == ["2/4", "0.6931", "0.8800", "±", "0.0319", "0.8712", "0.3012", "0.2512", "0s", "best"]


def test_the_first_step_after_a_start_counts_in_no_estimate_of_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(RunConfig(run=str(tmp_path), epochs=4), manifest(NAMES["two"]), 400, first_step=100)
    for now[0], number in ((50.0, 101), (51.0, 102), (60.0, 111)):
        assert "left" not in str(console.state()) or number > 102
        console.advance(number)
    console.log("train", step(111))
    share, texts = console.state()
    assert share == 111 / 400
    assert texts == ["epoch 2/4", "step 111/400", "loss 0.693", "1,234,568 tok/s", "4m49s left", "wait 12.3%"]
