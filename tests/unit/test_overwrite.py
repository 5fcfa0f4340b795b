# SPDX-License-Identifier: Apache-2.0
"""``--overwrite`` loses nothing: the old dataset stays until the new one is complete, and finished work is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from preprocessing.dataset.shards import read_manifest
from preprocessing.job import output, parts
from tests.corpora import Command, contents, reviews, write_csv

pytestmark = pytest.mark.thorough

SMALL = ("--shards.rows", 200, "--source.part_mb", 0.004)
OTHER = (*SMALL, "--seed", 1, "--overwrite", "true")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no test simulates a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", reviews(300))


@pytest.fixture
def out(source: Path, tmp_path: Path, command: Command) -> Path:
    assert command.build(source, tmp_path / "out", *SMALL) == 0
    return tmp_path / "out"


def beside(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("out."))


def test_an_interrupted_replacement_goes_on_where_it_was(
    out: Path, source: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = parts.TokenizedPart.make

    def interrupted(part: parts.TokenizedPart) -> tuple[parts.Summary, dict[str, str]]:
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(part.number)
        return make(part)

    before = read_manifest(out).fingerprint
    monkeypatch.setattr(parts.TokenizedPart, "make", interrupted)
    assert command.build(source, out, *OTHER) == 130
    assert (read_manifest(out).fingerprint, beside(tmp_path)) == (before, ["out.building"])
    assert command.build(source, out, *SMALL) == 0  # the old one is still complete, and the work is not thrown away
    assert "out.building: kept: unfinished work for another configuration" in command.err
    done = list(made)
    made.clear()
    monkeypatch.setattr(parts.TokenizedPart, "make", lambda part: made.append(part.number) or make(part))
    assert command.build(source, out, *OTHER) == 0
    assert not set(done) & set(made)
    assert read_manifest(out).fingerprint != before
    assert beside(tmp_path) == []


def test_a_dataset_of_such_a_name_that_no_job_left_is_not_touched(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    mine = tmp_path / "out.building"
    shutil.copytree(out, mine)
    (mine / output.WORK).mkdir()
    (mine / output.WORK / output.LOCK).write_text("1 elsewhere")
    before = contents(mine)
    assert command.build(source, out, *SMALL, "--seed", 1) == 2  # refused: another dataset
    assert contents(mine) == before
    assert command.build(source, out, *OTHER) == 2
    assert f"output: {mine}: is where the new dataset would be built" in command.sentence
    assert contents(mine) == before
    shutil.rmtree(out)
    assert command.build(source, out, *SMALL, "--seed", 2) == 0  # and does not become the output
    assert read_manifest(out).provenance["config"]["seed"] == 2
    assert contents(mine) == before


def test_files_among_a_dataset_that_are_not_ours_outlive_it(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    mine = ["notes.tmp-mine", "model.tmp-host-1", "train/mine.arrow", "train/notes.txt", "test/00000.arrow.tmp-mine"]
    for name in mine:
        (out / name).write_text("mine")
    (out / "dataset.json.tmp-host-1").write_text("half")
    out.chmod(0o750)
    assert command.build(source, out, *OTHER) == 0
    found = contents(out)
    assert [found.pop(name) for name in mine] == [b"mine"] * len(mine)
    assert out.stat().st_mode & 0o777 == 0o750
    assert command.build(source, tmp_path / "fresh", *SMALL, "--seed", 1) == 0
    assert found == contents(tmp_path / "fresh")
    assert beside(tmp_path) == []


def test_a_folder_of_somebody_else_is_refused(source: Path, tmp_path: Path, command: Command) -> None:
    target, elsewhere, name = tmp_path / "theirs", tmp_path / "elsewhere", "train"
    for folder in (target, elsewhere):
        folder.mkdir()
    (elsewhere / "00000-w0064.arrow").write_text("mine")
    (target / name).symlink_to(elsewhere)
    before = contents(tmp_path)
    assert command.build(source, target, *OTHER) == 2
    assert command.sentence == f"output: {target}: holds {name!r} and no dataset; name an empty or a new directory"
    assert contents(tmp_path) == before


def test_two_runs_do_not_replace_one_dataset(out: Path, source: Path, command: Command) -> None:
    with output.writable(out):
        assert command.build(source, out, *OTHER) == 1
    assert "another run is writing this dataset" in command.sentence
