# SPDX-License-Identifier: Apache-2.0
"""Law 9, case by case: every way in which a corpus or the configuration of its preprocessing can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.verification import verify
from tests.corpora import Command, reviews, write_csv, write_jsonl

pytestmark = pytest.mark.thorough

ROWS = reviews(60)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def with_row(number: int, text: object, label: object) -> list[tuple[object, object]]:
    """Sixty good rows with another one as row ``number``, counted from 1."""
    rows: list[tuple[object, object]] = list(ROWS)
    rows[number - 1] = (text, label)
    return rows


def csv_file(rows: list[tuple[object, object]], **more: object) -> Callable[[Path], Path]:
    return lambda folder: write_csv(folder / "reviews.csv", rows, **more)  # type: ignore[arg-type]


def raw_file(data: bytes, name: str = "reviews.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def parquet_file(columns: dict[str, pa.Array]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "reviews.parquet")
        return folder / "reviews.parquet"

    return write


def lines(rows: list[tuple[object, object]]) -> Callable[[Path], Path]:
    return lambda folder: write_jsonl(folder / "reviews.jsonl", rows)


GOOD_CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
GOOD_LINES = [f'{{"text": "{text}", "label": "{label}"}}' for text, label in ROWS]
TEXTS, LABELS = pa.array([text for text, _ in ROWS]), pa.array([label for _, label in ROWS])


WRONG_DATA = {
    "glob without a match": (lambda folder: folder / "*.csv", [], "*.csv: no file matches"),
    "header only": (raw_file(b"text,label\n"), [], "reviews.csv: the corpus is empty"),
    "empty folder": (lambda folder: folder, [], "holds no labelled text"),
    "two texts": (
        csv_file([(text, label, f"{text}!") for text, label in ROWS], header=("pros", "label", "cons")),
        [],
        "reviews.csv: which column is the text? It could be 'pros' (review 0 w",
    ),
    "two labels": (
        csv_file([(*row, at % 3) for at, row in enumerate(ROWS)], header=("text", "topic", "stars")),
        [],
        "which column is the label? It could be 'topic' (negative, positive, …); 'stars' (0, 1, 2, …); "
        "set source.label_column",
    ),
    "no text": (
        csv_file([(at, label) for at, (_, label) in enumerate(ROWS)], header=("number", "label")),
        [],
        "has no column 'text', and none that looks like it (sentences); it has 'number', 'label'; "
        "set source.text_column",
    ),
    "missing key": (
        raw_file("\n".join([*GOOD_LINES[:11], '{"review": "a", "label": 1}']).encode(), "r.jsonl"),
        [],
        "r.jsonl: row 12: has no key 'text'; it has 'review', 'label'",
    ),
    "JSON array": (raw_file(b'[{"text": "a", "label": 1}]', "r.json"), [], "r.json: one array of JSON, expected one"),
    "missing Parquet column": (
        parquet_file({"text": TEXTS, "when": pa.array([f"2020-01-{at}" for at in range(60)])}),
        [],
        "no column 'label', and none that looks like it (few values that repeat); it has 'text', 'when'",
    ),
    "Parquet text of lists": (
        parquet_file({"text": pa.array([[text] for text, _ in ROWS]), "label": LABELS}),
        [],
        "column 'text' holds list<element: string>, not text; join its values into one text, or set source.text_column",
    ),
    "column twice": (
        csv_file([(*row, 1) for row in ROWS], header=("text", "label", "text")),
        [],
        "more than one column 'text'",
    ),
    "unknown label": (
        csv_file(with_row(17, "fine", "maybe")),
        ["--source.labels", "{bad: [negative], good: [positive]}"],
        "reviews.csv: row 17: label 'maybe' is not known; known are negative, positive",
    ),
    "null label": (lines(with_row(5, "fine", None)), [], "reviews.jsonl: row 5: there is no label"),
    "unknown split": (
        csv_file(
            [(*row, "train" if at != 8 else "tst") for at, row in enumerate(ROWS)], header=("text", "label", "part")
        ),
        ["--splits.column", "part"],
        "reviews.csv: row 9: split 'tst' is not known; known are train, training, validation, valid, val, dev, test; "
        "say in splits.names which split it means",
    ),
    "one class in a named split": (
        csv_file(
            [(*row, "test" if at in (2, 4) else "train") for at, row in enumerate(ROWS)],
            header=("text", "label", "part"),
        ),
        ["--splits.column", "part"],
        "split test: all 2 rows have the label 'negative'",
    ),
    "too few rows": (csv_file(ROWS[:2]), [], "split validation: no row is left for it"),
    "every row neutral": (
        csv_file([(text, "3") for text, _ in ROWS]),
        ["--source.neutral", "[3]"],
        "every row is left out by source.where or source.neutral",
    ),
    "not UTF-8": (
        raw_file(GOOD_CSV.replace(ROWS[4][0], "café").encode().replace(ROWS[16][0].encode(), b"caf\xe9")),
        [],
        "reviews.csv: row 17: byte 3 (0xe9) of 'text' is not UTF-8; set source.encoding, or mend the row",
    ),
    "neither UTF-8 nor Latin-1": (
        raw_file("text,label\nЭтот фильм прекрасен,1\nЭтот фильм ужасен,0\n".encode("cp1251")),
        [],
        "reviews.csv: its bytes are neither UTF-8 nor Latin-1; set source.encoding, for example cp1250, cp1251",
    ),
    "not the encoding that is set": (
        raw_file(GOOD_CSV.replace(ROWS[4][0], "caf\xff").encode("latin-1")),
        ["--source.encoding", "utf-16"],
        "it is not utf-16 (",
    ),
    "JSON line not UTF-8": (
        raw_file(
            "\n".join([*GOOD_LINES, GOOD_LINES[0].replace("review", "été")])
            .encode()
            .replace(ROWS[3][0].encode(), b"caf\xe9"),
            "r.jsonl",
        ),
        [],
        "r.jsonl: row 4: byte 13 of the line (0xe9) is not UTF-8; set source.encoding",
    ),
    "text of only stop words": (
        csv_file([("the", label) for _, label in ROWS]),
        ["--text.stop_words", "stop-words"],
        "row 1",
    ),
    "only empty texts": (
        csv_file([("", label) for _, label in ROWS]),
        [],
        "reviews.csv: row 1: no token is left of this text",
    ),
    "empty text refused": (
        csv_file(with_row(9, "", "negative")),
        ["--quality.empty", "error"],
        "row 9: no token is left",
    ),
    "duplicate refused": (
        csv_file(with_row(9, ROWS[2][0], "negative")),
        ["--quality.duplicates", "error"],
        "reviews.csv: row 9: its split holds an equal text before it",
    ),
    "contradiction refused": (
        csv_file(with_row(9, ROWS[1][0], "negative")),
        ["--quality.contradictions", "error"],
        "reviews.csv: row 2: an equal text has another label (and 1 more)",
    ),
    "leak refused": (
        csv_file(
            [(ROWS[at % 50][0], ROWS[at % 50][1], "test" if at >= 40 else "train") for at in range(60)],
            header=("text", "label", "part"),
        ),
        ["--splits.column", "part", "--quality.leaks", "error"],
        "reviews.csv: row 1: another split that the source names holds an equal text (and 9 more)",
    ),
    "no token left": (csv_file(list(ROWS)), ["--vocabulary.min_count", "1000"], "min_count = 1000"),
    "JSON line that is a list": (raw_file(b'["a", 1]\n', "r.jsonl"), [], "r.jsonl: row 1: a list, expected an object"),
    "text that is a number": (
        lines(with_row(3, 12, "negative")),
        [],
        "reviews.jsonl: row 3: 'text' is 12, expected a text",
    ),
    "not Parquet": (raw_file(b"text,label\n", "reviews.parquet"), [], "reviews.parquet: not a Parquet file"),
    "Parquet text of numbers": (
        parquet_file({"text": pa.array([1.5, 2.5]), "label": pa.array([0, 1])}),
        [],
        "reviews.parquet: column 'text' holds double, not text",
    ),
    "damaged gzip": (raw_file(b"\x1f\x8b no", "reviews.csv.gz"), [], "reviews.csv.gz: "),
    "missing stop list": (csv_file(list(ROWS)), ["--text.stop_words", "absent.txt"], "absent.txt"),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data_is_named_and_ends_with_3(case: str, tmp_path: Path, command: Command) -> None:
    write, arguments, expected = WRONG_DATA[case]
    (tmp_path / "in").mkdir()
    code = command.build(write(tmp_path / "in"), tmp_path / "out", *arguments)
    assert (code, expected in command.sentence) == (3, True), command.sentence
    assert not (tmp_path / "out" / "dataset.json").exists()


WRONG_CONFIGURATION = {
    "unknown key": (["--source.paht", "x"], "--source.paht: no such option; did you mean --source.path?"),
    "label mapping of one class": (["--source.labels", '{"a": [1]}'], "source.labels"),
    "label with two meanings": (
        ["--source.labels", '{"a": [1], "b": ["1.0"]}'],
        "source.labels.b: '1.0' already has a meaning",
    ),
    "text and label in one column": (["--source.label_column", "text"], "source.label_column: 'text'"),
    "split column that is the label": (["--splits.column", "label"], "splits.column: 'label'"),
    "encoding that is none": (["--source.encoding", "utf8000"], "source.encoding: 'utf8000' is not known"),
    "column names that repeat": (["--source.columns", "[text,text]"], "source.columns"),
    "delimiter that is the quote": (["--source.delimiter", '"'], "must differ"),
    "ladder that descends": (["--shards.widths", "[64,32]"], "shards.widths: [64, 32]"),
    "ladder that ends elsewhere": (
        ["--shards.widths", "[32,128]"],
        "shards.widths: the last is 128, but text.max_tokens is 64",
    ),
    "vocabulary without room": (
        ["--vocabulary.max_size", "2"],
        "vocabulary.max_size: 2 is out of range",
    ),
    "no workers": (["--executor.workers", "0"], "executor.workers: 0"),
    "Dask without a scheduler": (["--executor.kind", "dask"], "executor.scheduler: missing"),
    "policy that is none": (["--quality.empty", "ignore"], "quality.empty"),
}


@pytest.mark.parametrize("case", WRONG_CONFIGURATION)
def test_wrong_configuration_is_named_and_ends_with_2(case: str, tmp_path: Path, command: Command) -> None:
    arguments, expected = WRONG_CONFIGURATION[case]
    code = command.build(write_csv(tmp_path / "reviews.csv", ROWS), tmp_path / "out", *arguments)
    assert (code, expected in command.sentence) == (2, True), command.sentence


def test_strange_texts_are_kept_and_counted(tmp_path: Path, command: Command) -> None:
    """Null, empty, only stop words, and one of 10 MB: each becomes a row, and the manifest says so."""
    rows = list(ROWS)
    long = "word " * 2_000_000
    strange = [
        (None, "negative"),
        ("", "positive"),
        ("the of and", "negative"),
        (long, "positive"),
        ("\ud800 \x00 fine", "negative"),
    ]
    source = tmp_path / "reviews.jsonl"
    source.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows + strange))
    assert command.build(source, tmp_path / "out", "--text.stop_words", "stop-words") == 0, command.err
    statistics = read_manifest(tmp_path / "out").statistics
    assert (statistics["rows_kept"], statistics["missing_text"], statistics["empty"]) == (65, 1, 3)
    assert sum(split["empty"] for split in statistics["splits"].values()) == 3
    assert max(split["length_percentiles"]["100"] for split in statistics["splits"].values()) == 2_000_000
    assert verify(tmp_path / "out") == []
