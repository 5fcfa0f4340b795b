# SPDX-License-Identifier: Apache-2.0
"""Law 9, case by case: rows, batch, processes and devices that do not fit; predictions of what cannot be predicted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from harness.config import RunConfig
from harness.data import checks
from harness.inference import predict as command
from harness.inference.bundle import read_bundle
from harness.launch import launcher
from harness.ranks import precision
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset
from tests.refusals import refuse


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


def test_predict_names_what_is_wrong(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refuse(capsys, "predict", "--run", tmp_path, "text")[0] == 3
    assert refuse(capsys, "predict", "--run", tmp_path) == (
        2,
        "nothing to predict: give texts, or --input with --output (not both)",
    )
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", "x.csv")
    assert (code, line) == (2, "--input and --output go together: name the file to read and the file to write")
    facts = {"weights_sha256": "w", "text_hash": "t", "temperature": 1.0, "threshold": 0.5}
    info = SimpleNamespace(labels=["bad", "good"], label_type="text", dataset="", task="classifier", **facts)
    monkeypatch.setattr(command, "read_info", lambda bundle: info)
    monkeypatch.setattr(command, "engine_of", lambda bundle, engine: "torch")
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", "no.csv", "--output", "y.parquet")
    assert (code, line) == (3, "no.csv: no such file; check --input")
    table = tmp_path / "table.csv"
    table.write_text("review,stars\nfine,3\n,4\n")
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", table, "--output", "y.parquet")
    assert (code, line) == (3, f"{table}: no column 'text'; it has 'review', 'stars'; use --column")
    arguments = ("--input", table, "--output", "y.parquet", "--column", "review")
    code, line = refuse(capsys, "predict", "--run", tmp_path, *arguments)
    assert (code, line) == (
        3,
        f"{table}: row 2: column 'review' holds no text; fill or remove the row, or set --missing keep",
    )
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", table, "--output", "y.xls")
    assert (code, line) == (2, "--output y.xls: unknown ending; use .parquet, .csv, .tsv or .jsonl, or DIRECTORY/")


def test_a_directory_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bundle\.json: missing: .* is neither a run directory nor a bundle"):
        read_bundle(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(DataError, match=r"bundle\.json: missing: this run has not finished an epoch"):
        read_bundle(tmp_path / "bundle")


def test_options_of_accelerate_end_where_ours_begin() -> None:
    ours = ["--config", "a.yaml", "--run", "r"]
    options = ["--config_file", "mine.yaml", "--num_processes", "2"]
    assert launcher.split_arguments([*options, *ours]) == (options, ours)
    assert launcher.split_arguments(ours) == ([], ours)
    assert launcher.split_arguments(["--model.hiden", "3"]) == ([], ["--model.hiden", "3"])
    assert launcher.split_arguments(["--quiet", *options, *ours]) == (options, ["--quiet", *ours])
    assert launcher.split_arguments([*options, "--quiet", "false", *ours]) == (options, ["--quiet", "false", *ours])
