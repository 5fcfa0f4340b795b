# SPDX-License-Identifier: Apache-2.0
"""A network that no memory holds is refused before anything is allocated, with what it would take."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import OptimConfig, RunConfig
from harness.model.registry import parameters_of
from harness.training.preflight import check_data, check_room
from preprocessing.base.errors import ConfigError
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset

SIZES = {"train": 80, "validation": 20}


def test_the_limit_is_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, SIZES)
    manifest = read_manifest(tmp_path)
    config = RunConfig(data=str(tmp_path), device="cpu")
    need = 16 * parameters_of(config, manifest)
    check_room(config, manifest, need)
    with pytest.raises(ConfigError, match="parameters take"):
        check_room(config, manifest, need - 1)
    with pytest.raises(ConfigError, match="parameters take"):  # an average of the weights is as large as they
        check_room(RunConfig(data=str(tmp_path), device="cpu", optim=OptimConfig(ema=0.9)), manifest, need)
    unknown = RunConfig(data=str(tmp_path), device="auto")  # a device that nobody has looked at has memory of its own
    monkeypatch.setattr("harness.training.preflight.memory_bytes", lambda: need // 4)
    check_room(unknown, manifest)
    monkeypatch.setattr("harness.training.preflight.memory_bytes", lambda: need // 4 - 1)
    with pytest.raises(ConfigError, match=r"\(weights\)"):
        check_room(unknown, manifest)


def test_the_processes_of_a_machine_share_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path, SIZES)
    manifest = read_manifest(tmp_path)
    config = RunConfig(data=str(tmp_path), device="cpu", global_batch=16)
    parameters = parameters_of(config, manifest)
    monkeypatch.setattr("harness.training.preflight.memory_bytes", lambda: 4 * 16 * parameters)
    check_data(config, 8, here=4)  # on two machines
    with pytest.raises(ConfigError, match=r"parameters take .*, .* in each of 8 processes"):
        check_data(config, 8, here=8)
    monkeypatch.setattr("harness.training.preflight.memory_bytes", lambda: 2 * 4 * parameters)
    unknown = RunConfig(data=str(tmp_path), device="auto", global_batch=16)  # all draw their weights here first
    check_room(unknown, manifest, processes=2)
    with pytest.raises(ConfigError, match=r"in each of 3 processes \(weights\)"):
        check_room(unknown, manifest, processes=3)
