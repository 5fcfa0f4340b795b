# SPDX-License-Identifier: Apache-2.0
"""A dataset that is there: ``--overwrite`` loses nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import pytest

from preprocessing.base import processes
from preprocessing.base.atomic import temporary_suffix
from preprocessing.dataset.shards import read_manifest
from preprocessing.job import output, tokenize
from preprocessing.job.executors import Share
from tests.corpora import Command, contents, reviews, write_csv

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
    make = tokenize.TokenizedPart.make

    def make_or_stop(part: tokenize.TokenizedPart) -> tuple[int, dict[str, str]]:
        if len(numbers) == 3:
            raise KeyboardInterrupt
        numbers.append(part.number)
        return make(part)

    fingerprint = read_manifest(out).fingerprint
    monkeypatch.setattr(tokenize.TokenizedPart, "make", make_or_stop)
    command.refused(130, source, out, *REPLACING)
    assert (read_manifest(out).fingerprint, list_work_folders(tmp_path)) == (fingerprint, ["out.building"])
    command.build(source, out, *PARTS)  # the old one is still complete, and the work is not thrown away
    assert "out.building: kept: unfinished work for another configuration" in command.err
    first_numbers = list(numbers)
    numbers.clear()
    monkeypatch.setattr(tokenize.TokenizedPart, "make", lambda part: numbers.append(part.number) or make(part))
    assert command.build(source, out, *REPLACING).fingerprint != fingerprint
    assert not set(first_numbers) & set(numbers)
    assert list_work_folders(tmp_path) == []


def test_a_dataset_of_such_a_name_that_no_job_left_is_not_touched(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    user_folder = tmp_path / "out.building"
    shutil.copytree(out, user_folder)
    (user_folder / output.WORK).mkdir()
    (user_folder / output.WORK / output.LOCK).write_text("padless 1 elsewhere")
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
    (out / f"dataset.json{temporary_suffix('host', 1)}").write_text("half")
    out.chmod(0o750)
    command.build(source, out, *REPLACING)
    files = contents(out)
    assert [files.pop(name) for name in user_names] == [b"mine"] * len(user_names)
    assert out.stat().st_mode & 0o777 == 0o750
    command.build(source, tmp_path / "fresh", *PARTS, "--seed", 1)
    assert files == contents(tmp_path / "fresh")
    assert list_work_folders(tmp_path) == []


def test_two_runs_do_not_replace_one_dataset(out: Path, source: Path, command: Command) -> None:
    with output.lock_directory(out, Share()):
        assert "another run is writing this dataset" in command.refused(1, source, out, *REPLACING)


def test_an_output_inside_a_dataset_is_refused(out: Path, source: Path, command: Command) -> None:
    files = contents(out)
    command.refused(2, source, out / "inner", *PARTS)
    assert contents(out) == files


def test_a_file_system_without_locks_and_links_is_said_once(
    source: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", fail)
    monkeypatch.setattr(os, "link", fail)
    monkeypatch.setattr(processes, "_warned", set())
    command.build(source, tmp_path / "out", *PARTS)
    assert command.err.count("cannot be locked") == 1
