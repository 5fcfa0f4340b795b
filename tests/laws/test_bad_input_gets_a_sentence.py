# SPDX-License-Identifier: Apache-2.0
"""Law 9: bad input gets a sentence. One line that names the file, row or key, what was wrong and what to do, a
documented exit code, no traceback, and nothing lost. The long lists of cases are in ``tests/unit/test_wrong_*.py`` and
``tests/end_to_end/test_fingerprints.py``, those of a training in ``tests/end_to_end/test_bad_input_to_a_training.py``.
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


def test_a_disk_that_takes_no_more(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(atomic, "fsync", fail)
    assert command.build(corpus(tmp_path), tmp_path / "out") == 4
    assert os.strerror(errno.ENOSPC) in command.sentence
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
def test_the_real_process_prints_one_line_and_no_traceback(tmp_path: Path) -> None:
    result = run_module("preprocessing", "run", "--source.path", "absent.csv", "--output", tmp_path / "out")
    assert (result.returncode, result.stderr) == (3, "error: absent.csv: no such file; check source.path\n")
