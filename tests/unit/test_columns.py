# SPDX-License-Identifier: Apache-2.0
"""Detection of the columns with text, label and splits, and the command's output about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from preprocessing.base.errors import DataError
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus.columns import Found, candidates, looked_at, resolved
from preprocessing.corpus.sources import files
from preprocessing.dataset.shards import read_manifest
from tests.corpora import Command, write_csv

ROWS = 60
SENTENCES = [f"this is what viewer {at} thinks of it" for at in range(ROWS)]
MOODS = [["good", "bad", "so so"][at % 3] for at in range(ROWS)]


def found_in(path: Path, splits: SplitConfig | None = None, **options: object) -> Found:
    return resolved(list(files(SourceConfig(path=str(path), **options), splits or SplitConfig())))


def chosen(columns: dict[str, list[object]]) -> tuple[list[str], list[str]]:
    """The candidates for the text, and those for the label among the rest."""
    looks = [looked_at(name, values) for name, values in columns.items()]
    text = candidates(looks, "text")
    rest = [look for look in looks if not text or look.name != text[0].name]
    return [look.name for look in text], [look.name for look in candidates(rest, "label")]


IDS = list(range(ROWS))
CASES = {
    "review, sentiment": ({"id": IDS, "review": SENTENCES, "sentiment": MOODS}, ["review"], ["sentiment"]),
    "text and label, whatever else": (
        {"text": MOODS, "label": IDS, "review": SENTENCES, "class": MOODS},
        ["text"],
        ["label"],
    ),
    "two texts": ({"pros": SENTENCES, "cons": SENTENCES, "y": MOODS}, ["pros", "cons"], ["y"]),
    "two labels": ({"review": SENTENCES, "topic": MOODS, "stars": [1, 2] * 30}, ["review"], ["topic", "stars"]),
    "prices are no label": ({"review": SENTENCES, "price": [0.5, 3.25] * 30, "kind": MOODS}, ["review"], ["kind"]),
    "no spaces between words": (
        {"評論": [f"這部電影真的非常好看我很喜歡{at}" for at in IDS], "情感": MOODS}, ["評論"], ["情感"]
    ),
    "neither dates nor addresses": (
        {
            "review": SENTENCES,
            "gesehen": [f"{at % 9 + 1}.12.2024" for at in IDS],
            "seen": [f"12/0{at % 9 + 1}/24" for at in IDS],
            "at": [f"2024-12-0{at % 9 + 1}T10:00:00Z" for at in IDS],
            "clock": [f"{at % 9 + 1}:05 PM" for at in IDS],
            "said": [f"{at % 9 + 1} March 2024" for at in IDS],
            "year": [2020 + at % 3 for at in IDS],
            "link": [f"www.example.org/{at % 4}" for at in IDS],
            "by": [f"a{at % 5}@example.org" for at in IDS],
            "of": [f"00{at % 7}fe2c4-0000-4000" for at in IDS],
            "version": ["1.2.3", "1.3"] * 30,
        },
        ["review"],
        ["version"],
    ),
    "nothing": ({"id": IDS, "n": [at / 7 for at in IDS]}, [], []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_only_candidate_or_all_of_them(case: str) -> None:
    columns, text, label = CASES[case]
    assert chosen(columns) == (text, label)


def test_a_long_file_that_is_sorted_by_label(tmp_path: Path) -> None:
    """The first megabyte has only one label; rows sampled from the whole file have the others."""
    filler = " ".join(f"word{at}" for at in range(200))
    rows = [(f"{at} {filler}", "bad" if at < 1200 else "good") for at in range(2400)]
    found = found_in(write_csv(tmp_path / "a.csv", rows, ("opinion", "mood"))).chosen
    assert (found["text_column"], found["label_column"]) == ("opinion", "mood")


def test_a_split_column_where_that_is_safe(tmp_path: Path) -> None:
    rows = [(text, MOODS[at], ["train", "dev"][at % 2]) for at, text in enumerate(SENTENCES)]
    header = ("text", "label", "Split")
    assert found_in(write_csv(tmp_path / "a.csv", rows, header)).files[0].splits.column == "Split"
    unsafe = {
        "a value that is no split": [(*row[:2], "holdout" if at == 7 else row[2]) for at, row in enumerate(rows)],
        "one label in a split": [(row[0], "bad" if row[2] == "dev" else row[1], row[2]) for row in rows],
    }
    for case, its in unsafe.items():
        assert found_in(write_csv(tmp_path / "b.csv", its, header)).files[0].splits.column is None, case


def test_a_first_line_that_is_a_row(tmp_path: Path) -> None:
    rows = [(MOODS[at], text) for at, text in enumerate(SENTENCES)]
    found = found_in(write_csv(tmp_path / "a.csv", rows, header=()))
    assert found.files[0].source.columns == ["column_1", "column_2"]
    assert (found.chosen["text_column"], found.chosen["label_column"]) == ("column_2", "column_1")
    assert found.lines[0].endswith("there is no header line; columns are called column_1, column_2")
    named = found_in(write_csv(tmp_path / "b.csv", rows, ("good", "opinion")))
    assert named.files[0].source.columns == []


def test_what_is_named_is_not_looked_for(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", zip(SENTENCES, SENTENCES, MOODS, strict=True), ("pros", "cons", "mood"))
    with pytest.raises(DataError, match=r"which column is the text\? It could be 'pros' .*; 'cons' .*; set"):
        found_in(path)
    assert found_in(path, text_column="cons").chosen["label_column"] == "mood"
    assert found_in(path, text_column="cons", label_column="mood").lines == []


def test_the_command_says_what_it_found(tmp_path: Path, command: Command) -> None:
    rows = [(at, f"très {['bon', 'mauvais'][at % 2]} film no {at % 50}, vu par {at}", MOODS[at]) for at in range(ROWS)]
    path = write_csv(tmp_path / "avis.csv", rows, ("no", "avis", "note"), delimiter=";")
    path.write_bytes(path.read_text(encoding="utf-8").encode("latin-1"))
    small = ("--executor.workers", 1, "--text.max_tokens", 16)
    assert command("prepare", path, "--output", tmp_path / "found", *small) == 0, command.err
    assert [line.partition("avis.csv: ")[2] for line in command.err.splitlines() if line.startswith("source: ")] == [
        "delimiter ';', encoding windows-1252 ('très')",
        "the text is column 'avis' (source.text_column)",
        "the label is column 'note' (source.label_column)",
    ]
    found = read_manifest(tmp_path / "found")
    assert found.labels == ["bad", "good", "so so"]
    assert found.provenance["sources"][0]["read_as"] == {"delimiter": ";", "encoding": "windows-1252"}
    assert found.provenance["config"]["source"]["text_column"] == "avis"
    assert "très".encode() in (tmp_path / "found" / "vocabulary.arrow").read_bytes()
