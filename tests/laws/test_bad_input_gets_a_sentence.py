# SPDX-License-Identifier: Apache-2.0
"""Law 9: bad input gets a sentence. One line that names the file, row or key, what was wrong and what to do, a
documented exit code, no traceback, and nothing lost. The long lists of cases are in ``tests/unit/test_wrong_*.py``,
those of a training in ``tests/end_to_end/test_bad_input_to_a_training.py``.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from preprocessing.base import atomic
from tests.commands import run_module
from tests.corpora import Command, reviews, write_csv

ROWS = reviews(60)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def corpus(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", ROWS)


WRONG_ROWS = {
    "label": (("fine", "maybe"), "reviews.csv: row 17: label 'maybe' is not known"),
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


@pytest.mark.parametrize("number", [errno.ENOSPC])
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


@pytest.mark.processes
def test_the_real_process_prints_one_line_and_no_traceback() -> None:
    result = run_module("preprocessing", "run", "--source.path", "absent.csv", "--output", "out")
    assert (result.returncode, result.stderr) == (3, "error: absent.csv: no such file; check source.path\n")
