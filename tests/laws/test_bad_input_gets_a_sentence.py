# SPDX-License-Identifier: Apache-2.0
"""Law 9: bad input gets a sentence. One line that names the file, row or key, what was wrong and what to do, a
documented exit code, no traceback, and nothing lost. The long lists of cases are in ``tests/unit/test_wrong_*.py``.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import __main__ as harness_main
from preprocessing.base import answering, atomic
from tests.commands import accelerate, sentence
from tests.corpora import Command, reviews, write_csv
from tests.datasets import write_dataset

# Preprocessing.

ROWS = reviews(60)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def corpus(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", ROWS)


WRONG_ROWS = {
    "label": (("fine", "maybe"), "reviews.csv: row 17: label 'maybe' is not known"),
    "no label": (("fine", ""), "reviews.csv: row 17: there is no label"),
    "one field more": (("fine", "negative", "x"), "reviews.csv: row 17: 3 fields, the header has 2"),
}
"""Every other case stands in ``tests/unit/test_wrong_corpora.py``."""


@pytest.mark.parametrize("case", WRONG_ROWS)
def test_a_wrong_row_is_named_with_its_file(case: str, tmp_path: Path, command: Command) -> None:
    row, expected = WRONG_ROWS[case]
    source = write_csv(tmp_path / "reviews.csv", [*ROWS[:16], row, *ROWS[17:]])
    labels = ("--source.labels", "{negative: [negative], positive: [positive]}")
    assert command.build(source, tmp_path / "out", *labels) == 3
    assert expected in command.sentence
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_missing_file_is_named(tmp_path: Path, command: Command) -> None:
    assert command.build(tmp_path / "absent.csv", tmp_path / "out") == 3
    assert command.sentence == f"{tmp_path / 'absent.csv'}: no such file; check source.path"


def test_a_misspelt_key_in_a_file_is_named_with_the_nearest(tmp_path: Path, command: Command) -> None:
    (tmp_path / "job.yaml").write_text("vocabulary:\n  min_cuont: 3\n")
    assert command("run", "--config", tmp_path / "job.yaml", "--output", tmp_path / "out") == 2
    assert command.sentence.endswith("unknown key 'vocabulary.min_cuont'; did you mean vocabulary.min_count?")


def test_an_unknown_command_suggests_the_nearest(command: Command) -> None:
    assert command("chekc", "somewhere") == 2
    assert command.sentence == "python -m preprocessing: chekc: no such command; did you mean check?"


def test_a_format_that_the_name_does_not_tell(tmp_path: Path, command: Command) -> None:
    (tmp_path / "reviews.xlsx").write_bytes(b"PK")
    assert command.build(tmp_path / "reviews.xlsx", tmp_path / "out") == 2
    assert "source.format: auto cannot tell what" in command.sentence
    assert command.sentence.endswith("reviews.xlsx holds; write the sheet as CSV first")


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path, command: Command) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    assert command.build(corpus(tmp_path), tmp_path / "home") == 2
    assert "holds 'thesis.tex' and no dataset" in command.sentence
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["thesis.tex"]


def test_an_output_that_is_a_file(tmp_path: Path, command: Command) -> None:
    source = corpus(tmp_path)
    assert command.build(source, source) == 2
    assert "name another directory with --output" in command.sentence
    assert "Not a directory" in command.sentence or "File exists" in command.sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more(
    number: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(atomic, "fsync", fail)
    assert command.build(corpus(tmp_path), tmp_path / "out") == 4
    assert os.strerror(number) in command.sentence
    assert not (tmp_path / "out" / "dataset.json").exists()
    monkeypatch.undo()
    assert command.build(corpus(tmp_path), tmp_path / "out") == 0


def test_another_configuration_is_refused_unless_it_may_replace(tmp_path: Path, command: Command) -> None:
    source, output = corpus(tmp_path), tmp_path / "out"
    assert command.build(source, output) == 0
    before = (output / "dataset.json").read_bytes()
    assert command.build(source, output) == 0
    assert "already complete" in command.err
    assert command.build(source, output, "--seed", 1) == 2
    assert "holds a dataset of another configuration" in command.sentence
    assert (output / "dataset.json").read_bytes() == before
    assert command.build(source, output, "--seed", 1, "--overwrite", "true") == 0
    assert (output / "dataset.json").read_bytes() != before
    write_csv(source, reviews(61))
    assert command.build(source, output, "--seed", 1) == 2
    assert "one that has changed since" in command.sentence


def test_two_runs_do_not_write_one_directory(tmp_path: Path, command: Command) -> None:
    from preprocessing.job import output

    with output.writable(tmp_path / "out"):
        assert command.build(corpus(tmp_path), tmp_path / "out") == 1
    assert "another run is writing this dataset" in command.sentence


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (
            ["run", "--source.path", "absent.csv", "--output", "out"],
            3,
            "error: absent.csv: no such file; check source.path\n",
        ),
        (["run", "--sorce.path", "x"], 2, "error: --sorce.path: no such option; did you mean --source.path?\n"),
        (["check", "nowhere"], 3, None),
    ],
)
def test_the_real_process_prints_one_line_and_no_traceback(
    arguments: list[str], code: int, expected: str | None, tmp_path: Path
) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    result = subprocess.run(
        [sys.executable, "-m", "preprocessing", *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert result.returncode == code
    assert result.stderr.count("\n") == 1
    assert expected is None or result.stderr == expected


# The harness.


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root, {"train": 90, "validation": 20, "test": 20})
    return root


def refuse(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str]:
    """Exit code and the one line of a command that is expected to fail before any process starts."""
    code = answering.run(harness_main.main, [str(argument) for argument in argv])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return code, lines[0].removeprefix("error: ")


WRONG_COMMANDS = {
    ("--optim.lrr", "1"): "--optim.lrr: no such option; did you mean --optim.lr?",
    (
        "--learning_rate",
        "1",
        "--epochs",
        "2",
    ): "--learning_rate: no key of the training, no option of accelerate launch; it is --optim.lr here",
    ("--epochs", "0"): "epochs: 0 is out of range: expected at least 1",
    ("--epochs", "many"): "epochs: expected int or 'auto', got many",
    ("--model.pooling", "median"): "model.pooling: 'median' is out of range: expected one of last, max, mean, max+mean",
    ("--model.cell", "transformer"): "model.cell: 'transformer' is out of range: expected one of lstm, gru",
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


def test_a_misspelt_key_in_a_file_names_file_and_nearest_key(capsys, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim:\n  lr: 0.1\n  weight_decai: 0.1\n")
    code, line = refuse(capsys, "launch", "--config", file)
    assert code == 2
    assert line == f"{file}: unknown key 'optim.weight_decai'; did you mean optim.weight_decay?"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("module", "keys", "expected"),
    [
        pytest.param(
            *("harness.train", ("--optim.lrr", "1"), "--optim.lrr: no such option; did you mean --optim.lr?"),
            marks=pytest.mark.slow,
        ),
        (
            "harness.evaluate",
            ("--run", "nowhere", "--data", "d"),
            "nowhere/bundle/bundle.json: missing: there is no folder nowhere",
        ),
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
    code, line = refuse(capsys, *arguments, "--self_training.labels", "mine", "--self_training.train_share", 0.5)
    assert (code, line.split(";")[0]) == (
        2,
        f"self_training.labels: there is no file mine and no {dataset}/soft_labels/mine.arrow",
    )
    code, line = refuse(capsys, "label", "--data", dataset, "--baseline", "true")
    assert (code, line.split(";")[0]) == (3, f"{dataset}/dataset.json: has no unlabelled rows")
    code, line = refuse(capsys, "label", "--data", dataset, "--run", tmp_path / "none")
    assert (code, line) == (
        3,
        f"{tmp_path}/none/bundle/bundle.json: missing: there is no folder {tmp_path}/none; name a run directory, or a "
        "bundle",
    )
    code, line = refuse(capsys, "label", "--data", dataset)
    assert (code, line) == (2, "no teacher, or two: give --run RUN, or --baseline")
    assert not (tmp_path / "run").exists()


def test_trackers_that_do_not_exist_or_are_not_installed(capsys, tmp_path: Path, dataset: Path) -> None:
    arguments = ("launch", "--data", dataset, "--run", tmp_path / "run", "--tracking.tracker")
    code, line = refuse(capsys, *arguments, "wandbb")
    assert code == 2
    assert line.startswith("tracking.tracker: 'wandbb' is no tracker; there are none, aim, ")
    missing = "tracking.tracker: dvclive needs the package dvclive: pip install dvclive, or use none"
    assert refuse(capsys, *arguments, "dvclive") == (2, missing)
    assert not (tmp_path / "run").exists()


def test_an_unknown_command_names_the_nearest(capsys) -> None:
    assert refuse(capsys, "predicct") == (2, "python -m harness: predicct: no such command; did you mean predict?")
