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
    ): "--learning_rate: neither a key of the training nor an option of accelerate launch; it is",
    ("d", "--epochs", "1", "stray"): "'stray' is one word too many",
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
    """Before and after the rendezvous. The launcher's traceback would hide the line, so the ranks end the launcher."""
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
