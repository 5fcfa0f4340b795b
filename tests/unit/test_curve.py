# SPDX-License-Identifier: Apache-2.0
"""``bench curve``: which rows keep their label, what is not done again, the table and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest

from harness.bench import curve
from harness.bench.curve import Case, CurveConfig, Table, drawn, key_of, main, prepare, read_corpus
from harness.bench.curve_table import render, summary
from preprocessing.base.errors import ConfigError, DataError
from tests.datasets import sentences

SPLITS = ("train", "train", "train", "valid")


def write_corpus(path: Path, rows: int = 400) -> Path:
    texts, labels = sentences(rows, 2, 0, 20)
    named = [SPLITS[place % 4] for place in range(rows)]
    lines = [f"{text},c{label},{where}" for text, label, where in zip(texts, labels, named, strict=True)]
    path.write_text("\n".join(["text,label,split", *lines]) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return read_corpus(CurveConfig(), write_corpus(tmp_path / "mine.csv"))


def test_fewer_labels_are_some_of_more(table: Table) -> None:
    config = CurveConfig()
    sets = [drawn(config, table, Case(count, 1, "linear")) for count in (10, 50, 300, 0)]
    assert [len(one) for one in sets] == [10, 50, 300, 300]
    assert sets[0] < sets[1] < sets[2] == sets[3] == set(table.rows("train"))
    assert drawn(config, table, Case(10, 2, "linear")) != sets[0]


def test_more_labels_than_rows_are_refused(table: Table) -> None:
    with pytest.raises(ConfigError, match="labels: 301 of 300 training rows"):
        drawn(CurveConfig(), table, Case(301, 0, "linear"))


def test_rows_that_lose_their_label_join_the_texts_without(table: Table, tmp_path: Path, monkeypatch) -> None:
    """All texts are there once: 20 with a label, 280 without, 100 of validation; the label of the 280 is nowhere."""
    commands: list[tuple[object, ...]] = []
    monkeypatch.setattr(curve, "run", lambda *words: commands.append(words) or 0)
    config = CurveConfig(output=str(tmp_path), unlabelled="more.parquet", text="imdb.yaml")
    kept = drawn(config, table, Case(20, 0, "all texts"))
    assert prepare(config, table, kept, True, tmp_path / "case", tmp_path / "case" / "data") == 0
    labelled = parquet.read_table(tmp_path / "case" / "labelled.parquet").to_pydict()
    without = parquet.read_table(tmp_path / "case" / "unlabelled.parquet").to_pydict()
    assert without.keys() == {"text"}
    assert (labelled["split"].count("train"), labelled["split"].count("validation")) == (20, 100)
    assert sorted(labelled["text"] + without["text"]) == sorted(table.texts)
    (command,) = commands
    named = json.loads(str(command[command.index("--source.unlabelled_path") + 1]))
    assert named == [str(tmp_path / "case" / "unlabelled.parquet"), "more.parquet"]
    prepare(config, table, kept, False, tmp_path / "alone", tmp_path / "alone" / "data")
    assert "--source.unlabelled_path" not in commands[1]
    for words in commands:  # no part of the rows that keep their label is cut off
        assert words[words.index("--splits.test") + 1] == "0"
    assert not (tmp_path / "alone" / "unlabelled.parquet").exists()


def test_finished_figures_are_not_done_again(tmp_path: Path, monkeypatch, capsys) -> None:
    """The linear model of 50 labels is there, and a line that was cut short; only that of 300 is learned."""
    file, output = write_corpus(tmp_path / "mine.csv"), tmp_path / "out"
    config = CurveConfig(output=str(output), labels=[50, 0], draws=[0], methods=["linear"])
    output.mkdir()
    key = key_of(config, curve.sha256(file), Case(50, 0, "linear"))
    line = {"key": key, "labels": 50, "draw": 0, "method": "linear", "accuracy": 0.25, "rows": 50, "seconds": 1.0}
    (output / "figures.jsonl").write_text(json.dumps(line) + '\n{"key": "cut sh\n')
    assert main(config, [str(file)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split() == ["50", "0.2500"]
    lines = (output / "figures.jsonl").read_text().splitlines()
    assert len(lines) == 3
    last = json.loads(lines[2])
    assert (last["rows"], last["labels"]) == (300, 0)
    assert last["accuracy"] > 0.8
    monkeypatch.setattr(curve, "learn_linear", lambda *arguments: pytest.fail("learned again"))
    assert main(config, [str(file)]) == 0


def test_a_case_is_known_by_all_that_decides_it(tmp_path: Path) -> None:
    recipe, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    recipe.write_text("epochs: 1\n")
    other.write_text("epochs: 2\n")
    first = CurveConfig(recipe=str(recipe))
    keys = {key_of(first, "source", Case(100, draw, method)) for draw in (0, 1) for method in curve.METHODS}
    assert len(keys) == 6
    second = CurveConfig(recipe=str(other))
    for method, same in (("linear", True), ("labelled", True), ("all texts", False)):
        case = Case(100, 0, method)
        assert (key_of(first, "source", case) == key_of(second, "source", case)) is same
        assert key_of(first, "source", case) != key_of(first, "another", case)


def test_trainings_on_all_texts_start_from_weights(tmp_path: Path, monkeypatch) -> None:
    """Made once, they decide those figures alone; what is no run is refused before anything is done."""
    commands: list[tuple[object, ...]] = []
    monkeypatch.setattr(curve, "run", lambda *words: commands.append(words) or 0)
    monkeypatch.setattr(curve, "read_info", lambda directory: SimpleNamespace(weights_sha256=str(directory)))
    plain, config = CurveConfig(), CurveConfig(weights=str(tmp_path / "language"), vectors="words.npy")
    start = ("--init.vectors", "words.npy", "--init.weights", tmp_path / "language")
    for method in ("all texts", "labelled"):
        case = Case(100, 0, method)
        curve.train(config, "recipe.yaml", tmp_path / "data", tmp_path / "run", case)
        assert (commands.pop()[-4:] == start) is (method == "all texts")
        other = CurveConfig(weights=str(tmp_path / "language"))
        assert (key_of(other, "source", case) == key_of(plain, "source", case)) is (method == "labelled")
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"there is no folder .*nothing; name a run directory, or a bundle"):
        main(CurveConfig(weights=str(tmp_path / "nothing")), [str(write_corpus(tmp_path / "mine.csv"))])


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label_column": "stars"}, "no column 'stars'; there are text, label, split"),
        ({"split": "test"}, "no row whose split is test"),
        ({"split_column": "label"}, "row 1: label 'c[01]' is no split"),
    ],
)
def test_a_wrong_table_gets_a_sentence(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_corpus(CurveConfig(**columns), write_corpus(tmp_path / "mine.csv", 8))


def test_one_class_teaches_nothing(tmp_path: Path) -> None:
    table = Table(["a", "b", "c"], ["x", "x", "y"], ["train", "train", "validation"])
    with pytest.raises(DataError, match="the 2 rows of draw 0 are all of one class"):
        curve.measure(CurveConfig(output=str(tmp_path)), table, Case(2, 0, "linear"), "key")


def make_lines() -> list[dict[str, Any]]:
    figures = {(100, "linear"): (0.70, 0.74), (100, "all texts"): (0.80, 0.82), (0, "linear"): (0.90, 0.90)}
    return [
        {"labels": labels, "draw": draw, "method": method, "accuracy": accuracy, "rows": labels or 250, "seconds": 60.0}
        for (labels, method), both in figures.items()
        for draw, accuracy in enumerate(both)
    ]


def test_the_table_has_means_over_draws() -> None:
    lines = summary(make_lines())
    assert [line["rows"] for line in lines] == [100, 250]
    assert lines[0]["methods"]["linear"]["mean"] == pytest.approx(0.72)
    assert lines[0]["methods"]["linear"]["sd"] == pytest.approx(np.std([0.70, 0.74], ddof=1))
    shown = render(lines).splitlines()
    assert shown[1].split() == ["100", "0.7200", "±", "0.0283", "0.8100", "±", "0.0141"]
    assert shown[2].split() == ["250", "0.9000", "±", "0.0000", "-"]


def test_the_picture_has_every_method(tmp_path: Path) -> None:
    from harness.bench.curve_picture import draw

    path = tmp_path / "curve.svg"
    draw(summary(make_lines()), path)
    first = path.read_bytes()
    assert first.startswith(b"<?xml")
    draw(summary(make_lines()), path)
    assert path.read_bytes() == first
