# SPDX-License-Identifier: Apache-2.0
"""Commands on a card, as a user runs them: launch in every precision, a stop signal, evaluate, doctor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.commands import read_metrics, run_module, succeed
from tests.gpu.device import DEVICE, ON_CUDA, long_on_a_cpu, needs, on_device
from tests.gpu.launching import one_process

pytestmark = [on_device, pytest.mark.processes, long_on_a_cpu]


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp16"])
def trained(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in each precision."""
    needs(request.param)
    run = tmp_path_factory.mktemp(request.param) / "run"
    keys = ("--epochs", 3, "--precision", request.param, "--global_batch", 32)
    small = ("--model.embedding_dim", 32, "--model.hidden_size", 32, "--optim.lr", 0.01, "--device", DEVICE)
    succeed(run_module("harness", "launch", *one_process(DEVICE), "--data", dataset, "--run", run, *keys, *small))
    return run


def precision_of(run: Path) -> str:
    return run.parent.name.removesuffix("0")


def test_a_run_on_one_card_ends_well(trained: Path) -> None:
    effective = json.loads((trained / "environment.json").read_text())["effective"]
    assert effective["device"].startswith(DEVICE)
    layout, _, dtype = effective["recurrence"].partition(":")[0].partition(" ")
    assert layout in ("packed", "padded")
    assert dtype in ({"fp32": ("", "fp32"), "bf16": ("bf16", "fp32"), "fp16": ("fp16",)}[precision_of(trained)])
    assert json.loads((trained / "test.json").read_text())["accuracy"] > 0.8
    losses = [line["loss"] for line in read_metrics(trained, "train")]
    assert losses[-1] < losses[0]


def test_evaluation_is_that_of_a_cpu(trained: Path, dataset: Path, tmp_path: Path) -> None:
    found = []
    for device in (DEVICE, "cpu"):
        output = tmp_path / device
        keys = ("--run", trained, "--data", dataset, "--device", device, "--output", output)
        succeed(run_module("harness.evaluate", *keys))
        found.append(pd.read_parquet(output / "test-predictions.parquet"))
    card, cpu = found
    assert card["row"].tolist() == cpu["row"].tolist()
    numbers = list(cpu.select_dtypes("floating").columns)
    assert numbers
    for name in numbers:
        np.testing.assert_allclose(card[name], cpu[name], atol=1e-4)


def test_the_doctor_finds_nothing_to_mend(dataset: Path, tmp_path: Path) -> None:
    keys = ("--data", dataset, "--run", tmp_path / "run", "--device", DEVICE, "--json")
    report = json.loads(succeed(run_module("harness", "doctor", *keys)).stdout)
    assert report["exit_code"] == 0
    assert not [finding for finding in report["findings"] if finding["state"] == "fix"]
    assert not ON_CUDA or "cuda" in json.dumps(report).lower()
