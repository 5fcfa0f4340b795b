# SPDX-License-Identifier: Apache-2.0
"""A table with a column of groups and a column of splits, through whole commands."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from preprocessing.dataset.shards import Split, read_manifest
from tests.commands import sentence, succeed
from tests.corpora import Command, contents, reviews, write_csv, write_jsonl

pytestmark = pytest.mark.processes
FILMS = 60
TEXTS = reviews(600)
RANDOM = np.random.default_rng(0)
LABELS = ("no", "yes", "maybe")


def cell(row: int) -> str:
    """Every tenth film is the test, but its first review is among the training rows."""
    return ("tr" if row < FILMS else "2") if row % 10 == 9 else ("", "tr")[row % 2]


ROWS = [(text, LABELS[int(RANDOM.integers(3))], f"film {at % FILMS}", cell(at)) for at, (text, _) in enumerate(TEXTS)]
COMMON = ("--text.max_tokens", 64, "--vocabulary.min_count", 1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "reviews.csv"
    return write_csv(path, ROWS, header=("text", "label", "film", "split"))


Preprocessing = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def preprocessing(capsys: pytest.CaptureFixture[str]) -> Preprocessing:
    """``python -m preprocessing words``, in this process."""
    command = Command(capsys)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, command(*words), command.out, command.err)

    return run


def splits_of(root: Path) -> dict[int, str]:
    """Row of the source -> its split."""
    manifest = read_manifest(root)
    return {
        int(row): name for name in manifest.splits for block in Split(root, manifest, name).blocks for row in block.row
    }


def test_no_film_is_in_two_splits(source: Path, tmp_path: Path, preprocessing: Preprocessing) -> None:
    run = ("run", "--source.path", source, *COMMON, "--splits.group_column", "film", "--splits.validation", 0.2)
    several = ("--executor.workers", 2, "--source.part_mb", 0.005)
    first = succeed(preprocessing(*run, "--output", tmp_path / "a", "--executor.workers", 1))
    succeed(preprocessing(*run, "--output", tmp_path / "b", *several))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    found = splits_of(tmp_path / "a")
    assert len(found) == len(ROWS)
    films: dict[str, set[str]] = {}
    for row, split in found.items():
        films.setdefault(ROWS[row - 1][2], set()).add(split)
    assert {len(splits) for splits in films.values()} == {1}
    assert [list(found.values()).count(name) for name in ("train", "validation", "test")] == [420, 120, 60]
    manifest = read_manifest(tmp_path / "a")
    assert manifest.labels == ["maybe", "no", "yes"]
    for name in manifest.labels:
        total = sum(label == name for _, label, *_ in ROWS)
        counted = [manifest.statistics["splits"][split]["labels"][name] for split in ("validation", "test")]
        assert abs(counted[0] - 0.2 * total) <= 10
        assert abs(counted[1] - 0.1 * total) <= 10
    assert "labels: 3 classes found: maybe " in first.stderr
    assert "splits: by film: 60 groups, the largest 'film" in first.stderr
    assert "validation 120 rows (20.00%, wanted 20.00%); test 60 rows (10.00%, wanted 10.00%)" in first.stderr
    assert "hint: " + str(source) + ": column 'split' is not used" in first.stderr
    shown = succeed(preprocessing("inspect", tmp_path / "a")).stdout
    assert "splits by film: 60 groups, the largest 'film" in shown


def test_a_column_with_words_of_its_own(source: Path, tmp_path: Path, preprocessing: Preprocessing) -> None:
    run = ("run", "--source.path", source, *COMMON, "--splits.column", "split", "--output", tmp_path / "out")
    refused = preprocessing(*run)
    assert refused.returncode == 3
    assert "row 2: split 'tr' is not known (nor '2'); known are train" in refused.stderr.splitlines()[-1]
    names = ("--splits.names", "{train: [tr], test: [2]}")
    done = succeed(preprocessing(*run, *names))
    assert "hint: " + str(source) + ": column 'film' looks like a group (in 600 rows 60 values)" in done.stderr
    found = splits_of(tmp_path / "out")
    cells = {"tr": {"train", "validation"}, "2": {"test"}, "": {"train", "validation"}}
    for cell, expected in cells.items():
        assert {split for row, split in found.items() if ROWS[row - 1][3] == cell} == expected
    grouped = succeed(preprocessing(*run, *names, "--splits.group_column", "film", "--overwrite"))
    shared = "the source's own train and test share 6 groups of film ('film 29', 'film 59', 'film 9', …)"
    assert f"splits: {shared}: 6 rows in train and 54 rows in test" in grouped.stderr
    assert shared in succeed(preprocessing("inspect", tmp_path / "out")).stdout
    shown = json.loads(succeed(preprocessing("inspect", tmp_path / "out", "--json")).stdout)
    assert shown["corpus"]["groups"]["named_by_source"] == ["train", "test"]


def test_hints_on_json_lines(tmp_path: Path, preprocessing: Preprocessing) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [(text, label) for text, label in TEXTS[:60]])
    lines = [
        {**json.loads(line), "customer_id": at % 7, "Split": "x"}
        for at, line in enumerate(path.read_text().splitlines())
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    done = succeed(preprocessing("run", "--source.path", path, "--output", tmp_path / "out", *COMMON))
    assert "column 'customer_id' looks like a group (in 60 rows 7 values)" in done.stderr
    assert "column 'Split' is not used" in done.stderr
    unique = preprocessing(*("run", "--source.path", path, "--output", tmp_path / "u", "--splits.group_column", "text"))
    assert unique.returncode == 2
    assert sentence(unique) == "splits.group_column: 'text' already holds the text or the label"
