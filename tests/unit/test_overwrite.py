# SPDX-License-Identifier: Apache-2.0
"""A dataset that is there: ``--overwrite`` loses nothing, ``--append`` leaves what it has byte for byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.report.mistakes import find_originals
from preprocessing.base.atomic import temporary_suffix
from preprocessing.dataset.inspect import verify
from preprocessing.dataset.shards import read_manifest
from preprocessing.job import output, parts
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary
from tests.corpora import Command, contents, reviews, write_csv
from tests.datasets import Row, stored

pytestmark = pytest.mark.thorough

PARTS = ("--shards.rows", 200, "--source.part_mb", 0.004)
OTHER = (*PARTS, "--seed", 1, "--overwrite", "true")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no test simulates a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", reviews(300))


@pytest.fixture
def out(source: Path, tmp_path: Path, command: Command) -> Path:
    command.build(source, tmp_path / "out", *PARTS)
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
    command.refused(130, source, out, *OTHER)
    assert (read_manifest(out).fingerprint, beside(tmp_path)) == (before, ["out.building"])
    command.build(source, out, *PARTS)  # the old one is still complete, and the work is not thrown away
    assert "out.building: kept: unfinished work for another configuration" in command.err
    done = list(made)
    made.clear()
    monkeypatch.setattr(parts.TokenizedPart, "make", lambda part: made.append(part.number) or make(part))
    assert command.build(source, out, *OTHER).fingerprint != before
    assert not set(done) & set(made)
    assert beside(tmp_path) == []


def test_a_dataset_of_such_a_name_that_no_job_left_is_not_touched(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    mine = tmp_path / "out.building"
    shutil.copytree(out, mine)
    (mine / output.WORK).mkdir()
    (mine / output.WORK / output.LOCK).write_text("1 elsewhere")
    before = contents(mine)
    command.refused(2, source, out, *PARTS, "--seed", 1)  # another dataset
    assert contents(mine) == before
    assert f"output: {mine}: is where the new dataset would be built" in command.refused(2, source, out, *OTHER)
    assert contents(mine) == before
    shutil.rmtree(out)
    again = command.build(source, out, *PARTS, "--seed", 2)  # and does not become the output
    assert again.provenance["config"]["seed"] == 2
    assert contents(mine) == before


def test_files_among_a_dataset_that_are_not_ours_outlive_it(
    out: Path, source: Path, tmp_path: Path, command: Command
) -> None:
    mine = [
        "dataset.json.tmp-host-2",
        "notes.tmp-mine",
        "model.tmp-host-1",
        "train/mine.arrow",
        "train/notes.txt",
        "test/00000.arrow.tmp-mine",
    ]
    for name in mine:
        (out / name).write_text("mine")
    (out / f"dataset.json{temporary_suffix('host', 1)}").write_text("half")
    out.chmod(0o750)
    command.build(source, out, *OTHER)
    found = contents(out)
    assert [found.pop(name) for name in mine] == [b"mine"] * len(mine)
    assert out.stat().st_mode & 0o777 == 0o750
    command.build(source, tmp_path / "fresh", *PARTS, "--seed", 1)
    assert found == contents(tmp_path / "fresh")
    assert beside(tmp_path) == []


def test_two_runs_do_not_replace_one_dataset(out: Path, source: Path, command: Command) -> None:
    with output.writable(out):
        assert "another run is writing this dataset" in command.refused(1, source, out, *OTHER)


OLD, NEW = reviews(300), reviews(500, seed=1)[300:]
SMALL = ("--shards.rows", 100)


@pytest.fixture
def old(tmp_path: Path, command: Command) -> Path:
    command.build(write_csv(tmp_path / "old.csv", OLD), tmp_path / "old", *SMALL)
    return tmp_path / "old"


@pytest.mark.processes
def test_old_rows_stay_and_new_ones_follow_except_for_leaks(old: Path, tmp_path: Path, command: Command) -> None:
    before, before_rows = contents(old), stored(old)
    named = [(*row, "train" if at % 4 else "") for at, row in enumerate(NEW)]
    for its in ("train", "test"):
        twins = [row for row, found in before_rows.items() if found.split == its]
        named += [(*OLD[row - 1], to) for row, to in zip(twins, ("train", "validation", "test"), strict=False)]
    new = write_csv(tmp_path / "new.csv", named, ("text", "label", "split"))
    shutil.copytree(old, tmp_path / "other")
    given = ("--append", "--splits.column", "split", "--splits.validation", 0, "--splits.test", 0)
    manifest = command.build(new, old, *given)
    assert "cover 94.4% of the tokens, and 100.0% of the old ones" in command.err
    several = ("--source.part_mb", 0.002, "--executor.workers", 2)
    command.build(new, tmp_path / "other", *given, *several)
    after, found = contents(old), stored(old)
    assert after == contents(tmp_path / "other")
    assert {*before.items()} - {*after.items()} == {(name, before[name]) for name in ("dataset.json", "index.arrow")}
    assert verify(old) == []
    vocabulary = Vocabulary.read(old / "vocabulary.arrow")
    encoded = Encoder(TextPipeline.from_json(manifest.text), vocabulary)([text for text, *_ in named])
    expected = before_rows.copy()
    for at in {*range(len(named))} - {201, 202, 203, 204}:  # each twin stays in the split of the old one
        ids = encoded.ids[encoded.offsets[at] : encoded.offsets[at + 1]].tolist()
        expected[301 + at] = Row(named[at][2] or "train", ids, int(named[at][1] == "positive"))
    assert found == expected
    facts = manifest.statistics
    assert (facts["rows_read"], facts["rows_kept"], facts["dropped"]["leaks"]) == (506, 502, 4)
    assert {name: of["unknown"] for name, of in facts["splits"].items()} == {
        name: sum(row.ids.count(1) for row in found.values() if row.split == name) for name in manifest.splits
    }
    assert find_originals(manifest, [7, 401])[0] == {7: OLD[6][0], 401: NEW[100][0]}
    command.build(new, old, *given)
    assert "nothing to do" in command.err
    assert contents(old) == after
    write_csv(tmp_path / "third.csv", named[:9], ("text", "label", "split"))
    said = f"append: {tmp_path / 'new.csv'}: the dataset has its rows already; name only the other files"
    assert command.refused(2, tmp_path / "[nt]*.csv", old, *given) == said


def test_new_rows_are_split_as_the_old_ones_were(old: Path, tmp_path: Path, command: Command) -> None:
    manifest = command.build(write_csv(tmp_path / "new.csv", NEW), old, "--append")
    assert [manifest.rows(name) for name in ("train", "validation", "test")] == [400, 50, 50]


@pytest.mark.processes
def test_rows_that_are_there_already_are_counted(old: Path, tmp_path: Path, command: Command) -> None:
    again = write_csv(tmp_path / "again.csv", [*OLD, ("a new one", "positive")])
    learned = read_manifest(old).rows("train")
    manifest = command.build(again, old, "--append", "--splits.validation", 0, "--splits.test", 0)
    assert f"kept: {learned} new rows with a text that its split has already" in command.err
    assert manifest.rows("train") == 2 * learned + 1
