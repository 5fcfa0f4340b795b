# SPDX-License-Identifier: Apache-2.0
"""Rows without a label, in every format and under every policy; files of texts without labels, to their shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from padless import open_dataset
from preprocessing.dataset.shards import read_manifest
from tests.corpora import Command, reviews, write_csv

pytestmark = pytest.mark.thorough

REVIEWS = reviews(120)
OTHERS = [f"unseen {text}" for text, _ in reviews(150, seed=1)]


def test_a_missing_label_and_what_a_column_of_splits_says(tmp_path: Path, command: Command) -> None:
    """``unsup`` in a column of splits, an absent key: rows of the split unlabelled."""
    rows = [{"text": text, "label": label, "split": "train"} for text, label in REVIEWS]
    rows[1]["split"] = "unsup"
    del rows[3]["label"]
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    more = ("--splits.validation", 0, "--splits.test", 0, "--source.missing_label", "unlabelled")
    assert command.build(tmp_path / "r.jsonl", tmp_path / "out", *more) == 0, command.err
    manifest = read_manifest(tmp_path / "out")
    assert {name: manifest.rows(name) for name in manifest.splits} == {"train": 118, "unlabelled": 2}


# Texts that are somewhere else too.

NAMED = [
    (f"common {number} {word}", "good" if number % 2 else "bad", split)
    for split, word in (("train", "a"), ("valid", "b"), ("test", "c"))
    for number in range(4)
]
SHARED = [
    "common 1 a",
    "common 1 b",
    "Common 2 <i>b</i>",
    "common 3 c",
    *["new one", "new one", "New  One"],
    "newer",
    ".",
]
KEPT_TEXTS = ["common 1 a", *["new one"] * 3, "newer", "<unk>"]
ALL = ["common 1 a", "common 1 b", "common 2 b", "common 3 c", *["new one"] * 3, "newer", "<unk>"]


@pytest.mark.parametrize(("leaks", "kept"), [("drop", KEPT_TEXTS), ("keep", ALL)])
def test_texts_of_validation_and_test_are_left_out(
    leaks: str, kept: list[str], tmp_path: Path, command: Command
) -> None:
    source = write_csv(tmp_path / "named.csv", NAMED, header=("text", "label", "split"))
    more = (
        "--source.unlabelled_path",
        write_csv(tmp_path / "shared.csv", zip(SHARED), ("text",)),
        "--quality.leaks",
        leaks,
    )
    assert command.build(source, tmp_path / "out", *more) == 0, command.err
    found = open_dataset(tmp_path / "out")["unlabelled"]
    assert (list(found["text"]), found["label"].isna().all()) == (kept, True)
    assert f"unlabelled: {len(kept)} of 9 rows without labels are kept" in command.err
    statistics = read_manifest(tmp_path / "out").statistics
    assert statistics["unlabelled"]["shared"] == {"train": 1, "validation": 2, "test": 1}
    assert statistics["rows_kept"] == len(NAMED) + len(kept)


def test_groups_of_validation_and_test_are_left_out(tmp_path: Path, command: Command) -> None:
    films = [(text, label, f"film {at % 12}") for at, (text, label) in enumerate(REVIEWS)]
    source = write_csv(tmp_path / "films.csv", films, header=("text", "label", "film"))
    others = [(text, f"film {at % 15}") for at, text in enumerate(OTHERS)]
    grouped = write_csv(tmp_path / "others.csv", others, header=("text", "film"))
    alone = write_csv(tmp_path / "alone.csv", [("no film at all",)], ("text",))
    both = json.dumps([str(grouped), str(alone)])
    more = ("--splits.group_column", "film", "--source.unlabelled_path", both)
    assert command.build(source, tmp_path / "out", *more, "--splits.validation", 0.2) == 0, command.err
    data = open_dataset(tmp_path / "out")
    film = [film for _, _, film in films] + [film for _, film in others] + ["none"]
    inside = {name: {film[row - 1] for row in data[name]["row"]} for name in data}
    assert inside["unlabelled"] == inside["train"] | {"film 12", "film 13", "film 14", "none"}
    measured = len(inside["validation"] | inside["test"])
    assert data.manifest.statistics["unlabelled"]["groups_measured"] == 10 * measured > 0
    assert f"{10 * measured} are of groups of validation or test (quality.leaks)" in command.err
