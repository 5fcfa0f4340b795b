# SPDX-License-Identifier: Apache-2.0
"""Classes, detected or configured, and spellings of label values."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.dataset.inspect import Dataset
from preprocessing.dataset.shards import read_manifest
from preprocessing.labels import in_order, is_list, typed_values
from tests.corpora import Command, reviews, write_csv, write_jsonl
from tests.datasets import stored

pytestmark = pytest.mark.thorough

AS_WRITTEN = ("yes", "no", "on", "off", "012", "1e3", "1_000", "0x1F", "1:30", "null", "~", "2012-01-01", ".5", "NaN")
"""What YAML, left to itself, reads as booleans, numbers, dates or nothing."""


def test_classes_as_found(tmp_path: Path, command: Command) -> None:
    rows = [(text, AS_WRITTEN[at % len(AS_WRITTEN)]) for at, (text, _) in enumerate(reviews(280))]
    assert command.build(write_csv(tmp_path / "a.csv", rows), tmp_path / "out") == 0
    expected = ["012", "1e3", ".5", "0x1F", "1:30", "1_000", "2012-01-01", "NaN", "no", "null", "off", "on", "yes", "~"]
    assert read_manifest(tmp_path / "out").labels == expected
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
    assert command.build(source, tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out").labels == ["Spam", "ham", "ham ", "odd", "spam"]
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
    assert command.build(path, tmp_path / "data") == 0
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
    assert command.build(tmp_path / "a.parquet", tmp_path / "out") == 0, command.err
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
    assert [command.build(source, tmp_path / f"out{source.suffix}") for source in sources] == [0, 0, 0]
    found = [read_manifest(tmp_path / f"out{source.suffix}") for source in sources]
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
    source = tmp_path / "*.parquet"
    assert command.build(source, tmp_path / "out") == 0, command.err
    assert Counter(row.label for row in stored(tmp_path / "out").values()) == {0: 60, 1: 60}
    assert (read_manifest(tmp_path / "out").labels, read_manifest(tmp_path / "out").label_type) == (
        ["World", "Business"],
        "text",
    )


def test_a_number_needs_a_name(tmp_path: Path, command: Command) -> None:
    table = pa.table({"text": [text for text, _ in reviews(60)], "label": [at % 3 for at in range(60)]})
    pq.write_table(table.replace_schema_metadata(class_label(["bad", "good"])), tmp_path / "a.parquet")
    assert command.build(tmp_path / "a.parquet", tmp_path / "named") == 3
    assert "row 3: label 2 has no name: the file's metadata names 2 classes; correct it, or say" in command.err
