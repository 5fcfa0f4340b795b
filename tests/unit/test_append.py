# SPDX-License-Identifier: Apache-2.0
"""``--append``: what a dataset has stays byte for byte, new rows follow, and leaks are left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import padless
from harness.report.mistakes import find_originals
from harness.rundir.records import read_attempts
from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.verification import verify
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary
from tests.corpora import Command, contents, reviews, write_csv
from tests.datasets import Row, stored

pytestmark = pytest.mark.thorough

OLD, NEW = reviews(300), reviews(500, seed=1)[300:]
SMALL = ("--shards.rows", 100)


@pytest.fixture
def old(tmp_path: Path, command: Command) -> Path:
    assert command.build(write_csv(tmp_path / "old.csv", OLD), tmp_path / "old", *SMALL) == 0
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
    assert command.build(new, old, *given) == 0, command.err
    assert "cover 94.4% of the tokens, and 100.0% of the old ones" in command.err
    several = ("--source.part_mb", 0.002, "--executor.workers", 2)
    assert command.build(new, tmp_path / "other", *given, *several) == 0, command.err
    after, found, manifest = contents(old), stored(old), read_manifest(old)
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
    assert find_originals(manifest, [7, 401]).texts == {7: OLD[6][0], 401: NEW[100][0]}
    assert command.build(new, old, *given) == 0
    assert "nothing to do" in command.err
    assert contents(old) == after
    write_csv(tmp_path / "third.csv", named[:9], ("text", "label", "split"))
    assert command.build(tmp_path / "[nt]*.csv", old, *given) == 2
    assert (
        command.sentence
        == f"append: {tmp_path / 'new.csv'}: the dataset has its rows already; name only the other files"
    )


def test_a_leak_is_named_where_the_dataset_allows_none(tmp_path: Path, command: Command) -> None:
    old, given = write_csv(tmp_path / "old.csv", OLD), ("--quality.leaks", "error")
    assert command.build(old, tmp_path / "old", *SMALL, *given) == 0
    measured, before = next(iter(stored(tmp_path / "old", "test"))), contents(tmp_path / "old")
    new = write_csv(tmp_path / "new.csv", [NEW[0], (OLD[measured - 1][0], "positive")])
    more = ("--append", *given, "--splits.test", 0, "--splits.validation", 0)
    assert command.build(new, tmp_path / "old", *more) == 3
    assert "new.csv: row 2: another" in command.err.splitlines()[-1]
    assert {name: data for name, data in contents(tmp_path / "old").items() if ".work" not in name} == before


@pytest.mark.processes
def test_a_run_goes_on_with_what_has_grown(old: Path, tmp_path: Path, command: Command) -> None:
    keys = {"config": "tests/plain.yaml", "device": "cpu", "quiet": True, "global_batch": 16, "model.wide": 64}
    padless.train(old, tmp_path / "run", options=keys, epochs=1)
    assert command.build(write_csv(tmp_path / "new.csv", NEW), old, "--append") == 0
    assert [read_manifest(old).rows(name) for name in ("train", "validation", "test")] == [400, 50, 50]
    with pytest.raises(padless.UserError, match="its rows differ"):
        padless.train(old, tmp_path / "run", options=keys, epochs=2)
    padless.train(old, tmp_path / "run", options=keys, epochs=2, allow="data,epochs")
    assert read_attempts(tmp_path / "run")[-1]["resumed_from"] == 15
