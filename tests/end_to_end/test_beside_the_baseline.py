# SPDX-License-Identifier: Apache-2.0
"""A linear model, then a network on the same dataset: what the run's last lines, its report and W&B say of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import PLAIN, run_module, succeed, unwrapped
from tests.datasets import write_dataset
from tests.patient import LIMIT_S
from tests.unit.test_report_page import words

SMALL = (
    *PLAIN,
    *("--model.embedding_dim", 8, "--model.hidden_size", 8),
    *("--precision", "fp32", "--device", "cpu", "--epochs", 1),
)


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_is_held_against_the_linear_model(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    from tests.end_to_end.test_wandb import inspect, offline

    data, run = tmp_path / "data", tmp_path / "run"
    write_dataset(data, {"train": 200, "validation": 60, "test": 80}, num_classes=3)
    linear = json.loads(succeed(run_module("harness", "baseline", "--data", data, "--json")).stdout)["test"]
    tracked = ("--tracking.tracker", "wandb")
    launched = ("launch", "--data", data, "--run", run, *SMALL, *tracked)
    result = succeed(run_module("harness", *launched, timeout_s=4 * LIMIT_S, **offline(run)))

    network = json.loads((run / "test.json").read_text())
    points = 100 * (network["accuracy"] - linear["accuracy"])
    shown = (
        f"accuracy on test: network {network['accuracy']:.4f}, linear model {linear['accuracy']:.4f}: {points:+.2f} "
        "points (95 %: "
    )
    lines = unwrapped(result.stdout).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(shown))
    assert any(line.startswith("note  no better than the majority class (") for line in lines[:place])
    assert lines[place + 1].startswith("the network is below the linear model, which took ")  # one epoch of a small one

    page = words(run / "report.html")
    assert f"linear model {linear['accuracy']:.4f} {linear['balanced_accuracy']:.4f} {linear['f1']:.4f}" in page
    assert "The network is below the linear model, which took" in page
    assert f"A{lines[place][1:]}." in page

    (folder,) = (run / "wandb").glob("offline-run-*")
    updates = [record["summary"]["update"] for record in inspect(folder, tmp_path) if record["type"] == "summary"]
    (kept,) = [update for update in updates if "baseline/accuracy" in update]
    assert kept["baseline/accuracy"] == linear["accuracy"]
    assert kept["baseline/difference"] == network["accuracy"] - linear["accuracy"]
