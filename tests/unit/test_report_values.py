# SPDX-License-Identifier: Apache-2.0
"""What a report makes of a run's files, by value; what its pages say is in test_report_page.py."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.report import mistakes
from harness.report.mistakes import Originals, find_originals, mistakes_of, placed
from harness.report.page import by_value, script_json, write_report_quietly
from harness.report.plots import Series, averaged, draw, is_steep, learning_charts, most_errors, thinned, worst_first
from harness.report.runs import (
    RunFacts,
    best_values,
    dataset_groups,
    differing,
    ranked,
    ranking_figure,
    ranks,
    unique_names,
)
from harness.report.views import class_rows, confusions, label_rows, matrix, reproduce, split_rows
from harness.scores.metrics import confusion_from_json, per_class
from preprocessing.__main__ import main
from preprocessing.base import cli
from preprocessing.dataset.shards import Manifest, Split, read_manifest
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextSpec
from preprocessing.text.tokenizer import Tokenizer
from tests.corpora import reviews, write_csv, write_jsonl
from tests.datasets import write_dataset

NOTHING = RunFacts(
    directory=Path("runs/a"),
    config={},
    environment={},
    status={},
    train=[],
    validation=[],
    speed=[],
    attempts=[],
    measured=None,
    fingerprint=None,
    manifest=None,
    manifest_note=None,
    linear={},
    beside=None,
    linear_note=None,
)


def facts(**values: Any) -> RunFacts:
    return dataclasses.replace(NOTHING, **values)


def test_speed_is_averaged_over_the_time_that_each_line_stands_for() -> None:
    train = [{"step": 10, "rows": 100, "padding": 0.1}, {"step": 20, "rows": 300, "padding": 0.3}]
    speed = [
        {"step": 10, "rows_per_s": 10.0, "tokens_per_s": 1000.0, "data_wait": 0.0, "mfu": None, "memory_bytes": 5},
        {"step": 20, "rows_per_s": 100.0, "tokens_per_s": 8000.0, "data_wait": 0.52, "mfu": 0.5, "memory_bytes": 7},
    ]
    summary = facts(train=train, speed=speed).speed_summary
    assert summary == pytest.approx(
        {
            "seconds": 13.0,
            "tokens_per_s": (10 * 1000 + 3 * 8000) / 13,
            "data_wait": 3 * 0.52 / 13,
            "mfu": 0.5,
            "padding": 0.2,
            "memory_bytes": 7.0,
        }
    )
    assert facts().speed_summary == {}


def test_a_long_run_is_drawn_as_means_of_neighbours() -> None:
    lines = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
    steps, values = averaged([*lines, {"step": 1001, "loss": float("nan")}, {"step": 1002}], "loss", points=100)
    assert len(steps) == 100
    assert (steps[0], values[0]) == (10, 5.5)
    assert (steps[-1], values[-1]) == (1000, 995.5)
    assert averaged(lines[:3], "loss") == ([1, 2, 3], [1.0, 2.0, 3.0])
    assert averaged([], "loss") == ([], [])


def test_a_thinned_curve_keeps_its_ends() -> None:
    x, y = thinned(np.arange(10_000), np.arange(10_000) * 2, points=50)
    assert len(x) == 50
    assert (x[0], x[-1]) == (0, 9999)
    assert (y == 2 * x).all()


def test_commands_that_make_the_run_again() -> None:
    environment = {
        "git_revision": "abc-dirty",
        "versions": {"torch": "2.6"},
        "effective": {"processes": "4: as launched"},
    }
    run = facts(directory=Path("runs/my run"), environment=environment)
    assert reproduce(run) == [
        "git checkout abc   # and changes that were not committed",
        "# torch 2.6",
        "python -m harness launch --num_processes 4 --config 'runs/my run/config.yaml' --run 'runs/my run-again'",
    ]
    assert reproduce(facts()) == ["python -m harness launch --config runs/a/config.yaml --run runs/a-again"]


@pytest.mark.parametrize(
    ("select", "chart"),
    [("accuracy", "Validation accuracy"), ("loss", "Loss"), ("calibrated", "Validation loss, calibrated")],
)
def test_a_ring_marks_the_best_epoch_on_the_figure_that_chose_it(select: str, chart: str) -> None:
    lines = [
        {"step": step, "accuracy": 0.8, "log_loss": 0.5, "calibrated_log_loss": 0.4, "f1": 0.7, "best": step == 10}
        for step in (10, 20)
    ]
    run = facts(validation=lines, train=[{"step": 10, "loss": 0.5}], config={"select": select})
    shown = {each.title: each.svg for each in learning_charts([run], ["one"])}
    unmarked = dataclasses.replace(run, validation=[{**line, "best": False} for line in lines])
    plain = {each.title: each.svg for each in learning_charts([unmarked], ["one"])}
    assert [title for title in shown if shown[title] != plain[title]] == [chart]


def test_a_chart_has_the_page_s_colours_and_names_of_its_own() -> None:
    series = [Series("$a_1^", [1, 2, 3], [0.1, 0.2, 0.3]), Series("b", [1, 2], [0.3, 0.2], 9, "dashed")]
    chart = draw("My chart", series, "step", "loss")
    assert chart is not None
    assert chart.legend == [("$a_1^", 0, "line"), ("b", 1, "dashed")]
    root = ElementTree.fromstring(chart.svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "My chart")
    assert root.get("width") is None
    names = [part.get("id", "my-chart") for part in root.iter()]
    assert all(name.startswith("my-chart") for name in names)
    assert {"var(--s0)", "var(--s1)", "var(--ink)", "var(--line)"} <= {
        piece.strip() for piece in chart.svg.replace('"', ";").replace(": ", ";").split(";")
    }
    assert "#0" not in chart.svg.replace("url(#", "").replace('href="#', "")
    assert draw("Nothing", [Series("a", [], [])], "step", "loss") is None


def test_a_second_round_of_colours_is_dashed() -> None:
    series = [Series(f"run {slot}", [1, 2], [0.1, 0.2], slot) for slot in range(17)]
    chart = draw("Many", series, "step", "loss")
    assert chart is not None
    assert [entry[1] for entry in chart.legend] == [*range(8), *range(8), 0]
    assert [entry[2] for entry in chart.legend] == ["line"] * 8 + ["dashed"] * 8 + ["line"]


def test_a_few_large_values_do_not_press_the_others_onto_the_axis() -> None:
    assert is_steep([Series("norm", [1, 2, 3, 4], [500.0, 1.0, 0.9, 0.8])])
    assert not is_steep([Series("norm", [1, 2, 3], [5.0, 1.0, 0.9])])
    assert not is_steep([Series("norm", [1, 2, 3, 4], [500.0, 1.0, 0.9, 0.0])])


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report_quietly(tmp_path)
    (tmp_path / "config.yaml").write_text("data: nowhere\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 1, "loss": None}) + "\n")
    (tmp_path / "report.html").mkdir()
    write_report_quietly(tmp_path)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"warning: no report written ({tmp_path}/config.yaml: missing")
    assert second.startswith(f"warning: no report written ({tmp_path}/report.html: cannot be written (Is a directory)")
    assert second.endswith(f"python -m harness report {tmp_path} tries again")


def figures(confusion: list[list[int]]) -> dict[str, Any]:
    """What an evaluation says of classes with this confusion matrix."""
    names = [f"c{number}" for number in range(len(confusion))]
    slices = [
        {"by": "label", "name": name, "rows": sum(row), "accuracy_interval": [0.1, 0.9], "log_loss": 0.5}
        for name, row in zip(names, confusion, strict=True)
        if sum(row)
    ]
    entries = per_class(confusion_from_json({"confusion": confusion}, len(names)), names)
    return {"labels": names, "confusion": confusion, "per_class": entries, "slices": slices}


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
    rows = {entry["label"]: entry for entry in class_rows(figures(CONFUSION), None)}
    assert (rows["c1"]["interval"], rows["c3"]["interval"]) == ([0.1, 0.9], None)
    largest = confusions(figures(CONFUSION), most=3)
    assert [(entry["label"], entry["predicted"], entry["rows"]) for entry in largest] == [
        ("c1", "c0", 30),
        ("c0", "c1", 10),
        ("c1", "c3", 10),
    ]
    assert largest[0]["share"] == 0.3
    assert matrix(figures(CONFUSION))[1] == {
        "label": "c1",
        "cells": [(30, 0.3), (60, 0.6), (0, 0.0), (10, 0.1), (0, 0.0)],
    }
    assert matrix(figures(np.eye(21, dtype=int).tolist())) == []
    assert most_errors(figures(CONFUSION), most=2) == ["c1", "c0"]


def test_rows_without_labels_have_no_share_of_a_class(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"train": 60, "unlabelled": 30})
    manifest = read_manifest(tmp_path)
    for classes in (2, 12):
        run: Any = SimpleNamespace(manifest=replace(manifest, labels=[f"c{number}" for number in range(classes)]))
        train, unlabelled = split_rows(run)
        assert (train["rows"], unlabelled["rows"]) == (60, 30)
        assert train["largest"][1] > 0
        assert (unlabelled["largest"], unlabelled["smallest"]) == (("", None), ("", None))
        assert unlabelled["labels"] == ([None, None] if classes == 2 else [])
        assert [rows[1] for _, rows in label_rows(run)] == ([] if classes == 2 else [0] * 12)


def run(name: str, accuracy: float, log_loss: float, fingerprint: str | None = "a", **values: Any) -> RunFacts:
    """A run of two validations, of which the first is the best."""
    best = {"step": 1, "accuracy": accuracy, "log_loss": log_loss, "best": True}
    later = {"step": 2, "accuracy": 1.0, "log_loss": 0.0, "best": False}
    return facts(directory=Path(name), validation=[best, later], fingerprint=fingerprint, **values)


def names(runs: list[RunFacts]) -> list[str]:
    return [each.directory.name for each in runs]


def test_runs_stand_in_the_order_of_their_best_validation() -> None:
    runs = [run("a", 0.8, 0.3), run("b", 0.9, 0.5), run("c", 0.9, 0.4), facts(directory=Path("d"), fingerprint="a")]
    ordered = ranked([runs[3], *runs[:3]])
    assert names(ordered) == ["b", "c", "a", "d"]
    assert ranks(ordered) == [1, 2, 3, None]
    by_loss = [run(name, *values, config={"select": "loss"}) for name, *values in (("a", 0.9, 0.5), ("b", 0.8, 0.3))]
    assert (ranking_figure(runs), ranking_figure(by_loss), ranking_figure([*runs, *by_loss])) == (
        "accuracy",
        "log_loss",
        "accuracy",
    )
    assert names(ranked(by_loss)) == ["b", "a"]
    calibrated = [facts(directory=Path(name), fingerprint="a", config={"select": "calibrated"},
                        validation=[{"step": 1, "accuracy": 0.9, "calibrated_log_loss": loss, "best": True}])
                  for name, loss in (("a", 0.5), ("b", 0.3))]  # fmt: skip
    assert ranking_figure(calibrated) == "calibrated_log_loss"
    assert names(ranked(calibrated)) == ["b", "a"]
    assert names(ranked([run("a", float("nan"), 0.1), run("b", 0.1, 0.1)])) == ["b", "a"]


def test_runs_of_one_dataset_stand_together_and_are_ranked_among_themselves() -> None:
    runs = [run("a", 0.5, 1, "x"), run("b", 0.9, 1, "y"), run("c", 0.6, 1, "x"), run("d", 0.1, 1, None)]
    ordered = ranked(runs)
    assert names(ordered) == ["c", "a", "b", "d"]
    assert ranks(ordered) == [1, 2, 1, 1]
    assert dataset_groups(ordered) == [0, 0, 1, 2]


def test_the_best_values_are_those_of_validation_on_one_dataset() -> None:
    runs = [run("a", 0.8, 0.3), run("b", 0.9, 0.5)]
    assert best_values(runs) == {"accuracy": 0.9, "log_loss": 0.3}
    assert best_values([*runs, run("c", 0.9, 0.5, "other")]) == {}
    assert best_values(runs[:1]) == {}


def test_what_differs_between_runs() -> None:
    first = facts(config={"run": "a", "seed": 0, "model": {"hidden_size": 8, "dropout": 0.5}, "optim": {}})
    second = facts(config={"run": "b", "seed": 0, "model": {"hidden_size": 16, "dropout": 0.5}, "new": None})
    assert differing([first, second]) == {
        "model.hidden_size": [8, 16],
        "optim": [{}, "unset"],
        "new": ["unset", None],
    }
    assert by_value([0.1, None, 0.1, "unset"]) == [("0.1", [1, 3]), ("null", [2]), ("unset", [4])]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "b"]),
        (["one/x/run", "two/x/run"], ["one/x/run", "two/x/run"]),
        (["x/run"], ["run"]),
    ],
)
def test_runs_of_one_name_are_told_apart(places: list[str], expected: list[str]) -> None:
    assert unique_names([facts(directory=Path(place)) for place in places]) == expected


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), st.lists, max_leaves=5))
def test_every_value_in_a_page_comes_back_and_no_text_ends_its_element(value: Any) -> None:
    written = script_json({"</script><!--<script>\u2028": value, "nan": float("nan")})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {"</script><!--<script>\u2028": value, "nan": None}


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
    found = find_originals(manifest, rows)
    assert found.missing is None
    assert found.texts == {row: text for row, (text, _) in enumerate(ROWS, 1)}
    assert find_originals(manifest, []) == Originals({}, None)


def test_rows_of_a_folder_and_of_a_second_file_are_found(tmp_path: Path) -> None:
    for number, (text, label) in enumerate(ROWS):
        path = tmp_path / "texts" / label / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    manifest = built(tmp_path / "texts", tmp_path / "data")
    negative = [text for text, label in ROWS if label == "negative"]
    assert find_originals(manifest, [2, 31]).texts == {2: negative[1], 31: ROWS[1][0]}
    others = tmp_path / "others.parquet"
    pq.write_table(pa.table({"review": ["unread <b>one</b>", "unread two"]}), others)
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "1.txt").write_text("in a folder")
    both = json.dumps([str(others), str(tmp_path / "apart")])
    whole = write_csv(tmp_path / "whole.csv", ROWS)
    manifest = built(whole, tmp_path / "with", "--source.unlabelled_path", both)
    expected = {60: ROWS[59][0], 61: "unread <b>one</b>", 62: "unread two", 63: "in a folder"}
    assert find_originals(manifest, [60, 61, 62, 63]) == Originals(expected, None)
    first, second = write_csv(tmp_path / "1.csv", ROWS[:40]), write_csv(tmp_path / "2.csv", ROWS[40:])
    manifest = built(first, tmp_path / "two", "--source.test_path", str(second))
    first.unlink()
    found = find_originals(manifest, [3, 41, 60])
    assert found.texts == {41: ROWS[40][0], 60: ROWS[59][0]}
    assert found.missing == f"{first} is no longer where it was when the dataset was made of it"
    write_csv(first, ROWS[:40])
    assert find_originals(manifest, [41, 60]).texts == {41: ROWS[40][0], 60: ROWS[59][0]}


def test_why_a_text_is_not_to_be_had_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path, "csv")
    manifest = built(source, tmp_path / "data")

    def missing(**provenance: Any) -> str | None:
        return find_originals(replace(manifest, provenance={**manifest.provenance, **provenance}), [1]).missing

    content = source.read_bytes()
    changed = f"{source} has changed since the dataset was made of it"
    source.write_bytes(content + b"more,negative\n")
    assert find_originals(manifest, [1]) == Originals({}, changed)
    source.write_bytes(content.replace(b"review 7", b"review 8"))
    assert find_originals(manifest, [1]) == Originals({}, changed)
    source.write_bytes(content)
    monkeypatch.setattr(mistakes, "MOST_BYTES", 1 << 10)
    large = f"{source} has more than 0 MiB, which is not searched for a report"
    assert find_originals(manifest, [1]) == Originals({}, large)
    monkeypatch.undo()
    source.unlink()
    gone = f"{source} is no longer where it was when the dataset was made of it"
    assert find_originals(manifest, [1, 2]) == Originals({}, gone)
    assert missing(sources=[]) == "the manifest does not say where they came from"
    config = {
        **manifest.provenance["config"],
        "source": {**manifest.provenance["config"]["source"], "path": ["s3://bucket/corpus.csv"]},
    }
    remote = "they lie on a remote store, from which a report fetches nothing"
    assert missing(config=config) == remote
    config["source"] = {**config["source"], "no_such_key": 1}
    version = "another version of padless has written down where they came from"
    assert missing(config=config) == version


def tokenizer(**spec: Any) -> Tokenizer:
    return Tokenizer(resolve(TextSpec(**spec)))


def marks(text: str, words: list[tuple[str, float]], make: Tokenizer) -> dict[str, float]:
    """The marked pieces of a text with their weights."""
    pieces = placed(text, [word for word, _ in words], [weight for _, weight in words], make)
    assert "".join(piece for piece, _ in pieces) == text
    return {piece: weight for piece, weight in pieces if weight}


def test_weights_are_put_on_the_words_of_the_text() -> None:
    text = "Well, <b>TWO films</b>!\nI don't like  the films."
    words = [("well", 0.0), ("two", 0.5), ("films", -1.0), ("i", 0.0), ("don't", 0.9), ("like", 0.0), ("the", 0.02)]
    found = marks(text, [*words, ("films", 0.25)], tokenizer())
    assert found == {"TWO": 0.5, "films": 0.25, "don't": 0.9, "the": 0.02}
    assert placed("Two films.", ["two"], [1.0], None) == [("Two films.", 0.0)]


def test_lemmas_unknown_words_and_truncated_texts_find_their_places() -> None:
    pytest.importorskip("simplemma", reason="needs the package simplemma")
    make = tokenizer(lemmatizer="simplemma", truncate="tail", max_tokens=5)
    text = "Cut away here. The zorblax movies were dull"
    tokens = make([text]).to_lists()[0][-5:]
    seen = [
        (token if token != "zorblax" else "<unk>", weight)
        for token, weight in zip(tokens, (0, 0.6, 1, 0, -1), strict=True)
    ]
    assert marks(text, seen, make) == {"zorblax": 0.6, "movies": 1, "dull": -1}


def test_mistakes_have_their_texts_marked_and_nothing_in_them_is_markup(tmp_path: Path) -> None:
    manifest = built(written(tmp_path, "csv"), tmp_path / "data")
    entry = {"row": 1, "tokens": ["bad", "<unk>"], "weights": [2.0, -1.0]}
    (found,) = mistakes_of({"mistakes": [entry]}, Originals({1: "<i> BAD & x"}, None), manifest)
    assert (found.text, found.entry) == ("<i> BAD & x", entry)
    assert found.marked.startswith('&lt;i&gt; <mark class="for"')
    assert re.sub("<[^>]*>", "", found.read).split() == ["bad", "&lt;unk&gt;"]
    (missing,) = mistakes_of({"mistakes": [entry]}, Originals({}, "gone"), manifest)
    assert (missing.text, missing.marked) == (None, "")
