# SPDX-License-Identifier: Apache-2.0
"""The whole job: the bytes depend only on content and configuration; shards hold the encoder's output; ``inspect``
shows it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocessing.pipeline.write import choose_widths
from preprocessing.text.encoder import Encoder
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary
from tests.helpers.corpora import Command, contents, reviews, write_csv, write_jsonl
from tests.helpers.datasets import rows_by_number

pytestmark = pytest.mark.thorough

FIRST = reviews(400, words=80)
ROWS = [*FIRST, *FIRST[:5], ("<b>Quite</b> the same", "negative"), ("quite the same", "negative")]
SMALL = ("--shards.rows", 100, "--source.part_mb", 0.005)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("source") / "reviews.csv", ROWS)


def test_every_row_is_there_once_with_the_ids_of_the_encoder(source: Path, tmp_path: Path, command: Command) -> None:
    vocabulary_options = ("--vocabulary.max_size", 120, "--text.truncate", "both")
    manifest = command.build(source, tmp_path / "out", *SMALL, *vocabulary_options)
    row_by_number = rows_by_number(tmp_path / "out")
    assert sum(map(manifest.rows, manifest.splits)) == len(row_by_number) == len(ROWS)
    vocabulary = Vocabulary.read(tmp_path / "out" / "vocabulary.arrow")
    encoder = Encoder(TextPipeline.from_json(manifest.text), vocabulary)
    assert encoder.hash == manifest.text_hash
    encoded = encoder([text for text, _ in ROWS])
    statistics = manifest.statistics
    assert (statistics["rows_read"], statistics["rows_kept"]) == (len(ROWS), len(ROWS))
    assert statistics["duplicates"] == {"normalised": 6, "across_splits": 0}
    assert encoded.num_tokens.sum() == sum(split["tokens"] for split in statistics["splits"].values())
    for name, entry in statistics["splits"].items():
        ids_of_split = [row.ids for row in row_by_number.values() if row.split == name]
        assert entry["unknown"] == sum(ids.count(1) for ids in ids_of_split)
    ids = [number for row in row_by_number.values() if row.split == "train" for number in row.ids]
    assert vocabulary.counts.tolist() == np.bincount(ids, minlength=len(vocabulary)).tolist()
    for row, row_stored in row_by_number.items():
        expected = encoded.ids[encoded.offsets[row - 1] : encoded.offsets[row]].tolist()
        assert (row_stored.ids, row_stored.label) == (expected, int(ROWS[row - 1][1] == "positive"))


@pytest.mark.processes
def test_the_bytes_do_not_depend_on_workers_or_parts(source: Path, tmp_path: Path, command: Command) -> None:
    command.build(source, tmp_path / "a", "--shards.rows", 100)
    command.build(source, tmp_path / "b", *SMALL, "--executor.workers", 2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@given(st.integers(0, 99), st.floats(3, 6), st.floats(0.1, 0.6))
def test_a_few_widths_keep_padding_low(seed: int, middle: float, spread: float) -> None:
    sampled = np.random.default_rng(seed).lognormal(middle, spread, 50_000).astype(int)
    widths, lengths = choose_widths(Counter(sampled.tolist()), 512), np.clip(sampled, 1, 512)
    ids = np.array(widths)[np.searchsorted(widths, lengths)].sum()
    assert len(widths) < 12
    assert ids - lengths.sum() <= 0.15 * ids


POLICIES = ["--quality.drop", "[empty,contradictions,duplicates]"]
GOOD_ROWS = [
    (text, number % 2, "train" if number % 3 else "test", "kept") for number, (text, _) in enumerate(FIRST[:90])
]
SUSPECT_ROWS: list[tuple[str | None, int | None, str, str]] = [
    *GOOD_ROWS,
    *[(FIRST[number][0], number % 2, "train", "kept") for number in range(0, 21, 3)],  # seven texts of the test split
    (FIRST[1][0], 0, "train", "kept"),  # which had the label 1
    (FIRST[2][0], 0, "train", "kept"),
    (None, 0, "train", "kept"),
    ("", 1, "train", "kept"),
    ("…", 1, "train", "kept"),
    *[("another", 1, "train", "x")] * 5,
    *[("nobody knows", None, "train", "kept")] * 6,
]


def test_rows_that_are_left_out_are_said(tmp_path: Path, command: Command) -> None:
    names = ("text", "label", "split", "part")
    columns = dict(zip(names, map(list, zip(*SUSPECT_ROWS, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    options = ["--source.where", "{part: kept}", "--source.missing_label", "drop", *POLICIES]
    for quiet in ("true", "false"):  # the second time the dataset is there already
        statistics = command.build(tmp_path / "a.parquet", tmp_path / "out", *options, "--quiet", quiet).statistics
        lines = [line.split() for line in command.err.splitlines()]
        left_out = [int(words[2]) for words in lines if words[:2] == ["left", "out:"]]
        assert left_out == [5, 6, 3, 2, 1]
        assert [int(words[1]) for words in lines if words[0] == "kept:"] == [7]
        shortened = [int(words[1]) for words in lines if words[0] == "shortened:"]
        assert shortened == [sum(split["truncated"] for split in statistics["splits"].values())]
        assert (command.out == "") == (quiet == "true")
    assert sum(left_out) == statistics["rows_read"] - statistics["rows_kept"]
    dropped = statistics["dropped"]
    assert [dropped[name] for name in ("filtered", "without_label", "empty")] == left_out[:3]


def test_strange_texts_are_kept_counted_and_inspected(tmp_path: Path, command: Command) -> None:
    """Null, empty, only stop words, and one of a megabyte: each becomes a row, and the manifest counts it."""
    texts = (None, "", "the of and", "word " * 200_000, "\ud800 \x00 fine")
    source = write_jsonl(tmp_path / "reviews.jsonl", reviews(60))
    with open(source, "a") as file:
        file.writelines(json.dumps({"text": text, "label": "negative"}) + "\n" for text in texts)
    (tmp_path / "words.txt").write_text("the\nof\nand\n")
    statistics = command.build(source, tmp_path / "out", "--text.stop_words", tmp_path / "words.txt").statistics
    assert (statistics["rows_kept"], statistics["missing_text"], statistics["empty"]) == (65, 1, 3)
    assert command("inspect", tmp_path / "out", "--verify") == 0
    assert command("inspect", tmp_path / "out") == 0
    numbers_by_title = {" ".join(words[:-3]): words[-3:] for words in map(str.split, command.out.splitlines())}
    assert sum(map(int, numbers_by_title["rows"])) == 65
    assert "\nread: 65 rows of" in command.out
    assert "\nshortened: 1 row of more than" in command.out
