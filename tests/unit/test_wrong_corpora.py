# SPDX-License-Identifier: Apache-2.0
"""Law 9, case by case: errors in a corpus or in the configuration of its preprocessing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from preprocessing.dataset.shards import read_manifest
from preprocessing.dataset.verification import verify
from tests.corpora import Command, reviews, write_csv, write_jsonl

pytestmark = pytest.mark.thorough

ROWS = reviews(60)


def with_row(number: int, text: object, label: object) -> list[tuple[object, object]]:
    """Sixty good rows with another one as row ``number``, counted from 1."""
    rows: list[tuple[object, object]] = list(ROWS)
    rows[number - 1] = (text, label)
    return rows


def csv_file(rows: Sequence[tuple[object, ...]], **more: object) -> Callable[[Path], Path]:
    return lambda folder: write_csv(folder / "reviews.csv", rows, **more)  # type: ignore[arg-type]


def raw_file(data: bytes, name: str = "reviews.csv") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def lines(rows: list[tuple[object, object]]) -> Callable[[Path], Path]:
    return lambda folder: write_jsonl(folder / "reviews.jsonl", rows)


GOOD_CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)
GOOD_LINES = [f'{{"text": "{text}", "label": "{label}"}}' for text, label in ROWS]


WRONG_DATA = {
    "glob without a match": (lambda folder: folder / "*.csv", [], "*.csv: no file matches"),
    "empty folder": (lambda folder: folder, [], "holds no labelled text"),
    "two labels": (
        csv_file([(*row, at % 3) for at, row in enumerate(ROWS)], header=("text", "topic", "stars")),
        [],
        "which column is the label? It could be 'topic' ('negative', 'positive', …); 'stars' ('0', '1', '2', …); "
        "set source.label_column",
    ),
    "missing key": (
        raw_file("\n".join([*GOOD_LINES[:11], '{"review": "a", "label": 1}']).encode(), "r.jsonl"),
        [],
        "r.jsonl: row 12: has no key 'text'; it has 'review', 'label'",
    ),
    "two lists": (
        raw_file(b'[{"text": "a", "label": 1}]\n[{"text": "b", "label": 2}]', "r.json"),
        [],
        "r.json: after row 1: more than one list of JSON; join them, or keep it alone",
    ),
    "a list of texts": (
        raw_file(b'[{"text": "a", "label": 1}, "b"]', "r.json"),
        [],
        "r.json: row 2: a str, expected an object",
    ),
    "Polish": (
        raw_file(
            GOOD_CSV.replace("\n", "\nźródło żółć błąd ", 60).encode("cp1250"),
            "reviews.csv",
        ),
        [],
        "reviews.csv: its bytes are neither UTF-8 nor Latin-1; set source.encoding, for example cp1250",
    ),
    "unknown label": (
        csv_file(with_row(17, "fine", "maybe")),
        ["--source.labels", "{bad: [negative], good: [positive]}"],
        "reviews.csv: row 17: label 'maybe' is not known; known are negative, positive",
    ),
    "unknown split": (
        csv_file(
            [(*row, "train" if at != 8 else "tst") for at, row in enumerate(ROWS)], header=("text", "label", "part")
        ),
        ["--splits.column", "part"],
        "reviews.csv: row 9: split 'tst' is not known; known are train, training, validation, valid, val, dev, test; "
        "say in splits.names which split it means",
    ),
    "not UTF-8": (
        raw_file(GOOD_CSV.replace(ROWS[4][0], "café").encode().replace(ROWS[16][0].encode(), b"caf\xe9")),
        [],
        "reviews.csv: row 17: byte 3 (0xe9) of 'text' is not UTF-8; set source.encoding, or correct the row",
    ),
    "empty text refused": (
        csv_file(with_row(9, "", "negative")),
        ["--quality.empty", "error"],
        "row 9: no token is left",
    ),
    "every row of a split dropped": (
        csv_file([(*row, part) for part in ("train", "test") for row in ROWS], header=("text", "label", "part")),
        ["--splits.column", "part"],
        "split train: no row is left for it, of 120, quality.leaks drops 60; equal texts stay in one split",
    ),
    "times that are none": (
        csv_file([(*row, "train") for row in ROWS], header=("text", "label", "part")),
        ["--splits.time_column", "part"],
        "reviews.csv: row 1: 'train' in 'part' is no date with its year, and no number; correct it, or name another",
    ),
    "leak refused": (
        csv_file(
            [(*ROWS[at % 50], "test" if at >= 40 else "train") for at in range(60)], header=("text", "label", "part")
        ),
        ["--splits.column", "part", "--quality.leaks", "error"],
        "reviews.csv: row 1: another split that the source names holds an equal text (and 9 more)",
    ),
    "text that is a number": (
        lines(with_row(3, 12, "negative")),
        [],
        "reviews.jsonl: row 3: 'text' is 12, expected a text",
    ),
}


@pytest.mark.parametrize("case", WRONG_DATA)
def test_wrong_data_is_named_and_ends_with_3(case: str, tmp_path: Path, command: Command) -> None:
    write, arguments, expected = WRONG_DATA[case]
    (tmp_path / "in").mkdir()
    code = command.build(write(tmp_path / "in"), tmp_path / "out", *arguments)
    assert (code, expected in command.sentence) == (3, True), command.sentence
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_strange_texts_are_kept_and_counted(tmp_path: Path, command: Command) -> None:
    """Null, empty, only stop words, and one of a megabyte: each becomes a row, and the manifest counts it."""
    texts = (None, "", "the of and", "word " * 200_000, "\ud800 \x00 fine")
    source = write_jsonl(tmp_path / "reviews.jsonl", ROWS)
    with open(source, "a") as file:
        file.writelines(json.dumps({"text": text, "label": "negative"}) + "\n" for text in texts)
    assert command.build(source, tmp_path / "out", "--text.stop_words", "stop-words") == 0, command.err
    statistics = read_manifest(tmp_path / "out").statistics
    assert (statistics["rows_kept"], statistics["missing_text"], statistics["empty"]) == (65, 1, 3)
    assert sum(split["truncated"] for split in statistics["splits"].values()) == 1
    assert verify(tmp_path / "out") == []
