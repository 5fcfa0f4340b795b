# SPDX-License-Identifier: Apache-2.0
"""Texts without labels: from files of their own or from rows whose label is missing, to shards and word vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from preprocessing.base.split_names import NO_LABEL, UNLABELLED
from preprocessing.dataset.shards import Split, read_manifest
from tests.corpora import Command, contents, reviews, write_csv

ROWS = reviews(120)
OTHERS = [f"unseen {text}" for text, _ in reviews(150, seed=1)]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "labelled.csv", ROWS)


def texts_in(path: Path, texts: list[str]) -> Path:
    return write_csv(path, [(text,) for text in texts], header=("text",))


def column(root: Path, name: str, split: str = UNLABELLED) -> np.ndarray:
    """One column of a split, in the order of the shards."""
    return np.concatenate([getattr(block, name) for block in Split(root, read_manifest(root), split).blocks])


def test_texts_of_their_own_files_are_a_split(labelled: Path, tmp_path: Path, command: Command) -> None:
    others = texts_in(tmp_path / "others.csv", OTHERS)
    out = tmp_path / "out"
    assert command.build(labelled, out, "--source.unlabelled_path", others, "--shards.rows", 50) == 0, command.err
    manifest = read_manifest(out)
    assert list(manifest.splits) == ["train", "validation", "test", "unlabelled"]
    assert manifest.labels == ["negative", "positive"]
    assert sorted(column(out, "row")) == list(range(len(ROWS) + 1, len(ROWS) + len(OTHERS) + 1))
    assert set(column(out, "label")) == {NO_LABEL}
    assert [info.path[:16] for info in manifest.splits["unlabelled"]] == [f"unlabelled/{at:05d}" for at in range(3)]
    assert manifest.statistics["splits"]["unlabelled"]["rows"] == len(OTHERS)
    assert manifest.statistics["unlabelled"]["shared"] == {"train": 0, "validation": 0, "test": 0}
    assert "unlabelled: 150 of 150 rows without labels are kept\n" in command.err
    assert command("check", out) == 0, command.err


def test_labelled_shards_are_the_same_with_and_without_unlabelled_texts(
    labelled: Path, tmp_path: Path, command: Command
) -> None:
    others = ("--source.unlabelled_path", texts_in(tmp_path / "others.csv", OTHERS))
    assert command.build(labelled, tmp_path / "alone", "--shards.rows", 50) == 0
    both = (*others, "--vocabulary.count_unlabelled", "false", "--shards.rows", 50)
    assert command.build(labelled, tmp_path / "both", *both) == 0, command.err
    alone, there = contents(tmp_path / "alone"), contents(tmp_path / "both")
    shards = {name for name in there if name.startswith(("train/", "validation/", "test/"))}
    assert {name: there[name] for name in [*shards, "vocabulary.arrow"]} == {
        name: alone[name] for name in alone if name != "dataset.json"
    }


@pytest.mark.processes  # which importing gensim starts
def test_vectors_are_learned_from_both(labelled: Path, tmp_path: Path, command: Command) -> None:
    pytest.importorskip("gensim")
    out = tmp_path / "out"
    others = texts_in(tmp_path / "others.csv", OTHERS)
    assert command.build(labelled, out, "--source.unlabelled_path", others) == 0
    few = ("--dim", 4, "--window", 2, "--negative", 2, "--epochs", 1, "--json")
    assert command("vectors", out, *few) == 0, command.err
    found = json.loads(command.out)
    assert found["settings"]["splits"] == ["train", "unlabelled"]
    assert found["rows"] == read_manifest(out).rows("train") + len(OTHERS)
    assert found["coverage"] == 1.0
    assert command("vectors", out, *few, "--splits", "[train]") == 0
    alone = json.loads(command.out)
    assert (alone["rows"], alone["coverage"] < 1) == (read_manifest(out).rows("train"), True)
