# SPDX-License-Identifier: Apache-2.0
"""Values that a report computes from a run's files; test_report_page.py tests its pages."""

from __future__ import annotations

import dataclasses
import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.report.mistakes import Originals, find_originals, placed
from harness.report.page import confusions
from harness.report.runs import (
    RunFacts,
    dataset_groups,
    ranked,
    ranks,
    unique_names,
)
from harness.scores.metrics import confusion_from_json, per_class, worst_first
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from tests.corpora import prepare, reviews, write_csv

EMPTY: dict[str, Any] = {field.name: None for field in dataclasses.fields(RunFacts)}
EMPTY |= {name: {} for name in ("config", "environment", "status", "linear")}
EMPTY |= {name: [] for name in ("train", "validation", "speed", "attempts")}
NOTHING = RunFacts(**EMPTY | {"directory": Path("runs/a")})


def facts(**values: Any) -> RunFacts:
    return dataclasses.replace(NOTHING, **values)


def figures(confusion: list[list[int]]) -> dict[str, Any]:
    """Figures of an evaluation with this confusion matrix."""
    names = [f"c{number}" for number in range(len(confusion))]
    entries = per_class(confusion_from_json({"confusion": confusion}, len(names)), names)
    return {"labels": names, "confusion": confusion, "per_class": entries}


CONFUSION = [
    [90, 10, 0, 0, 0],
    [30, 60, 0, 10, 0],
    [0, 0, 1, 1, 0],
    [0, 0, 0, 0, 0],
    [0, 1, 0, 0, 9],
]
"""c2 has the worst F1 of those with rows but two rows; c3 has none; most rows go wrong between c0 and c1."""


def test_the_worst_classes_and_the_largest_confusions_come_first() -> None:
    found = worst_first(figures(CONFUSION)["per_class"])
    assert [entry["label"] for entry in found] == ["c2", "c1", "c0", "c4", "c3"]
    largest = confusions(figures(CONFUSION))[:3]
    assert [(entry["label"], entry["predicted"], entry["rows"]) for entry in largest] == [
        ("c1", "c0", 30),
        ("c0", "c1", 10),
        ("c1", "c3", 10),
    ]


def run(name: str, accuracy: float, log_loss: float, fingerprint: str | None = "a", **values: Any) -> RunFacts:
    """A run with two validations, the first being the best."""
    best = {"step": 1, "accuracy": accuracy, "log_loss": log_loss, "best": True}
    later = {"step": 2, "accuracy": 1.0, "log_loss": 0.0, "best": False}
    return facts(directory=Path(name), validation=[best, later], fingerprint=fingerprint, **values)


def names(runs: list[RunFacts]) -> list[str]:
    return [each.directory.name for each in runs]


def test_runs_stand_in_the_order_of_their_best_validation() -> None:
    by_loss = [run("a", 0.9, 0.5, config={"select": "loss"}), run("b", 0.8, 0.3, config={"select": "loss"})]
    assert names(ranked(by_loss)) == ["b", "a"]
    apart = ranked([run("a", 0.5, 1, "x"), run("b", 0.9, 1, "y"), run("c", 0.6, 1, "x")])
    assert (names(apart), ranks(apart), dataset_groups(apart)) == (["c", "a", "b"], [1, 2, 1], [0, 0, 1])
    alike = [facts(directory=Path(place)) for place in ("x/a", "y/a", "y/b")]
    assert unique_names(alike) == ["x/a", "y/a", "y/b"]


ROWS = [(f'{text}.\n<br />It\'s, "so"!', label) for text, label in reviews(60, words=8)]


@pytest.mark.parametrize("kind", ["csv.gz", "folder"])
def test_every_row_of_a_dataset_is_found_in_its_source(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"corpus.{kind}"
    if kind == "folder":
        for number, (text, label) in enumerate(ROWS):
            (path / label).mkdir(parents=True, exist_ok=True)
            (path / label / f"{number:02}.txt").write_text(text)
    else:
        path.write_bytes(gzip.compress(write_csv(tmp_path / "plain.csv", ROWS).read_bytes()))
    manifest = prepare(path, tmp_path / "data", "--source.part_mb", "0.001")
    rows = sorted(ROWS, key=lambda row: row[1]) if kind == "folder" else ROWS
    expected = {row: text for row, (text, _) in enumerate(rows, 1)}
    assert find_originals(manifest, range(1, 61)) == Originals(expected, None)


def test_why_a_text_is_not_to_be_had_is_said(tmp_path: Path) -> None:
    first, second = write_csv(tmp_path / "1.csv", ROWS[:40]), write_csv(tmp_path / "2.csv", ROWS[40:])
    manifest = prepare(first, tmp_path / "data", "--source.test_path", str(second))
    first.unlink()
    found = find_originals(manifest, [3, 60])
    assert found.texts == {60: ROWS[59][0]}
    assert found.missing == f"{first} is no longer where it was when the dataset was made of it"
    config = manifest.provenance["config"]
    config = {**config, "source": {**config["source"], "path": ["s3://bucket/corpus.csv"]}}
    remote = replace(manifest, provenance={**manifest.provenance, "config": config})
    assert find_originals(remote, [1]).missing == ("they lie on a remote store, from which a report fetches nothing")


def test_weights_are_put_on_the_words_of_the_text() -> None:
    text = "Well, <b>TWO films</b>!\nI don't like  the films."
    words = {"well": 0.0, "two": 0.5, "films": -1.0, "i": 0.0, "don't": 0.9, "like": 0.0, "the": 0.02}
    tokens, weights = [*words, "films"], [*words.values(), 0.25]
    pieces = placed(text, tokens, weights, Tokenizer(resolve(TextSpec())))
    assert "".join(piece for piece, _ in pieces) == text
    found = {piece: weight for piece, weight in pieces if weight}
    assert found == {"TWO": 0.5, "films": 0.25, "don't": 0.9, "the": 0.02}
    assert placed("Two films.", ["two"], [1.0], None) == [("Two films.", 0.0)]
