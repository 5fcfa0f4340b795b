# SPDX-License-Identifier: Apache-2.0
"""Classes, detected or configured, spellings of label values, several labels to a text, and rows or files without
labels. Splits and folds: by
seed, stratified, equal texts and groups together; suspect rows; what is refused; which rows nearly repeat a row of
validation or test, by a comparison of all pairs.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from padless import open_dataset
from padless.core.errors import DataError
from padless.core.split_names import NO_SPLIT, SPLITS
from padless.core.split_names import TEST_NUMBER as TEST
from padless.core.split_names import TRAIN_NUMBER as TRAIN
from padless.core.split_names import VALIDATION_NUMBER as VALIDATION
from preprocessing.config import PreprocessConfig, SplitConfig
from preprocessing.dataset.inspect import Dataset
from preprocessing.labels import find_separator
from preprocessing.pipeline.assign import Assigner, read_rules
from preprocessing.pipeline.packing import Units, assign_splits, target_rows
from preprocessing.pipeline.parts import Classes
from preprocessing.pipeline.tokenize import mix_hash
from tests.helpers.corpora import Command, reviews, write_csv
from tests.helpers.datasets import rows_by_number

pytestmark = pytest.mark.thorough

AS_WRITTEN = ("yes", "no", "on", "off", "012", "1e3", "1_000", "0x1F", "1:30", "null", "~", "2012-01-01", ".5", "NaN")
"""What YAML, left to itself, reads as booleans, numbers, dates or nothing."""


def test_classes_as_found(tmp_path: Path, command: Command) -> None:
    rows = [(text, AS_WRITTEN[at % len(AS_WRITTEN)]) for at, (text, _) in enumerate(reviews(280))]
    manifest = command.build(write_csv(tmp_path / "a.csv", rows), tmp_path / "out")
    expected = ["012", "1e3", ".5", "0x1F", "1:30", "1_000", "2012-01-01", "NaN", "no", "null", "off", "on", "yes", "~"]
    assert manifest.labels == expected
    assert Counter(row.label for row in rows_by_number(tmp_path / "out").values()) == dict.fromkeys(range(14), 20)


# Several labels to a text.

GENRES = ["drama", "comedy", "war", "comedy, war", "drama,comedy", "war, drama", "drama, comedy, war"]
DEPARTMENTS = ["Arts, Crafts and Sewing", "Tools, Garden", "Sports, Outdoors", "Books", "Music"]


def test_several_labels_in_a_cell_are_recognised(tmp_path: Path, command: Command) -> None:
    """``null`` takes each cell as one label."""
    assert [find_separator([name.replace(",", sign) for name in GENRES]) for sign in ",|"] == [",", "|"]
    assert find_separator(DEPARTMENTS) is None
    rows = [(f"text number {number} is about {cell}", cell) for cell in GENRES for number in range(12)]
    path = write_csv(tmp_path / "films.csv", rows)
    assert command.build(path, tmp_path / "data").labels == ["comedy", "drama", "war"]
    assert command.build(path, tmp_path / "cells", "--source.labels_separator", "null").labels == sorted(GENRES)


EMOTIONS = ["anger", "joy", "love", "surprise"]


def emotions_of(number: int) -> list[list[str]]:
    """Lists of labels, some empty, with rare classes."""
    is_present = np.random.default_rng(0).random((number, len(EMOTIONS))) < [0.4, 0.3, 0.15, 0.04]
    return [[EMOTIONS[at] for at in np.flatnonzero(row)] for row in is_present]


def write_emotions(path: Path, number: int = 400) -> Path:
    """A corpus with several labels to a text, in the format of the path's suffix."""
    texts, authors = [text for text, _ in reviews(number)], [f"author {row % 150}" for row in range(number)]
    frame = pd.DataFrame({"text": texts, "emotions": emotions_of(number), "author": authors})
    if path.suffix == ".csv":
        cells = frame["emotions"].map(str if path.name == "pandas.csv" else ";".join)
        frame.assign(emotions=cells).to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("name", ["a.csv", "pandas.csv", "a.parquet", "a.jsonl"])
def test_several_labels_are_read_from_every_format(name: str, tmp_path: Path, command: Command) -> None:
    command.build(write_emotions(tmp_path / name, 200), tmp_path / "data")
    dataset = Dataset(tmp_path / "data")
    assert dataset.labels == EMOTIONS
    rows = pd.concat([dataset[split] for split in dataset]).sort_values("row")
    assert [list(labels) for labels in rows["label"]] == emotions_of(200)


def test_lists_of_numbers_are_labels_of_their_type(tmp_path: Path, command: Command) -> None:
    lists = [[[4], [4, 7], [], [7]][at % 4] for at in range(60)]
    table = pa.table({"text": [text for text, _ in reviews(60)], "label": lists})
    pq.write_table(table, tmp_path / "a.parquet")
    manifest = command.build(tmp_path / "a.parquet", tmp_path / "data")
    assert (manifest.labels, manifest.label_type, manifest.label_sets) == (["4", "7"], "int", [[], [0], [0, 1], [1]])
    train = Dataset(tmp_path / "data")["train"]
    assert [*map(list, train["label"])] == [lists[row - 1] for row in train["row"]]


def test_what_is_no_label_of_a_text_with_several(tmp_path: Path, command: Command) -> None:
    """An empty cell is no label, or as ``missing_label`` says; null is missing."""
    cells = ["joy;love", "joy;meh", "love", "", "love;joy;joy", "joy"]
    rows = [(text, cells[at % 6]) for at, (text, _) in enumerate(reviews(120))]
    separated = (write_csv(tmp_path / "a.csv", rows), tmp_path / "data", "--source.labels_separator", ";")
    manifest = command.build(*separated, "--source.missing_label", "drop")
    assert (manifest.labels, manifest.label_sets) == (["joy", "love", "meh"], [[0], [0, 1], [0, 2], [1]])
    assert manifest.statistics["dropped"]["without_label"] == 20
    names = "{happy: [joy, meh], fond: [LOVE]}"
    manifest = command.build(*separated, "--source.labels", names, "--overwrite", "true")
    assert (manifest.labels, manifest.label_sets) == (["happy", "fond"], [[], [0], [0, 1], [1]])


REVIEWS = reviews(120)
UNLABELLED_TEXTS = [f"unseen {text}" for text, _ in reviews(150, seed=1)]


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

SPLIT_ROWS = [
    (f"common {number} {word}", ("bad", "good")[number % 2], split)
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


def test_texts_of_validation_and_test_are_left_out(tmp_path: Path, command: Command) -> None:
    source = write_csv(tmp_path / "named.csv", SPLIT_ROWS, header=("text", "label", "split"))
    shared = write_csv(tmp_path / "shared.csv", zip(SHARED), ("text",))
    more = ("--source.unlabelled_path", shared, "--quality.drop", "[leaks]")
    statistics = command.build(source, tmp_path / "out", *more).statistics
    unlabelled = open_dataset(tmp_path / "out")["unlabelled"]
    assert (list(unlabelled["text"]), unlabelled["label"].isna().all()) == (KEPT_TEXTS, True)
    assert statistics["unlabelled"]["shared"] == 3
    assert statistics["rows_kept"] == len(SPLIT_ROWS) + len(KEPT_TEXTS)


def test_groups_of_validation_and_test_are_left_out(tmp_path: Path, command: Command) -> None:
    films = [(text, label, f"film {at % 12}") for at, (text, label) in enumerate(REVIEWS)]
    source = write_csv(tmp_path / "films.csv", films, header=("text", "label", "film"))
    film_rows = [(text, f"film {at % 15}") for at, text in enumerate(UNLABELLED_TEXTS)]
    grouped = write_csv(tmp_path / "others.csv", film_rows, header=("text", "film"))
    more = ("--splits.group_column", "film", "--source.unlabelled_path", grouped)
    command.build(source, tmp_path / "out", *more, "--splits.validation", 0.2)
    data = open_dataset(tmp_path / "out")
    film = np.array([film for *_, film in [*films, *film_rows]])
    films_by_split = {name: set(film[data[name]["row"] - 1]) for name in data}
    assert films_by_split["unlabelled"] == films_by_split["train"] | {"film 12", "film 13", "film 14"}
    measured = len(films_by_split["validation"] | films_by_split["test"])
    assert data.manifest.statistics["unlabelled"]["shared"] == 10 * measured > 0


def facts_of(text: Any, label: Any, named_split: Any = NO_SPLIT, group: Any = 0, **times: Any) -> pd.DataFrame:
    """A table of facts (``rules.sql``) of texts of five tokens; ``label`` is a number, -1 for none."""
    rows = np.arange(1, len(text) + 1)
    text_hash = np.asarray(text, np.uint64)
    columns = {"row": rows, "label": np.asarray(label).astype(str), "named": np.int8(named_split), "missing": False}
    columns |= {"num_tokens": np.int32(5), "text_hash": text_hash, "priority": mix_hash(0, "split", text_hash)}
    return pd.DataFrame(columns | {"group_hash": np.asarray(group, np.uint64), **times}, index=rows)


def assign(facts: pd.DataFrame, splits: SplitConfig, labels: int = 3) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The result by the row's number, and the manifest's report."""
    config = PreprocessConfig(output="out", splits=splits)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        facts.to_parquet(path := f"{folder}/facts.parquet", index=False)
        names = [str(number) for number in range(labels)]
        classes = Classes(names, {name: number for number, name in enumerate(names)}, "text")
        assigner = Assigner(database, config, classes, "reviews.csv")
        report = assigner.run([path], len(facts), f"{folder}/result.parquet")["report"]
        return database.execute(read_rules()["result"]).df().set_index("row").sort_index(), report


TEXTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=120)


# By groups.

SIZES = st.lists(st.integers(1, 25), min_size=6, max_size=60)
FRACTIONS = st.sampled_from([0.0, 0.1, 0.25])


@settings(max_examples=settings().max_examples // 2)  # each is assigned twice
@given(TEXTS, st.booleans(), st.integers(0, 5), FRACTIONS, FRACTIONS)
def test_equal_texts_and_groups_never_part_and_the_order_of_rows_does_not_matter(
    rows: list[tuple[int, int]], is_grouped: bool, seed: int, validation: float, test: float
) -> None:
    group, label = np.array(rows).T
    group = (group + 1).astype(np.uint64)
    label = np.array([label[group == value][0] for value in group])  # of each group's first row, which is what counts
    num_groups = len({*group.tolist()})
    assume(num_groups > 1 and len(rows) != 3)  # all texts equal, or all labels different
    splits = SplitConfig(validation=validation, test=test)
    facts = facts_of(group, label)
    if is_grouped and num_groups < len(rows):
        splits = SplitConfig(validation=validation, test=test, group_column="film")
        facts = facts_of(range(100, 100 + len(rows)), label, group=group)
    split = assign(facts, splits)[0]["split"].to_numpy()
    for value in np.unique(group):
        assert len({*split[group == value].tolist()}) == 1
    for number, fraction in ((VALIDATION, validation), (TEST, test)):
        assert fraction > 0 or not (split == number).any()
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    shuffled_facts = facts.iloc[shuffled].assign(row=np.arange(1, len(rows) + 1))
    assert (assign(shuffled_facts, splits)[0]["split"].to_numpy() == split[shuffled]).all()


@given(SIZES, st.integers(1, 4), st.integers(0, 9), FRACTIONS, FRACTIONS)
def test_shares_are_met_within_the_largest_group(
    sizes: list[int], labels: int, seed: int, validation: float, test: float
) -> None:
    """Each group has its own distribution of labels."""
    random, shares = np.random.default_rng(seed), {"validation": validation, "test": test}
    group = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.uint64), sizes)
    shares_of_group = random.dirichlet(np.ones(labels), len(sizes))
    label = np.concatenate([random.choice(labels, size, p=p) for size, p in zip(sizes, shares_of_group, strict=True)])
    units = Units.sum_counts(group, label, np.ones(len(group), int), np.eye(labels, dtype=int))
    split = assign_splits(units, seed=seed, **shares)[np.searchsorted(units.hash, group)]
    counts = np.stack([np.bincount(label[split == number], minlength=labels) for number in range(3)])
    counts = np.column_stack([counts, counts.sum(axis=1)])
    assert abs(counts - target_rows(counts.sum(axis=0), **shares)).max() <= max(sizes)


# By time.

DATES = ("1523-%m-%dT%H:%M:%SZ", "%Y%m%d", None)
"""The last: timestamps in Parquet."""


def test_the_last_rows_are_the_test(tmp_path: Path, command: Command) -> None:
    days = pd.Series(pd.date_range("2023-01-01", periods=100)).sample(frac=1, random_state=0).reset_index(drop=True)
    frame = pd.DataFrame(reviews(100), columns=["text", "label"])
    for number, date_format in enumerate(DATES):
        source, out = tmp_path / ("corpus.csv" if date_format else "corpus.parquet"), tmp_path / str(number)
        frame["day"] = days.dt.strftime(date_format) if date_format else days
        frame.to_csv(source, index=False) if date_format else frame.to_parquet(source)
        command.build(source, out, "--splits.time_column", "day", "--source.part_mb", 0.002)
        days_by_split = [sorted(days[np.array([*rows_by_number(out, name)]) - 1]) for name in SPLITS]
        assert [*itertools.chain.from_iterable(days_by_split)] == sorted(days)
        assert [*map(len, days_by_split)] == [80, 10, 10]
    source = tmp_path / "corpus.csv"
    frame.assign(day=days.dt.strftime("%d.%m.%Y")).to_csv(source, index=False)
    refused = command.refused(3, source, tmp_path / "refused", "--splits.time_column", "day")
    assert re.search(r"row 1: '\d\d\.\d\d\.2023' in 'day' is no date .* write dates as 2024-12-31, or name", refused)


def test_rows_of_one_time_stay_together_and_equal_texts_go_with_their_last_row() -> None:
    time, text = np.array([1.0, 1, 1, 1, 1, 2, 2, 3, np.nan, 1]), [*range(8), 8, 7]
    splits = SplitConfig(validation=0.2, test=0.2, time_column="day")
    result, _ = assign(facts_of(text, [0] * 10, number=np.nan, date=time), splits)
    assert result["split"].tolist() == [*[TRAIN] * 5, VALIDATION, VALIDATION, TEST, TRAIN, TEST]
    numbers, dates = np.append(1.0, time[1:] * np.nan), np.append(np.nan, time[1:])
    with pytest.raises(DataError, match="'day': times are written in two ways"):
        assign(facts_of(text, [0] * 10, number=numbers, date=dates), splits)
