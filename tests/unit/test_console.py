# SPDX-License-Identifier: Apache-2.0
"""What a training says fits 80 columns: start, rows, validations, results and end; and what gives way below that."""

from __future__ import annotations

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
from harness.scores.tables import classes_table, figures_table
from harness.training.console import Console, StepTable, facts, validation_line
from harness.training.probe import Rehearsal
from harness.training.sinks import Ending
from preprocessing.base.screen import cells
from preprocessing.dataset.shards import Manifest, ShardInfo

SIZES = {"train": (900, 4_000_000), "validation": (10, 40), "test": (8, 32)}
"""Rows of the smallest class and of all others, by split."""
LONG = "a label that somebody wrote as a whole sentence, with commas and all that"
CHOICES = {
    "device": Choice("cuda", "GPUs are there, one for each process of this machine"),
    "recurrence": Choice(
        "padded bf16", "cuDNN's persistent kernels take padded input up to 128 hidden units; cuDNN 9.19"
    ),
}


def manifest(names: list[str], *, test: bool = True) -> Manifest:
    """A dataset of which only the manifest is there; its last class has the fewest rows."""
    splits = {}
    for split, (few, many) in SIZES.items():
        counts = {str(number): many for number in range(len(names))} | {str(len(names) - 1): few}
        rows = sum(counts.values())
        splits[split] = [ShardInfo(f"{split}/0.arrow", rows, 64, 0, "", {"60": rows}, counts, 60 * rows)]
    if not test:
        del splits["test"]
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
    """The content of ``test.json``, as far as the console reads it."""
    logits, labels = scored(names, "test")
    counted = {"lengths": np.full(len(labels), 60), "unknown": np.zeros(len(labels), np.int64)}
    return {"split": "test", **figures(logits, labels, **counted, names=names, decision=Decision(1.3))}


def step(number: int, **more: Any) -> dict[str, Any]:
    """A log line."""
    speed = {"tokens_per_s": 1_234_567.8, "data_wait": 0.123, "padding": 0.0567, "mfu": 0.41, "verdict": None}
    return {"step": number, "epoch": number / 62_500, "loss": 0.6931, "lr": 0.002, **speed, **more}


def a_run(directory: Path, found: Manifest, capsys: pytest.CaptureFixture[str], *, quiet: bool = False) -> str:
    """Everything that a run of two epochs prints."""
    config = RunConfig(data="data/reviews", run=str(directory), epochs=2, quiet=quiet, model=ModelConfig(num_layers=2))
    console = Console(config, found, total_steps=125_000)
    console.start(CHOICES)
    log = MetricsLog(directory)
    for epoch in range(2):
        line = step(62_500 * (epoch + 1))
        verdict = "data-bound on rank 0: it waited 12% of the time; use faster storage or stage the dataset"
        console.log("train", line | {"verdict": verdict})
        log.write("train", line)
        console.advance(line["step"])
        values = classification_metrics(*scored(found.labels, "validation"))
        validation = {"step": line["step"], "epoch": epoch + 1, **numbers_of(values), "best": epoch == 0}
        console.log("validation", validation)
        log.write("validation", validation)
        if epoch == 0:
            console.best(values)
    log.close()
    console.results(as_measured(found.labels) if "test" in found.splits else {})
    console.say("accuracy on test: network 0.8760 (0.8632 to 0.8884), linear model 0.8912: the network is 1.52 below")
    console.rehearsal(Rehearsal(0.1234, 64, 3000, 123_456_789), 10**9)
    for name in ("test.json", "report.html", "config.yaml"):
        (directory / name).touch()
    console.close(Ending("preempted", 62_500, 85, "SIGUSR2 received, which is what SLURM sends before the time is up"))
    console.close(Ending("finished", 125_000))
    return capsys.readouterr().out


NAMES = {
    "two": ["negative", "positive"],
    "five": ["world", "sports", "business", "science", LONG],
    "many": [f"intent {number}" for number in range(30)] + ["退款", LONG],
}


@pytest.mark.parametrize("kind", NAMES)
def test_no_line_of_a_run_is_wider_than_eighty_columns(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    shown = a_run(Path("run"), manifest(NAMES[kind]), capsys)
    lines = shown.splitlines()
    assert len(lines) > 50
    assert [line for line in lines if cells(line) > 80] == []
    assert "\x1b" not in shown
    for word in (
        "classes ",
        "imbalance ",
        "2-layer BiLSTM",
        "step",
        "62,500/125,000",
        "epoch 2/2",
        "calibration on test",
    ):
        assert word in shown


def test_a_quiet_run_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert a_run(tmp_path, manifest(NAMES["two"]), capsys, quiet=True) == ""


def test_without_a_test_split_the_validation_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = a_run(tmp_path, manifest(NAMES["two"], test=False), capsys).splitlines()
    at = lines.index("classes of validation:")
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["class", "negative", "positive"]
    assert lines[at + 3].split()[-2:] == ["10", "20%"]


def test_validation_and_test_stand_side_by_side() -> None:
    test = {"rows": 2500, "accuracy": 0.876, "f1": 0.8762, "intervals": {"accuracy": [0.8632, 0.8884]}}
    validation = {"rows": 2500, "accuracy": 0.89, "f1": 0.88, "roc_auc": None}
    splits = {"validation": validation, "test": test}
    assert figures_table(splits, ["bad", "good"], 80) == [
        "            validation    test  95 %",
        "rows             2,500   2,500",
        "accuracy        0.8900  0.8760  0.8632 to 0.8884",
        "F1 of good      0.8800  0.8762",
    ]
    assert figures_table(splits, ["a", "b", "c"], 40)[2:] == [
        "accuracy        0.8900  0.8760",
        "F1 (macro)      0.8800  0.8762",
    ]


def test_of_many_classes_the_worst_are_shown_first() -> None:
    entries = [
        {"label": f"class {number}", "rows": 10, "precision": 0.5, "recall": 0.5, "f1": number / 20}
        for number in range(12)
    ]
    entries[7] |= {"precision": None, "f1": None}
    lines = classes_table(entries, 80, most=3)
    assert lines == [
        "class    precision  recall     F1  rows  of all",
        "class 0      0.500   0.500  0.000    10    8.3%",
        "class 1      0.500   0.500  0.050    10    8.3%",
        "class 2      0.500   0.500  0.100    10    8.3%",
        "… the 3 worst of 12 classes by F1",
    ]
    few = classes_table(entries[6:8], 80)
    assert [line.split()[1] for line in few[1:]] == ["6", "7"]
    assert few[2].split()[2] == "–"
    assert max(cells(line) for line in classes_table([{**entries[0], "label": LONG}], 50)) <= 50


def test_columns_of_a_row_give_way_in_order_of_importance() -> None:
    shown = {}
    for width in (80, 76, 72, 64, 56, 40, 32, 30):
        (head,), row = StepTable(125_000)(step(20), 12345.0, width)
        assert cells(head) == cells(row) <= width
        shown[width] = head.split()
    everything = ["step", "epoch", "loss", "lr", "tokens/s", "left", "wait", "padding", "mfu"]
    gone = {80: [], 76: ["mfu"], 72: ["mfu", "wait"], 64: ["mfu", "wait", "padding"]}
    gone[56] = [*gone[64], "lr"]
    gone[40] = [*gone[56], "tokens/s"]
    gone[32] = [*gone[40], "epoch"]
    gone[30] = [*gone[32], "left"]
    assert shown == {width: [name for name in everything if name not in gone[width]] for width in shown}


def test_the_head_comes_again_after_twenty_rows_and_where_columns_change() -> None:
    rows = StepTable(1000)
    heads = [bool(rows(step(number), 60.0, 80)[0]) for number in range(1, 43)]
    assert [number for number, head in enumerate(heads) if head] == [0, 20, 40]
    assert rows(step(44), 60.0, 50)[0] != []
    without = rows(step(45, mfu=None), 60.0, 80)[0]
    assert "mfu" not in without[0]


def test_a_validation_says_how_uncertain_it_is() -> None:
    values = {"epoch": 2, "rows": 400, "accuracy": 0.88, "f1": 0.8712, "log_loss": 0.3012, "best": True}
    line = validation_line(values, 4, 2, "accuracy", 80)
    assert line == "epoch 2/4  accuracy 0.8800 ± 0.0319*  F1 0.8712  log loss 0.3012  best"
    other = validation_line({**values, "best": False}, 4, 5, "accuracy", 60)
    assert other == "epoch 2/4  accuracy 0.8800 ± 0.0319*  log loss 0.3012"


@pytest.mark.parametrize("width", [80, 50])
def test_the_figure_that_chooses_the_epoch_is_shown_and_marked(width: int) -> None:
    values = {"epoch": 2, "rows": 400, "accuracy": 0.88, "f1": 0.8712, "log_loss": 0.3012, "best": True}
    by_loss = validation_line(values, 4, 2, "loss", width)
    assert by_loss.endswith("  log loss 0.3012*  best")
    calibrated = validation_line({**values, "calibrated_log_loss": 0.2512}, 4, 2, "calibrated", width)
    assert calibrated.endswith("  calibrated 0.2512*  best")
    config, found = RunConfig(select="calibrated"), manifest(NAMES["two"])
    assert facts(config, found, 100)[0]["best epoch"] == (
        "the one with the lowest calibrated log loss on validation, marked *"
    )


def test_a_damaged_log_is_said_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text("{\n{}\n")
    found = manifest(NAMES["two"])
    Console(RunConfig(run=str(tmp_path)), found, total_steps=10).results(as_measured(found.labels))
    shown = capsys.readouterr().out
    assert "warning: no table of validation" in shown
    assert "calibration on test: temperature 1.300" in shown


def test_the_time_left_is_that_of_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.training import console

    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    one = Console(RunConfig(), manifest(NAMES["two"]), total_steps=100, first_step=40)
    now[0] += 20
    one.step = 50
    assert one.left() == pytest.approx(100)
