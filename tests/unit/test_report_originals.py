# SPDX-License-Identifier: Apache-2.0
"""The original texts of mistakes: found in every format, refused when the source has changed, and marked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.report import originals
from harness.report.marked import LONGEST, joined, mistakes_of, placed, weighed
from harness.report.originals import Originals, find_originals
from preprocessing.__main__ import main
from preprocessing.base import cli
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from preprocessing.text.resolve import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from tests.corpora import reviews, write_csv, write_jsonl

pytestmark = pytest.mark.thorough

ROWS = [(f'{text}.\n<br />It\'s, "so"!', label) for text, label in reviews(60, words=8)]


def built(source: Path, output: Path, *more: str) -> Manifest:
    keys = ["run", "--source.path", str(source), "--output", str(output), "--executor.workers", "1"]
    assert cli.run(main, [*keys, "--vocabulary.min_count", "1", *more]) == 0
    return read_manifest(output)


def written(place: Path, format: str) -> Path:
    """The same rows in one of the formats."""
    path = place / f"corpus.{format}"
    if format == "csv":
        return write_csv(path, ROWS)
    if format == "jsonl":
        return write_jsonl(path, ROWS)
    if format == "csv.gz":
        path.write_bytes(gzip.compress(write_csv(place / "plain.csv", ROWS).read_bytes()))
    if format == "parquet":
        texts, labels = zip(*ROWS, strict=True)
        pq.write_table(pa.table({"text": texts, "label": labels}), path, row_group_size=25)
    return path


@pytest.mark.parametrize("format", ["csv", "jsonl", "csv.gz", "parquet"])
def test_every_row_of_a_dataset_is_found_in_its_source(tmp_path: Path, format: str) -> None:
    manifest = built(written(tmp_path, format), tmp_path / "data", "--source.part_mb", "0.001")
    rows = [int(row) for name in manifest.splits for block in Split(tmp_path / "data", manifest, name).blocks
            for row in block.row]  # fmt: skip
    found = find_originals(manifest.provenance, rows)
    assert found.missing is None
    assert found.texts == {row: text for row, (text, _) in enumerate(ROWS, 1)}
    assert find_originals(manifest.provenance, []) == Originals({}, None)


def test_rows_of_a_folder_and_of_a_second_file_are_found(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(ROWS):
        path = tmp_path / "texts" / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    manifest = built(tmp_path / "texts", tmp_path / "data")
    negative = [text for text, label in ROWS if label == "negative"]
    assert find_originals(manifest.provenance, [2, 31]).texts == {2: negative[1], 31: ROWS[1][0]}
    others = tmp_path / "others.parquet"
    pq.write_table(pa.table({"review": ["unread <b>one</b>", "unread two"]}), others)
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "1.txt").write_text("in a folder")
    both = json.dumps([str(others), str(tmp_path / "apart")])
    whole = write_csv(tmp_path / "whole.csv", ROWS)
    manifest = built(whole, tmp_path / "with", "--source.unlabelled_path", both)
    expected = {60: ROWS[59][0], 61: "unread <b>one</b>", 62: "unread two", 63: "in a folder"}
    assert find_originals(manifest.provenance, [60, 61, 62, 63]) == Originals(expected, None)
    first, second = write_csv(tmp_path / "1.csv", ROWS[:40]), write_csv(tmp_path / "2.csv", ROWS[40:])
    manifest = built(first, tmp_path / "two", "--source.test_path", str(second))
    first.unlink()
    found = find_originals(manifest.provenance, [3, 41, 60])
    assert found.texts == {41: ROWS[40][0], 60: ROWS[59][0]}
    assert found.missing == f"{first} is no longer where it was when the dataset was made of it"
    write_csv(first, ROWS[:40])
    assert find_originals(manifest.provenance, [41, 60]).texts == {41: ROWS[40][0], 60: ROWS[59][0]}


def test_why_a_text_is_not_to_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path, "csv")
    provenance = built(source, tmp_path / "data").provenance
    content = source.read_bytes()
    changed = f"{source} has changed since the dataset was made of it"
    source.write_bytes(content + b"more,negative\n")
    assert find_originals(provenance, [1]) == Originals({}, changed)
    source.write_bytes(content.replace(b"review 7", b"review 8"))
    assert find_originals(provenance, [1]) == Originals({}, changed)
    source.write_bytes(content)
    monkeypatch.setattr(originals, "MOST_BYTES", 1 << 10)
    large = f"{source} has more than 0 MiB, which is not searched for a report"
    assert find_originals(provenance, [1]) == Originals({}, large)
    monkeypatch.undo()
    source.unlink()
    gone = f"{source} is no longer where it was when the dataset was made of it"
    assert find_originals(provenance, [1, 2]) == Originals({}, gone)
    assert find_originals({}, [1]).missing == "the manifest does not say where they came from"
    config = {**provenance["config"], "source": {**provenance["config"]["source"], "path": ["s3://bucket/corpus.csv"]}}
    remote = "they lie on a remote store, from which a report fetches nothing"
    assert find_originals({**provenance, "config": config}, [1]).missing == remote
    config["source"] = {**config["source"], "no_such_key": 1}
    version = "another version of padless has written down where they came from"
    assert find_originals({**provenance, "config": config}, [1]).missing == version


def tokenizer(**spec: Any) -> Tokenizer:
    return Tokenizer(resolve(TextSpec(**spec)))


def test_weights_are_put_on_the_words_of_the_text() -> None:
    text = "Well, <b>TWO films</b>!\nI don't like  the films."
    words = [("well", 0.0), ("two", 0.5), ("films", -1.0), ("i", 0.0), ("don't", 0.9), ("like", 0.0), ("the", 0.02)]
    pieces = joined(placed(text, [*words, ("films", 0.25)], tokenizer()))
    assert "".join(piece for piece, _ in pieces) == text
    marked = {piece: weight for piece, weight in pieces if weight}
    assert marked == {"TWO": 0.5, "films": -1.0, "don't": 0.9, "films.": 0.25}


def test_lemmas_unknown_words_and_truncated_texts_find_their_places() -> None:
    pytest.importorskip("simplemma", reason="needs the package simplemma")
    make = tokenizer(lemmatizer="simplemma", truncate="tail")
    text = "Cut away here. The zorblax movies were dull"
    tokens = make([text]).to_lists()[0][-5:]
    seen = [
        (token if token != "zorblax" else "<unk>", weight)
        for token, weight in zip(tokens, (0, 0.6, 1, 0, -1), strict=True)
    ]
    marked = {piece: weight for piece, weight in placed(text, seen, make) if weight}
    assert tokens[2] == "movie"
    assert marked == {"zorblax": 0.6, "movies": 1, "dull": -1}


def test_without_its_tokenizer_a_text_is_shown_unmarked() -> None:
    assert placed("Two films.", [("two", 1.0)], None) == [("Two films.", 0.0)]


def test_a_long_text_is_cut_where_the_model_does_not_read(tmp_path: Path) -> None:
    manifest = built(written(tmp_path, "csv"), tmp_path / "data", "--text.truncate", "tail")
    entry = {"row": 1, "label": "a", "predicted": "b", "probability": 0.9, "tokens": ["end"], "weights": [2.0]}
    text = "x" * LONGEST + " END"
    (cut,) = mistakes_of({"mistakes": [entry]}, Originals({1: text}, None), manifest)
    assert cut.text == text[4:]
    assert (cut.left_out, cut.pieces[-1], cut.words) == (4, ("END", 1.0), [("end", 1.0)])
    (missing,) = mistakes_of({"mistakes": [entry]}, Originals({}, "gone"), manifest)
    assert (missing.text, missing.pieces, missing.left_out) == (None, [], 0)


def test_words_weigh_as_shares_of_the_heaviest() -> None:
    assert weighed(["a", "b"], [0.5, -2.0]) == [("a", 0.25), ("b", -1.0)]
    assert weighed(["a"], [0.0]) == [("a", 0.0)]
    assert joined([("a", 0.0), (" ", 0.05), ("b", 0.9), ("c", 0.9)]) == [("a ", 0.0), ("b", 0.9), ("c", 0.9)]


def test_the_manifest_is_enough_after_it_was_written_down(tmp_path: Path) -> None:
    provenance = built(written(tmp_path, "csv"), tmp_path / "data").provenance
    again = json.loads(json.dumps(provenance))
    assert find_originals(again, [5]).texts == {5: ROWS[4][0]}
