# SPDX-License-Identifier: Apache-2.0
"""``bench train`` as users run it: every contender trains on the same rows, in processes that end with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import run_module, succeed
from tests.datasets import write_dataset

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "data"
    root.mkdir()
    write_dataset(root, {"train": 200, "validation": 20})
    return root


SMALL = ("--model.embedding_dim", "8", "--model.hidden_size", "8", "--batch", "16", "--steps", "2", "--rounds", "2")


@pytest.mark.slow
def test_ratios_are_those_of_the_medians(data: Path) -> None:
    values = json.loads(succeed(run_module("harness", "bench", "train", "--data", data, "--json", *SMALL)).stdout)
    assert values["unit"] == "tokens/s"
    assert set(values["peers"]) == {"notebook loop (padded to the maximum, random order)", "packed loop (random order)"}
    for name, speed in values["peers"].items():
        assert speed > 0
        assert values["ratios"][name] == pytest.approx(values["ours"] / speed)
    details = values["ours_details"]
    assert 0 <= details["padding"] < 0.5
    assert 0 <= details["data_wait"] < 1
    assert 0 < details["mfu"] < 1


@pytest.mark.slow
def test_no_step_is_short_enough(data: Path) -> None:
    result = run_module("harness", "bench", "train", "--data", data, "--max_length", "1", *SMALL)
    assert result.returncode == 2
    assert result.stderr.strip().endswith(f"max_length: 1: no step of {data} holds only rows that short")
