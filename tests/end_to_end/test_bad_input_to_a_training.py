# SPDX-License-Identifier: Apache-2.0
"""Bad input to a training gets one sentence before anything starts: options, keys, files, damaged datasets."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.commands import accelerate, sentence
from tests.datasets import write_dataset
from tests.refusals import refuse


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 90, "validation": 20, "test": 20})
    return root


WRONG_COMMANDS = {
    ("--optim.lrr", "1"): "--optim.lrr: no such option; did you mean --optim.lr?",
    (
        "--learning_rate",
        "1",
    ): "--learning_rate: no key of the training, no option of accelerate launch; it is",
    ("--epochs", "1", "stray"): "'stray' belongs to no option",
}


@pytest.mark.parametrize("arguments", WRONG_COMMANDS, ids=" ".join)
def test_launch_refuses_before_anything_starts(capsys, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    run = tmp_path / "run"
    code, line = refuse(capsys, "launch", *arguments, "--run", run)
    assert code == 2
    assert line.startswith(WRONG_COMMANDS[arguments])
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "keys", "expected"),
    [
        ("harness.train", ("--optim.lrr", "1"), "--optim.lrr: no such option; did you mean --optim.lr?"),
        ("harness.evaluate", ("--run", "nowhere", "--data", "d"), "nowhere/bundle/bundle.json: missing: there is no"),
    ],
)
def test_bare_accelerate_launch_prints_the_line_and_nothing_else(
    module: str, keys: tuple[str, ...], expected: str
) -> None:
    """Before the ranks have met, and after. Its traceback would hide the line, so the ranks end it."""
    result = accelerate(module, *keys)
    assert result.returncode == -signal.SIGUSR1
    assert sentence(result).startswith(expected)


def flip_byte(root: Path) -> str:
    path = next(root.glob("train/*.arrow"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return f"{path}: its sha256 is not the manifest's"


def test_a_damaged_dataset_is_named(capsys, tmp_path: Path, dataset: Path) -> None:
    root = tmp_path / "damaged"
    shutil.copytree(dataset, root)
    expected = flip_byte(root)
    code, line = refuse(capsys, "launch", "--data", root, "--run", tmp_path / "run")
    assert code == 3
    assert line.startswith(expected)


@pytest.mark.parametrize("more", [(), ("--dry_run",)])
def test_a_run_that_must_not_go_on_is_found_by_launch(capsys, tmp_path: Path, dataset: Path, more: tuple) -> None:
    """A dry run is refused as the run would be that it rehearses."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "status.json").write_text('{"state": "failed", "step": 3}')
    arguments = ("--data", dataset, "--run", tmp_path / "run", "--resume", "never")
    code, line = refuse(capsys, "launch", *arguments, *more)
    assert (code, "already holds a run" in line) == (2, True), line


def test_a_global_batch_smaller_than_the_processes_is_found_by_launch(capsys, tmp_path: Path, dataset: Path) -> None:
    arguments = ("--num_processes", 4, "--data", dataset, "--run", tmp_path / "run", "--global_batch", 3)
    code, line = refuse(capsys, "launch", *arguments)
    assert (code, line.split(":")[0]) == (2, "global_batch")


def test_unlabelled_rows_and_soft_labels_that_are_not_there_are_found_by_launch(
    capsys, tmp_path: Path, dataset: Path
) -> None:
    arguments = ("launch", "--data", dataset, "--run", tmp_path / "run")
    code, line = refuse(capsys, *arguments, "--order.unlabelled_batch", 8, "--self_training.labels", "mine")
    assert code == 2
    assert line.startswith(f"order.unlabelled_batch: {dataset} has no unlabelled rows; build it with source.")
    code, line = refuse(capsys, *arguments, "--self_training.labels", "mine")
    assert (code, line.split(";")[0]) == (2, "self_training.labels: no row learns them")
    assert not (tmp_path / "run").exists()
