# SPDX-License-Identifier: Apache-2.0
"""Classes, detected or configured, spellings of label values, and rows or files without labels."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from padless import open_dataset
from preprocessing.dataset.frames import Dataset
from preprocessing.labels import in_order, is_list, typed_values
from tests.corpora import Command, reviews, write_csv, write_jsonl
from tests.datasets import stored

pytestmark = pytest.mark.thorough

AS_WRITTEN = ("yes", "no", "on", "off", "012", "1e3", "1_000", "0x1F", "1:30", "null", "~", "2012-01-01", ".5", "NaN")
"""What YAML, left to itself, reads as booleans, numbers, dates or nothing."""


def test_classes_as_found(tmp_path: Path, command: Command) -> None:
    rows = [(text, AS_WRITTEN[at % len(AS_WRITTEN)]) for at, (text, _) in enumerate(reviews(280))]
    manifest = command.build(write_csv(tmp_path / "a.csv", rows), tmp_path / "out")
    expected = ["012", "1e3", ".5", "0x1F", "1:30", "1_000", "2012-01-01", "NaN", "no", "null", "off", "on", "yes", "~"]
    assert manifest.labels == expected
    assert Counter(row.label for row in stored(tmp_path / "out").values()) == dict.fromkeys(range(14), 20)


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["10", "9", "-1", "2.5"], ["-1", "2.5", "9", "10"]),
        (["pos", "10", "Negative", "9"], ["9", "10", "Negative", "pos"]),
    ],
)
def test_the_order_of_classes(found: list[str], names: list[str]) -> None:
    assert in_order(found)[0] == names
    assert in_order(found[::-1]) == in_order(found)


def test_what_is_alike_and_what_is_rare_is_said(tmp_path: Path, command: Command) -> None:
    rows = [(text, ("Spam", "spam", "ham ", "ham")[at % 4]) for at, (text, _) in enumerate(reviews(80))]
    source = write_csv(tmp_path / "a.csv", [*rows, ("a text of its own", "odd")])
    assert command.build(source, tmp_path / "out").labels == ["Spam", "ham", "ham ", "odd", "spam"]
    assert "labels: 'Spam' and 'spam' differ only by case or spaces and stay apart; a pair" in command.err
    assert "labels: too few rows for every split: 'odd'" in command.err


GENRES = ["drama", "comedy", "war", "comedy, war", "drama,comedy", "war, drama", "drama,comedy,war"]


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (GENRES, True),
        (["Arts, Crafts and Sewing", "Tools, Garden", "Sports, Outdoors", "Books", "Music"], False),
    ],
)
def test_several_labels_in_one_cell_are_recognised(
    names: list[str], listed: bool, tmp_path: Path, command: Command
) -> None:
    assert is_list(names) == listed
    rows = [(f"text number {number} is about {name}", name) for name in names for number in range(12)]
    path = write_csv(tmp_path / "films.csv", rows)
    command.build(path, tmp_path / "data")
    assert ("column 'label' looks like several labels in one cell ('" in command.err) == listed


OWN: dict[str, tuple[pa.Array, str, list[str]]] = {
    "beyond int64": (pa.array([1, 2**64 - 1], pa.uint64()), "text", ["1", str(2**64 - 1)]),
    "bool": (pa.array([False, True]), "bool", ["false", "true"]),
    "numbers of a dictionary": (pa.array([4, 7]).dictionary_encode(), "int", ["4", "7"]),
}


@pytest.mark.parametrize("kind", OWN)
def test_labels_stay_what_they_were(kind: str, tmp_path: Path, command: Command) -> None:
    """Classes are named as written, and a dataset returns them in the type of the column."""
    values, label_type, names = OWN[kind]
    texts = pa.array([text for text, _ in reviews(60)])
    table = pa.table({"text": texts, "label": values.take(pa.array([at % 2 for at in range(60)]))})
    pq.write_table(table, tmp_path / "a.parquet")
    command.build(tmp_path / "a.parquet", tmp_path / "out")
    dataset = Dataset(tmp_path / "out")
    assert (dataset.labels, dataset.manifest.label_type) == (names, label_type)
    frames = pd.concat([dataset[split].astype({"label": object}) for split in dataset]).set_index("row")["label"]
    expected = table.to_pandas()["label"] if label_type != "text" else table["label"].cast(pa.string()).to_pandas()
    assert (frames.sort_index().to_numpy() == expected.to_numpy()).all()
    assert dataset.arrow("train")["label"].chunk(0).dictionary.to_pylist() == list(typed_values(names, label_type))


def test_the_type_of_labels_is_no_part_of_the_fingerprint(tmp_path: Path, command: Command) -> None:
    """Only the names of classes are part of it: the same labels in CSV, JSON lines and Parquet give one dataset."""
    rows = [(text, at % 2) for at, (text, _) in enumerate(reviews(60))]
    pq.write_table(
        pa.table({"text": [text for text, _ in rows], "label": [n for _, n in rows]}), tmp_path / "a.parquet"
    )
    sources = [write_csv(tmp_path / "a.csv", rows), write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "a.parquet"]
    found = [command.build(source, tmp_path / f"out{source.suffix}") for source in sources]
    assert [manifest.label_type for manifest in found] == ["text", "int", "int"]
    assert len({manifest.fingerprint for manifest in found}) == 1


def class_label(names: list[str]) -> dict[bytes, bytes]:
    """The metadata that Hugging Face's datasets write."""
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def test_names_of_class_label(tmp_path: Path, command: Command) -> None:
    """Each file's metadata names its numbers; classes keep that order, and those without rows are dropped."""
    texts = [text for text, _ in reviews(120)]
    numbers = [(2, 0)[at % 2] for at in range(60)]
    for name, some, labels, names in (
        ("a", texts[:60], numbers, ["World", "Odd", "Business"]),
        ("b", texts[60:], [1 - number // 2 for number in numbers], ["World", "Business"]),
    ):
        table = pa.table({"text": some, "label": pa.array(labels, pa.int64())})
        pq.write_table(table.replace_schema_metadata(class_label(names)), tmp_path / f"{name}.parquet")
    manifest = command.build(tmp_path / "*.parquet", tmp_path / "out")
    assert Counter(row.label for row in stored(tmp_path / "out").values()) == {0: 60, 1: 60}
    assert (manifest.labels, manifest.label_type) == (["World", "Business"], "text")


def test_a_number_needs_a_name(tmp_path: Path, command: Command) -> None:
    table = pa.table({"text": [text for text, _ in reviews(60)], "label": [at % 3 for at in range(60)]})
    pq.write_table(table.replace_schema_metadata(class_label(["bad", "good"])), tmp_path / "a.parquet")
    said = "row 3: label 2 has no name: the file's metadata names 2 classes; correct it, or say"
    assert said in command.refused(3, tmp_path / "a.parquet", tmp_path / "named")


REVIEWS = reviews(120)
OTHERS = [f"unseen {text}" for text, _ in reviews(150, seed=1)]


def test_a_missing_label_and_what_a_column_of_splits_says(tmp_path: Path, command: Command) -> None:
    """``unsup`` in a column of splits, an absent key: rows of the split unlabelled."""
    rows = [{"text": text, "label": label, "split": "train"} for text, label in REVIEWS]
    rows[1]["split"] = "unsup"
    del rows[3]["label"]
    (tmp_path / "r.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    more = ("--splits.validation", 0, "--splits.test", 0, "--source.missing_label", "unlabelled")
    manifest = command.build(tmp_path / "r.jsonl", tmp_path / "out", *more)
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
    statistics = command.build(source, tmp_path / "out", *more).statistics
    found = open_dataset(tmp_path / "out")["unlabelled"]
    assert (list(found["text"]), found["label"].isna().all()) == (kept, True)
    assert f"unlabelled: {len(kept)} of 9 rows without labels are kept" in command.err
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
    command.build(source, tmp_path / "out", *more, "--splits.validation", 0.2)
    data = open_dataset(tmp_path / "out")
    film = [film for _, _, film in films] + [film for _, film in others] + ["none"]
    inside = {name: {film[row - 1] for row in data[name]["row"]} for name in data}
    assert inside["unlabelled"] == inside["train"] | {"film 12", "film 13", "film 14", "none"}
    measured = len(inside["validation"] | inside["test"])
    assert data.manifest.statistics["unlabelled"]["groups_measured"] == 10 * measured > 0
    assert f"{10 * measured} are of groups of validation or test (quality.leaks)" in command.err
