# SPDX-License-Identifier: Apache-2.0
"""``status.json`` says why a run could not be built without padless's launcher, whichever rank met the error: by two
ranks, and under bare ``accelerate launch``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import accelerate
from tests.datasets import write_dataset
from tests.runs import TRAINING, train_to_end

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bare") / "data"
    write_dataset(path, {"train": 64, "validation": 16})
    return path


def by_ranks(*words: object) -> int:
    return train_to_end(*words, processes=2, module="tests.planted").returncode


def by_accelerate(*words: object) -> int:
    return accelerate("tests.planted", *words, timeout_s=90).returncode


@pytest.mark.parametrize("started", [by_ranks, pytest.param(by_accelerate, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("function", "rank", "reason"),
    [
        ("build_trainer", 0, "PlantedError: planted in build_trainer"),
        ("StopWatch", 1, "rank 1: PlantedError: planted in StopWatch"),
        ("build_trainer", 1, "rank 0 at step 0 waited for measuring the devices from 1 other ranks"),
    ],
)
def test_the_reason_is_in_the_status(
    data: Path, tmp_path: Path, function: str, rank: int, reason: str, started: Callable[..., int]
) -> None:
    keys = ("--data", data, "--run", tmp_path / "run", *TRAINING)
    assert started(function, rank, *keys) == 1
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert status["reason"].startswith(reason)
