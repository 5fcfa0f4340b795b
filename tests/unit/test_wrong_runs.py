# SPDX-License-Identifier: Apache-2.0
"""Law 9, case by case: rows, batch, processes and devices that do not fit; predictions of what cannot be predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.config import RunConfig
from harness.data import checks
from harness.launch import launcher
from harness.ranks import precision
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 90, "validation": 20, "test": 20})
    return root


def test_rows_batch_and_processes_must_fit(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    with pytest.raises(DataError, match="90 training rows for 91 processes"):
        checks.check_fit(RunConfig(data=str(dataset), global_batch=100), manifest, 91)
    with pytest.raises(ConfigError, match="global_batch: 3 rows cannot be shared by 4 processes"):
        checks.check_fit(RunConfig(data=str(dataset), global_batch=3), manifest, 4)
    with pytest.raises(ConfigError, match=r"90 rows in 23 steps of near-equal size leave some of 4 .* raise it to 5"):
        checks.check_fit(RunConfig(data=str(dataset), global_batch=4), manifest, 4)
    checks.check_fit(RunConfig(data=str(dataset), global_batch=5), manifest, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_cuda_and_fp16_where_there_is_no_gpu() -> None:
    with pytest.raises(ConfigError, match="device: cuda asks for GPUs, but no CUDA device is visible"):
        precision.choose_device("cuda")
    with pytest.raises(ConfigError, match="fp16 cannot run on cpu here; it can run fp32"):
        precision.choose_precision("fp16", "cpu")


def test_options_of_accelerate_end_where_ours_begin() -> None:
    ours = ["--config", "a.yaml", "--run", "r"]
    options = ["--config_file", "mine.yaml", "--num_processes", "2"]
    assert launcher.split_arguments([*options, *ours]) == (options, ours)
    assert launcher.split_arguments(ours) == ([], ours)
    assert launcher.split_arguments(["--model.hiden", "3"]) == ([], ["--model.hiden", "3"])
    assert launcher.split_arguments(["--quiet", *options, *ours]) == (options, ["--quiet", *ours])
    assert launcher.split_arguments([*options, "--quiet", "false", *ours]) == (options, ["--quiet", "false", *ours])
