# SPDX-License-Identifier: Apache-2.0
"""Law 9, the harness: bad input gets one line that names file, row or key, a documented exit code and no traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness import __main__ as harness_main
from harness.config import RunConfig
from harness.data import checks
from harness.inference.bundle import read_bundle
from harness.launch import launcher
from harness.ranks import precision
from preprocessing.base import cli
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.dataset.shards import read_manifest
from tests.commands import accelerate, run_module, sentence
from tests.datasets import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 90, "validation": 20, "test": 20})
    return root


def refuse(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """Exit code and the one line of a command that is expected to fail before any process starts."""
    code = cli.run(harness_main.main, [str(argument) for argument in argv])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0].removeprefix("error: ")


WRONG_COMMANDS = {
    ("--optim.lrr", "1"): "--optim.lrr: no such option; did you mean --optim.lr?",
    ("--learning_rate", "1", "--epochs", "2"): "--learning_rate: neither a key of the training nor an option",
    ("--epochs", "0"): "epochs: 0 is out of range: expected at least 1",
    ("--epochs", "many"): "epochs: expected int, got many",
    ("--model.pooling", "median"): "model.pooling: expected one of 'last', 'max', 'mean', 'max+mean', got median",
    ("--model.dropout", "1"): "model.dropout: 1.0 is out of range",
    ("--model.embedding_std", "0"): "model.embedding_std: 0.0 is out of range: expected above 0",
    ("--model.word_dropout", "1"): "model.word_dropout: 1.0 is out of range: expected at least 0 and below 1",
    ("--optim.lr", "-1"): "optim.lr: -1.0 is out of range: expected above 0",
    ("--config", "nowhere.yaml"): "nowhere.yaml: No such file or directory",
    ("--global_batch", "1", "--micro_batch", "0"): "micro_batch: 0 is out of range",
    ("--epochs", "1", "stray"): "'stray' belongs to no option",
    ("--data", "nowhere"): "nowhere/dataset.json: missing",
}


@pytest.mark.parametrize("arguments", WRONG_COMMANDS, ids=" ".join)
def test_launch_refuses_before_anything_starts(capsys, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    code, line = refuse(capsys, "launch", *arguments, "--run", run)
    assert code == (3 if "--data" in arguments else 2)
    assert line.startswith(WRONG_COMMANDS[arguments])
    assert not run.exists()


@pytest.mark.parametrize("option", [("pooling", "mean", "'max'"), ("dropout", "0.5", "0.0")])
def test_bench_train_refuses_a_network_that_the_other_loops_lack(capsys, option: tuple[str, str, str]) -> None:
    name, value, only = option
    code, line = refuse(capsys, "bench", "train", "--data", "nowhere", f"--model.{name}", value)
    assert code == 2
    assert line.startswith(f"model.{name}: ")
    assert line.endswith(f"expected {only}, which is all that the other loops know")


def test_a_misspelt_key_in_a_file_names_file_and_nearest_key(capsys, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  lr: 0.1\n  weight_decai: 0.1\n")
    code, line = refuse(capsys, "launch", "--config", file)
    assert code == 2
    assert line == f"{file}: unknown key 'optim.weight_decai'; did you mean optim.weight_decay?"


def test_bare_accelerate_launch_prints_the_same_line_first() -> None:
    result = accelerate("harness.train", "--optim.lrr", 1)
    assert result.returncode == 1
    first = next(line for line in result.stderr.splitlines() if line.strip())
    assert first == "error: --optim.lrr: no such option; did you mean --optim.lr?"
    assert result.stderr.count("no such option") == 1


def flip_byte(root: Path) -> str:
    path = next(root.glob("train/*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"{path}: its sha256 is not the manifest's"


def truncate(root: Path) -> str:
    path = next(root.glob("train/*.arrow"))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    return f"{path}: {size - 100} bytes, the manifest says {size}"


def remove(root: Path) -> str:
    path = next(root.glob("test/*.arrow"))
    path.unlink()
    return f"{path}: the manifest names this shard, but it is missing"


def future_version(root: Path) -> str:
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "format_version": 99}))
    return f"{root / 'dataset.json'}: format version 99, this padless reads version 1"


def edited(root: Path) -> str:
    content = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**content, "labels": ["a", "b"]}))
    return f"{root / 'dataset.json'}: its content does not match its sha256"


def half_a_manifest(root: Path) -> str:
    content = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(content[: len(content) // 2])
    return f"{root / 'dataset.json'}: not readable as JSON"


@pytest.mark.parametrize("damage", [flip_byte, truncate, remove, future_version, edited, half_a_manifest])
def test_a_damaged_dataset_is_named(capsys, tmp_path: Path, dataset: Path, damage: Callable[[Path], str]) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(dataset, root)
    expected = damage(root)
    code, line = refuse(capsys, "launch", "--data", root, "--run", tmp_path / "run")
    assert code == 3
    assert line.startswith(expected)


def test_rows_batch_and_processes_must_fit(dataset: Path) -> None:
    manifest = read_manifest(dataset)
    with pytest.raises(DataError, match="90 training rows for 91 processes"):
        checks.check_fit(RunConfig(data=str(dataset), global_batch=100), manifest, 91)
    with pytest.raises(ConfigError, match="global_batch: 3 rows cannot be shared by 4 processes"):
        checks.check_fit(RunConfig(data=str(dataset), global_batch=3), manifest, 4)
    with pytest.raises(ConfigError, match=r"90 rows in 23 steps of near-equal size leave some of 4 .* raise it to 5"):
        checks.check_fit(RunConfig(data=str(dataset), global_batch=4), manifest, 4)
    checks.check_fit(RunConfig(data=str(dataset), global_batch=5), manifest, 4)


def test_a_global_batch_smaller_than_the_processes_is_found_by_launch(capsys, tmp_path: Path, dataset: Path) -> None:
    arguments = ("--num_processes", 4, "--data", dataset, "--run", tmp_path / "run", "--global_batch", 3)
    code, line = refuse(capsys, "launch", *arguments)
    assert (code, line.split(":")[0]) == (2, "global_batch")


@pytest.mark.parametrize("more", [(), ("--dry_run",)])
def test_a_run_that_must_not_go_on_is_found_by_launch(capsys, tmp_path: Path, dataset: Path, more: tuple) -> None:
    """A dry run is refused as the run would be that it rehearses."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"state": "failed", "step": 3}')
    arguments = ("--data", dataset, "--run", tmp_path / "run", "--resume", "never")
    code, line = refuse(capsys, "launch", *arguments, *more)
    assert (code, "already holds a run" in line) == (2, True), line


def test_more_processes_than_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="3 processes on a machine with 2 CUDA devices"):
        precision.choose_device("auto")
    assert precision.choose_device("cpu").value == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")
def test_cuda_and_fp16_where_there_is_no_gpu() -> None:
    with pytest.raises(ConfigError, match="no CUDA device is visible"):
        precision.choose_device("cuda")
    with pytest.raises(ConfigError, match="fp16 cannot run on cpu here; it can run fp32"):
        precision.choose_precision("fp16", "cpu")


def test_trackers_that_do_not_exist_or_are_not_installed(tmp_path: Path, dataset: Path) -> None:
    arguments = ("--data", dataset, "--run", tmp_path / "run", "--tracking.tracker")
    wrong = run_module("harness", "launch", *arguments, "wandbb")
    assert wrong.returncode == 2
    assert sentence(wrong).startswith("tracking.tracker: 'wandbb' is no tracker")
    assert not (tmp_path / "run").exists()


def test_predict_names_what_is_wrong(capsys, tmp_path: Path) -> None:
    assert refuse(capsys, "predict", "--run", tmp_path, "text")[0] == 3
    assert refuse(capsys, "predict", "--run", tmp_path) == (
        2,
        'nothing to predict, or two things: give texts ("a fine film") or --input FILE --output FILE',
    )
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", "x.csv")
    assert (code, line) == (2, "--input and --output go together: name the file to read and the file to write")
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", "no.csv", "--output", "y.parquet")
    assert (code, line) == (3, "no.csv: No such file or directory")
    table = tmp_path / "table.csv"
    table.write_text("review,stars\nfine,3\n,4\n")
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", table, "--output", "y.parquet")
    assert (code, line) == (3, f"{table}: no column 'text'; it has review, stars; use --column")
    arguments = ("--input", table, "--output", "y.parquet", "--column", "review")
    code, line = refuse(capsys, "predict", "--run", tmp_path, *arguments)
    assert (code, line) == (3, f"{table}: row 2: column 'review' holds no text; fill or remove the row")
    code, line = refuse(capsys, "predict", "--run", tmp_path, "--input", table, "--output", "y.xls")
    assert (code, line) == (2, "--output y.xls: unknown ending; use .parquet, .csv or .jsonl")


def test_an_unknown_command_names_the_nearest(capsys) -> None:
    assert refuse(capsys, "predicct") == (2, "python -m harness: predicct: no such command; did you mean predict?")


def test_a_directory_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bundle\.json: missing: this run has not finished an epoch"):
        read_bundle(tmp_path)


def test_options_of_accelerate_end_where_ours_begin() -> None:
    ours = ["--config", "a.yaml", "--run", "r"]
    options = ["--config_file", "cpu.yaml", "--num_processes", "2"]
    assert launcher.split_arguments([*options, *ours]) == (options, ours)
    assert launcher.split_arguments(ours) == ([], ours)
    assert launcher.split_arguments(["--model.hiden", "3"]) == ([], ["--model.hiden", "3"])
