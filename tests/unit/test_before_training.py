# SPDX-License-Identifier: Apache-2.0
"""Output and checks before a training: rows of each class; settings that do not fit rows, memory or machines."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config import LaunchRecipe, OptimConfig, RunConfig
from harness.data.checks import imbalance
from harness.launch.options import split_arguments
from harness.model.registry import parameters_of
from harness.ranks.distributed import World
from harness.training.assembly import check_shared
from harness.training.preflight import check_data, check_room
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset

SIZES = {"train": 80, "validation": 20}


def test_the_limit_is_the_memory_that_the_processes_of_a_machine_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path, SIZES)
    manifest = read_manifest(tmp_path)
    config = RunConfig(data=str(tmp_path), device="cpu", global_batch=16)
    need = 16 * parameters_of(config, manifest)
    check_room(config, manifest, need)
    averaged = replace(config, optim=OptimConfig(ema=0.9))  # an average of the weights is as large as they
    for asked, limit in ((config, need - 1), (averaged, need)):
        with pytest.raises(ConfigError, match="parameters take"):
            check_room(asked, manifest, limit)
    monkeypatch.setattr("harness.training.preflight.memory_bytes", lambda: 4 * need)
    check_data(config, 8, here=4)  # on two machines
    with pytest.raises(ConfigError, match=r"parameters take .* in each of 8 processes"):
        check_data(config, 8, here=8)
    monkeypatch.setattr("harness.training.preflight.memory_bytes", lambda: need // 2)
    unknown = replace(config, device="auto")  # which may have memory of its own; all draw their weights here first
    check_room(unknown, manifest, processes=2)
    with pytest.raises(ConfigError, match="in each of 3 processes"):
        check_room(unknown, manifest, processes=3)


def test_imbalance_says_what_to_do() -> None:
    assert imbalance({"no": 450, "yes": 100}, {}) is None
    assert imbalance({"no": 9000, "yes": 100}, {}) == (
        "'yes' has 1.1% of the rows, 'no' 90 times as many: accuracy says little of it; look at balanced accuracy, and "
        """weigh small classes, as in --optim.class_weights '{"yes":9.5}'"""
    )
    assert imbalance({"no": 9000, "yes": 100}, {"yes": 3.0}) is None
    assert imbalance({"no": 9000, "yes": 100}, {}, "f1") is None


def test_options_of_accelerate_stand_anywhere() -> None:
    words = ["--cpu", "data/mine", "--epochs", "2", "--num_processes", "2", "-o", "r", "--num-machines=1", "--quiet"]
    options, ours = split_arguments(words, LaunchRecipe)
    assert options == ["--cpu", "--num_processes", "2", "--num-machines=1"]
    assert ours == ["data/mine", "--epochs", "2", "-o", "r", "--quiet"]
    words = ["--config_file", "a.yaml", "--", "--cpu"]
    assert split_arguments(words, LaunchRecipe) == (words[:2], words[2:])


class OnAnotherMachine(World):
    """A rank to which rank 0 names a file that it does not have; otherwise a world of one process."""

    def gather_objects(self, value: Any, what: str) -> list[Any]:
        return [".seen-there" if "file" in what else value]


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")


@pytest.mark.usefixtures("several")
def test_rank_0_sees_its_own_file_and_removes_it(tmp_path: Path) -> None:
    check_shared(tmp_path, World())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=rf"^{tmp_path / 'gone'}.*: gone while it was needed .*; put it back"):
        check_shared(tmp_path / "gone", World())


@pytest.mark.usefixtures("several")
def test_a_machine_with_a_directory_of_its_own_says_so(tmp_path: Path) -> None:
    started = time.monotonic()
    said = rf"run: {tmp_path} on .* is not the directory that rank 0 writes to"
    with pytest.raises(ConfigError, match=said):
        check_shared(tmp_path, OnAnotherMachine(rank=1, timeout_s=1))
    assert time.monotonic() - started < 60
