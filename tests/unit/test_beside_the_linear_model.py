# SPDX-License-Identifier: Apache-2.0
"""What is said of a run beside the linear model: figures, a verdict, what trackers keep."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.baseline import command
from harness.baseline.command import BaselineConfig
from harness.baseline.compare import compare
from harness.baseline.results import read_results
from harness.report.beside import BaselineSink
from harness.training.sinks import Ending, Sink
from preprocessing.base.readable import duration
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset

ROWS = {"train": 400, "validation": 120, "test": 90}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A dataset, to be written in."""
    write_dataset(tmp_path / "own", ROWS)
    return tmp_path / "own"


def test_which_is_ahead_and_whether_it_is_worth_its_time() -> None:
    linear_model = {"validation": {"accuracy": 0.88}, "test": {"accuracy": 0.90, "seconds": 3.2}}
    better = {"accuracy": 0.95, "intervals": {"accuracy": [0.93, 0.97]}}
    ahead = compare(better, [], linear_model)
    assert ahead is not None
    assert ahead.figures == (
        "accuracy on test: network 0.9500 (0.9300 to 0.9700), linear model 0.9000: "
        "the network is 5.00 points above the linear model"
    )
    assert ahead.verdict is None
    behind = compare({"accuracy": 0.89, "intervals": {"accuracy": [0.87, 0.91]}}, [], linear_model)
    assert behind is not None
    assert behind.figures.endswith("the network is 1.00 points below the linear model")
    assert behind.verdict == (
        "the network is not worth its time here: the interval of its accuracy begins at 0.8700, "
        "which is not above the 0.9000 that the linear model reached in 3s"
    )
    touching = compare({"accuracy": 0.91, "intervals": {"accuracy": [0.90, 0.92]}}, [], linear_model)
    assert touching is not None
    assert touching.verdict is not None


def test_without_a_test_split_the_best_validation_stands_beside_it() -> None:
    lines = [{"accuracy": value, "best": best} for value, best in ((0.70, True), (0.88, True), (0.86, False))]
    found = compare(None, lines, {"validation": {"accuracy": 0.88, "rows": 400}})
    assert found is not None
    assert (found.split, found.network["accuracy"]) == ("validation", 0.88)
    assert found.figures.endswith("the network is as good as the linear model")
    assert found.interval == pytest.approx((0.8445, 0.9082), abs=1e-4)  # Wilson's, 352 of 400
    assert compare(None, lines, {}) is None
    assert compare(None, [], {"validation": {"accuracy": 0.88, "rows": 400}}) is None
    both = {"validation": {"accuracy": 0.88, "rows": 400}, "test": {"accuracy": 0.9, "rows": 300}}
    assert compare(None, lines, both) is None  # its test is still to come


class Heard(Sink):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.summaries: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)

    def summarize(self, name: str, values: dict[str, Any]) -> None:
        self.summaries |= {f"{name}/{key}": value for key, value in values.items()}


def finished_run(run: Path, fingerprint: str) -> None:
    """What of a run's directory tells how good it is."""
    (run / "bundle").mkdir(parents=True)
    (run / "bundle" / "bundle.json").write_text(json.dumps({"dataset": fingerprint}))
    test = {"format": "padless-evaluation", "format_version": 1, "accuracy": 0.5, "intervals": {"accuracy": [0.4, 0.6]}}
    (run / "test.json").write_text(json.dumps(test))


def test_the_end_of_a_run_says_how_the_linear_model_does(own: Path, tmp_path: Path) -> None:
    run, fingerprint = tmp_path / "run", read_manifest(own).fingerprint
    finished_run(run, fingerprint)
    heard = Heard()
    sink = BaselineSink(run, own, heard)
    sink.close(Ending("finished", 10))
    assert heard.lines == []  # nothing was measured yet
    command.main(BaselineConfig(data=str(own), json=True))
    reached = read_results(own, fingerprint)["test"]
    sink.close(Ending("failed", 10, 1, "broken"))
    assert heard.lines == []
    sink.close(Ending("finished", 10))
    points = 100 * (reached["accuracy"] - 0.5)
    assert heard.lines == [
        f"accuracy on test: network 0.5000 (0.4000 to 0.6000), linear model {reached['accuracy']:.4f}: "
        f"the network is {points:.2f} points below the linear model",
        "the network is not worth its time here: the interval of its accuracy begins at 0.4000, "
        f"which is not above the {reached['accuracy']:.4f} that the linear model reached in "
        f"{duration(reached['seconds'])}",
    ]
    assert heard.summaries["baseline/accuracy"] == reached["accuracy"]
    assert heard.summaries["baseline/difference"] == 0.5 - reached["accuracy"]
    assert heard.summaries["baseline/rows"] == ROWS["test"]


def test_the_end_of_a_run_survives_a_damaged_result(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run(tmp_path / "run", read_manifest(own).fingerprint)
    (own / "baseline").mkdir()
    (own / "baseline" / "test.json").write_text("{")
    heard = Heard()
    BaselineSink(tmp_path / "run", own, heard).close(Ending("finished", 10))
    assert heard.lines == []
    assert capsys.readouterr().err.startswith("warning: no linear model beside the run (")


def test_wandb_keeps_it_in_the_summary(tmp_path: Path) -> None:
    from harness.tracking.wandb_run import WandbTracker

    run = SimpleNamespace(summary={})
    tracker = WandbTracker("wandb", tmp_path, {}, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    tracker.tracker = SimpleNamespace(run=run)
    tracker.summarize("baseline", {"accuracy": 0.9, "roc_auc": None})
    assert run.summary == {"baseline/accuracy": 0.9}
