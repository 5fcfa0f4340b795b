# SPDX-License-Identifier: Apache-2.0
"""Classes as they are found, as they are given, and label values as they are written."""

from __future__ import annotations

import json
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.base import cli
from preprocessing.base.errors import ConfigError
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.shards import Split, read_manifest
from preprocessing.labels import NEUTRAL, UNKNOWN, alike, as_recorded, found_in, in_order, is_list
from tests.corpora import Command, contents, reviews, write_csv, write_jsonl

pytestmark = pytest.mark.thorough

AS_WRITTEN = ("yes", "no", "on", "off", "012", "1e3", "1_000", "0x1F", "1:30", "null", "~", "2012-01-01", ".5", "NaN")
"""What YAML, left to itself, reads as booleans, numbers, dates or nothing."""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def parsed(*argv: str) -> PreprocessConfig:
    return cli.parse(PreprocessConfig, ["--output", "unused", *argv], prog="run")


def counts(root: Path) -> dict[str, int]:
    """Class name -> rows, over all splits, read from the shards."""
    manifest, found = read_manifest(root), dict.fromkeys(read_manifest(root).labels, 0)
    for name in manifest.splits:
        for block in Split(root, manifest, name).blocks:
            for label in block.label:
                found[manifest.labels[label]] += 1
    return found


@pytest.mark.parametrize("quoted", [False, True])
def test_values_are_what_was_written(quoted: bool, tmp_path: Path) -> None:
    values = [json.dumps(value) if quoted else value for value in AS_WRITTEN]
    labels = f"{{first: [{', '.join(values[::2])}], {values[1]}: [{', '.join(values[1::2])}]}}"
    expected = {"first": list(AS_WRITTEN[::2]), AS_WRITTEN[1]: list(AS_WRITTEN[1::2])}
    assert parsed("--source.labels", labels).source.labels == expected
    assert parsed(f"--source.labels={labels}").source.labels == expected
    (tmp_path / "a.yaml").write_text(
        f"source:\n  labels: {labels}\n  neutral: [{values[0]}x, -1, 3]\nvocabulary: {{min_count: 7}}\n"
        f"splits:\n  validation: 1e-1\n  column: part\n  names: {{train: [{values[3]}, 0]}}\n"
    )
    (tmp_path / "source.yaml").write_text(f"labels: {labels}\n")
    assert parsed("--source", str(tmp_path / "source.yaml")).source.labels == expected
    assert parsed("--source", f"{{labels: {labels}}}").source.labels == expected
    if not quoted:
        config = parsed("--config", str(tmp_path / "a.yaml"))
        assert config.source.labels == expected
        assert config.source.neutral == ["yesx", "-1", "3"]
        assert (config.vocabulary.min_count, config.splits.validation) == (7, 0.1)
        assert config.splits.names == {"train": ["off", "0"]}
        assert parsed("--config", str(tmp_path / "a.yaml"), "--source.labels", "auto").source.labels == "auto"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("{a: [[x]], b: [y]}", "source.labels.a: ['x'] is no text: name each value by itself"),
        ("{a: [{x: z}], b: [y]}", "source.labels.a: {'x': 'z'} is no text: name each value by itself"),
        ("{a: x, b: [y]}", "source.labels.a: 'x' is no list of values: name those that mean it, as in [a]"),
        ("{a: {x: z}, b: [y]}", "source.labels.a: {'x': 'z'} is no list of values"),
        ("[a, b]", "source.labels: "),
    ],
)
def test_values_that_are_no_texts(labels: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"source: {{labels: {labels}}}\n")
    for given in (("--source.labels", labels), ("--config", str(tmp_path / "a.yaml"))):
        with pytest.raises(ConfigError, match=re.escape(said)):
            parsed(*given)


@pytest.mark.thorough
def test_thousands_of_names_take_seconds(tmp_path: Path) -> None:
    labels = {f"class{number}": [f"class{number}"] for number in range(2000)}
    (tmp_path / "a.yaml").write_text(json.dumps({"source": {"labels": labels}}))
    began = time.process_time()
    assert parsed("--config", str(tmp_path / "a.yaml")).source.labels == labels
    assert time.process_time() - began < 20  # one here; a minute where each value copies the whole mapping


@pytest.mark.parametrize("place", ["command line", "file"])
def test_a_corpus_of_yes_and_no(place: str, tmp_path: Path, command: Command) -> None:
    rows = [(text, AS_WRITTEN[at % len(AS_WRITTEN)]) for at, (text, _) in enumerate(reviews(280))]
    source, labels = write_csv(tmp_path / "a.csv", rows), "{yes: [yes, on, 012, 1e3, 1_000, 0x1F, 1:30], 0: [no, off"
    labels += ", null, ~, 2012-01-01, .5, NaN]}"
    (tmp_path / "a.yaml").write_text(f"source: {{labels: {labels}}}\n")
    given = {"command line": ("--source.labels", labels), "file": ("--config", tmp_path / "a.yaml")}[place]
    assert command.build(source, tmp_path / "out", *given) == 0, command.err
    assert counts(tmp_path / "out") == {"yes": 140, "0": 140}
    assert command.build(source, tmp_path / "out", *given) == 0
    assert "already complete" in command.err


def test_classes_as_found(tmp_path: Path, command: Command) -> None:
    rows = [(text, AS_WRITTEN[at % len(AS_WRITTEN)]) for at, (text, _) in enumerate(reviews(280))]
    assert command.build(write_csv(tmp_path / "a.csv", rows), tmp_path / "out") == 0
    expected = ["012", "1e3", ".5", "0x1F", "1:30", "1_000", "2012-01-01", "NaN", "no", "null", "off", "on", "yes", "~"]
    assert counts(tmp_path / "out") == dict.fromkeys(expected, 20)
    assert read_manifest(tmp_path / "out").labels == expected
    assert "labels: 14 classes found: 012 20, 1e3 20, .5 20, 0x1F 20" in command.err
    assert "and 2 more" in command.err
    assert command.build(tmp_path / "a.csv", tmp_path / "out") == 0
    assert "already complete" in command.err


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["10", "9", "-1", "2.5"], ["-1", "2.5", "9", "10"]),
        (["b", "10", "a", "9"], ["9", "10", "a", "b"]),
        (["0", "1"], ["negative", "positive"]),
        (["pos", "Negative", "1"], ["negative", "positive"]),
        (["1"], ["negative", "positive"]),
        (["0", "1", "2"], ["0", "1", "2"]),
        (["neg", "neutral", "pos"], ["neg", "neutral", "pos"]),
        (["00", "01"], ["00", "01"]),
    ],
)
def test_the_order_of_classes(found: list[str], names: list[str]) -> None:
    assert in_order(found)[0] == names
    assert in_order(found[::-1]) == in_order(found)


def test_one_part_of_a_corpus() -> None:
    numbers, classes = found_in(pa.array(["b", "a", None, " ", "3.0", "b", "3"]), ["A"])
    assert classes == ["3", "b"]
    assert numbers.tolist() == [1, NEUTRAL, UNKNOWN, UNKNOWN, 0, 1, 0]
    assert alike(["a", "A", " a", "b", "b c", "b  c"]) == [["a", "A", " a"], ["b c", "b  c"]]


STARS = np.array([1, 2, 3, 4, 5, 3] * 20)
COLUMNS: dict[str, pa.Array] = {
    **{
        kind: pa.array(STARS, kind)
        for kind in ("int8", "int16", "int32", "int64", "uint8", "uint64", "float", "double")
    },
    "decimal": pa.array([Decimal(f"{star}.00") for star in STARS.tolist()], pa.decimal128(5, 2)),
    "text": pa.array(list(map(str, STARS.tolist()))),
    "dictionary": pa.array(STARS, "int64").dictionary_encode(),
    "texts of a dictionary": pa.array(list(map(str, STARS.tolist()))).dictionary_encode(),
}


@pytest.mark.parametrize("kind", [*COLUMNS, "csv", "csv of floats", "json", "json of floats", "folder"])
def test_neutral_is_a_number_in_every_format(kind: str, tmp_path: Path, command: Command) -> None:
    texts = [text for text, _ in reviews(len(STARS))]
    source, spelt = tmp_path / "a.parquet", {"csv of floats": float, "json of floats": float}.get(kind, int)
    rows: list[Any] = [(text, spelt(star)) for text, star in zip(texts, STARS, strict=True)]
    if kind.startswith("csv"):
        source = write_csv(tmp_path / "a.csv", rows)
    elif kind.startswith("json"):
        source = write_jsonl(tmp_path / "a.jsonl", rows)
    elif kind == "folder":
        source = tmp_path / "stars"
        for at, (text, star) in enumerate(rows):
            (source / str(star)).mkdir(parents=True, exist_ok=True)
            (source / str(star) / f"{at}.txt").write_text(text)
    else:
        pq.write_table(pa.table({"text": texts, "label": COLUMNS[kind]}), source)
    assert command.build(source, tmp_path / "out", "--source.neutral", "[3]") == 0, command.err
    assert counts(tmp_path / "out") == dict.fromkeys("1245", 20)
    assert read_manifest(tmp_path / "out").statistics["dropped"]["neutral"] == 40


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_booleans_keep_their_spelling(kind: str, tmp_path: Path, command: Command) -> None:
    texts = [text for text, _ in reviews(60)]
    rows = [(text, at % 2 == 0) for at, text in enumerate(texts)]
    pq.write_table(pa.table({"text": texts, "label": [label for _, label in rows]}), tmp_path / "a.parquet")
    source = {"parquet": tmp_path / "a.parquet", "json": write_jsonl(tmp_path / "a.jsonl", rows)}[kind]
    assert command.build(source, tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out").labels == ["negative", "positive"]
    mixed = write_jsonl(tmp_path / "b.jsonl", [*rows, *[(f"more {text}", 2) for text in texts]])
    assert command.build(mixed, tmp_path / "mixed") == 0
    assert counts(tmp_path / "mixed") == {"0": 30, "1": 30, "2": 60}


def test_what_is_alike_and_what_is_rare_is_said(tmp_path: Path, command: Command) -> None:
    rows = [(text, ("Spam", "spam", "ham ", "ham")[at % 4]) for at, (text, _) in enumerate(reviews(80))]
    source = write_csv(tmp_path / "a.csv", [*rows, ("a text of its own", "odd")])
    assert command.build(source, tmp_path / "out", "--source.part_mb", 0.001) == 0
    assert read_manifest(tmp_path / "out").labels == ["Spam", "ham", "ham ", "odd", "spam"]
    assert "labels: 'Spam' and 'spam' differ only by case or spaces and stay apart; source.labels can" in command.err
    assert "labels: 'ham' and 'ham ' differ only by case or spaces" in command.err
    assert "labels: too few rows for every split: 'odd' (1 row, none in validation and test)" in command.err
    spelt = write_csv(tmp_path / "b.csv", [(text, ("pos", "neg", "Neg")[at % 3]) for at, (text, _) in enumerate(rows)])
    assert command.build(spelt, tmp_path / "pair") == 0
    assert "labels: 'Neg', 'neg' are spellings of the class negative" in command.err


GENRES = ["drama", "comedy", "war", "comedy, war", "drama,comedy", "war, drama", "drama,comedy,war"]


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        (GENRES, True),
        ([name.replace(",", "|") for name in GENRES], True),
        (["Arts, Crafts and Sewing", "Tools, Garden", "Sports, Outdoors", "Books", "Music"], False),
        (["a,b", "c", "d"], False),
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


def test_a_map_is_recorded_as_before() -> None:
    values = [as_recorded(value) for value in ("0", 0, "neg", "3.5", "3.0", "True", "012", "yes", "1e3", "-1", "nan")]
    assert values == [0, 0, "neg", 3.5, 3.0, True, "012", "yes", "1e3", -1, "nan"]
    labels = parsed("--source.labels", "{bad: [1, neg], good: [4.5, 'yes']}").deciding()["source"]["labels"]
    assert labels == {"bad": [1, "neg"], "good": [4.5, "yes"]}
    content = parsed().deciding()
    assert content["source"]["labels"] == {"negative": ["negative", "neg", 0], "positive": ["positive", "pos", 1]}
    assert content["splits"] == {"validation": 0.1, "test": 0.1, "column": None}


def test_what_auto_found_is_recorded_as_auto(tmp_path: Path, command: Command) -> None:
    rows = [(text, ("b", "a")[at % 2]) for at, (text, _) in enumerate(reviews(60))]
    assert command.build(write_csv(tmp_path / "a.csv", rows), tmp_path / "out") == 0
    assert read_manifest(tmp_path / "out").provenance["config"]["source"]["labels"] == "auto"
    assert command.build(tmp_path / "a.csv", tmp_path / "out", "--source.labels", "{a: [a], b: [b]}") == 2
    assert "holds a dataset of another configuration" in command.sentence


def test_bytes_do_not_depend_on_where_classes_were_found(tmp_path: Path, command: Command) -> None:
    rows = [(text, f"class {at // 30}") for at, (text, _) in enumerate(reviews(300))]
    source = write_csv(tmp_path / "a.csv", rows)
    assert command.build(source, tmp_path / "a", "--shards.rows", 100) == 0
    assert command.build(source, tmp_path / "b", "--shards.rows", 100, "--source.part_mb", 0.002) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert counts(tmp_path / "a") == {f"class {number}": 30 for number in range(10)}
