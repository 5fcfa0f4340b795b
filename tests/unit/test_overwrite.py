# SPDX-License-Identifier: Apache-2.0
"""Outputs that are there: ``--overwrite`` loses nothing, and nobody else's are taken."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from harness.rundir import checkpoint
from harness.rundir.layout import check_directory, claim_run
from padless.core import atomic, processes
from padless.core.atomic import TEMPORARY_MARK
from padless.core.errors import ConfigError, UserError
from preprocessing.dataset.shards import read_manifest
from preprocessing.pipeline import tokenize, work_folder
from tests.helpers.bundles import write_index
from tests.helpers.corpora import Command, contents, reviews, write_csv

pytestmark = pytest.mark.thorough

PARTS = ("--shards.rows", 200, "--source.part_mb", 0.004)
REPLACING = (*PARTS, "--seed", 1, "--overwrite", "true")


@pytest.fixture(autouse=True)
def skip_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no test simulates a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", reviews(300))


@pytest.fixture
def out(source: Path, tmp_path: Path, command: Command) -> Path:
    command.build(source, tmp_path / "out", *PARTS)
    return tmp_path / "out"


def list_work_folders(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out."))


def test_an_interrupted_replacement_goes_on_where_it_was(
    out: Path, source: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = []
    make = tokenize.TokenizedPart.run

    def make_or_stop(part: tokenize.TokenizedPart) -> tuple[int, dict[str, str]]:
        if len(numbers) == 3:
            raise UserError("stopped")
        numbers.append(part.number)
        return make(part)

    fingerprint = read_manifest(out).fingerprint
    monkeypatch.setattr(tokenize.TokenizedPart, "run", make_or_stop)
    command.refused(1, source, out, *REPLACING)
    assert (read_manifest(out).fingerprint, list_work_folders(tmp_path)) == (fingerprint, ["out.building"])
    command.build(source, out, *PARTS)  # the old one is still complete, and the work is not thrown away
    first_numbers = list(numbers)
    numbers.clear()
    monkeypatch.setattr(tokenize.TokenizedPart, "run", lambda part: numbers.append(part.number) or make(part))
    assert command.build(source, out, *REPLACING).fingerprint != fingerprint
    assert not set(first_numbers) & set(numbers)
    assert list_work_folders(tmp_path) == []


def test_a_dataset_of_such_a_name_that_no_job_left_is_not_touched(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    user_folder = tmp_path / "out.building"
    shutil.copytree(out, user_folder)
    (user_folder / work_folder.WORK).mkdir()
    (user_folder / work_folder.WORK / work_folder.LOCK).write_text("padless 1 elsewhere")
    files = contents(user_folder)
    command.refused(2, source, out, *PARTS, "--seed", 1)  # another dataset
    assert contents(user_folder) == files
    assert f"output: {user_folder}: is where the new dataset would be built" in command.refused(
        2, source, out, *REPLACING
    )
    assert contents(user_folder) == files
    shutil.rmtree(out)
    manifest = command.build(source, out, *PARTS, "--seed", 2)  # and does not become the output
    assert manifest.provenance["config"]["seed"] == 2
    assert contents(user_folder) == files


def test_files_among_a_dataset_that_are_not_ours_outlive_it(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    user_names = [
        "dataset.json.tmp-host-2",
        "notes.tmp-mine",
        "model.tmp-host-1",
        "train/mine.arrow",
        "train/notes.txt",
        "test/00000.arrow.tmp-mine",
    ]
    for name in user_names:
        (out / name).write_text("mine")
    (out / f"dataset.json{TEMPORARY_MARK}host-1").write_text("half")
    out.chmod(0o750)
    command.build(source, out, *REPLACING)
    files = contents(out)
    assert [files.pop(name) for name in user_names] == [b"mine"] * len(user_names)
    assert out.stat().st_mode & 0o777 == 0o750
    command.build(source, tmp_path / "fresh", *PARTS, "--seed", 1)
    assert files == contents(tmp_path / "fresh")
    assert list_work_folders(tmp_path) == []


def test_of_two_jobs_of_one_output_one_wins_and_the_other_says_who(
    source: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, refusals = tokenize.TokenizedPart.run, []

    def make_and_try(part: tokenize.TokenizedPart) -> tuple[int, dict[str, str]]:
        refusals.append(command.refused(1, source, tmp_path / "out"))
        return make(part)

    monkeypatch.setattr(tokenize.TokenizedPart, "run", make_and_try)
    command.build(source, tmp_path / "out")
    sentence = f"{tmp_path / 'out'}: another run is writing this dataset; wait for it, or stop it"
    assert refusals == [sentence]


@pytest.mark.parametrize("kind", ["dataset", "bundle", "checkpoint"])
def test_an_output_inside_what_is_moved_as_a_whole_is_refused(
    kind: str, out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    folder = out
    if kind == "bundle":
        write_index(folder := tmp_path / "bundle")
    elif kind == "checkpoint":
        folder = tmp_path / "checkpoint"
        atomic.write_json(folder / checkpoint.MANIFEST, {"format": checkpoint.FORMAT})
    files = contents(folder)
    command.refused(2, source, folder / "inner" / "deep", *PARTS)
    assert command("export", tmp_path, "-o", folder / "inner") == 2
    assert kind in command.sentence
    assert contents(folder) == files


@pytest.mark.parametrize(("content", "is_ours"), [("mine", False), ("padless 12 other-host", True), ("", True)])
def test_a_run_takes_no_lock_of_another_program(content: str, is_ours: bool, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(content)
    with nullcontext() if is_ours else pytest.raises(ConfigError):
        check_directory(tmp_path)
    assert contents(tmp_path) == {".lock": content.encode()}


def test_a_file_system_without_locks_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(processes, "unlocked_names", set())
    for name in ("first", "second"):
        claim_run(tmp_path / name).close()
    assert capsys.readouterr().err.count("cannot be locked") == 1
