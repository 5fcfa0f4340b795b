# SPDX-License-Identifier: Apache-2.0
"""The confusion of a few classes is a matrix, that of many its cells; both say the same."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from harness.report.classes import confusions, matrix
from harness.report.curves import most_errors
from harness.rundir.figures_schema import check_shown
from harness.rundir.results import read_figures, write_figures
from harness.scores import confusion
from harness.scores.calibration import Decision
from harness.scores.confusion import CELLS, MATRIX, Confusion
from harness.scores.figures import figures
from harness.scores.intervals import intervals
from harness.scores.metrics import (
    BLOCK,
    blocks,
    classification_metrics,
    log_loss_per_row,
    most_probable,
    per_class,
    probabilities,
)
from harness.scores.on_screen import confusion as shown
from preprocessing.base.errors import DataError

CLASSES, ROWS = 12, 600
NAMES = [f"c{number}" for number in range(CLASSES)]


def drawn(rows: int = ROWS, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``[rows, classes]`` and labels that they are right about more often than not."""
    random = np.random.default_rng(0)
    labels, logits = random.integers(0, classes, rows), random.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += 2
    return logits, labels


def evaluated(logits: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, object]:
    facts = {"lengths": np.full(len(labels), 3), "unknown": np.zeros(len(labels), np.int64)}
    found = figures(logits, labels, names=names, decision=Decision(1.5), **facts)
    return {**found, "mistakes": [], "step": 1}


def test_a_matrix_and_its_cells_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn()
    few = evaluated(logits, labels, NAMES)
    monkeypatch.setattr(confusion, "WHOLE_CLASSES", CLASSES - 1)
    many = evaluated(logits, labels, NAMES)
    assert few[MATRIX] == Confusion.read(many).matrix().tolist()
    assert sum(rows for _, _, rows in many[CELLS]) == ROWS
    assert {**few, CELLS: many[CELLS]} == {**many, MATRIX: few[MATRIX]}
    assert confusions(few) == confusions(many) != []
    assert matrix(few) == matrix(many) != []
    assert most_errors(few) == most_errors(many) != []
    assert shown(few) == shown(many)


def test_counts_are_those_of_a_plain_loop() -> None:
    logits, labels = drawn()
    said = logits.argmax(axis=1)
    found = Confusion.of(labels, said, CLASSES)
    expected = np.zeros((CLASSES, CLASSES), np.int64)
    for true, predicted in zip(labels, said, strict=True):
        expected[true, predicted] += 1
    assert found.matrix().tolist() == expected.tolist()
    assert found.support.tolist() == expected.sum(axis=1).tolist()
    assert found.predicted.tolist() == expected.sum(axis=0).tolist()
    assert found.hits.tolist() == expected.diagonal().tolist()
    assert [entry["rows"] for entry in per_class(found, NAMES)] == found.support.tolist()
    largest = found.largest(3)
    np.fill_diagonal(expected, 0)
    assert [rows for _, _, rows in largest] == sorted(expected.reshape(-1).tolist(), reverse=True)[:3]
    assert all(expected[true, predicted] == rows for true, predicted, rows in largest)


def test_figures_of_many_classes_are_read_back_and_damaged_cells_are_refused(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(confusion.WHOLE_CLASSES + 1)]
    values = evaluated(*drawn(40, len(names)), names)
    write_figures(tmp_path, "test", values)
    found = read_figures(tmp_path, "test")
    assert found is not None
    assert MATRIX not in found
    assert found[CELLS] == values[CELLS]
    check_shown(found, "test.json")
    assert (tmp_path / "test.json").stat().st_size < 400 * len(names)
    for wrong in ([0, len(names), 1], [0, 1], [0, -1, 1]):
        (tmp_path / "test.json").write_text(json.dumps({**found, CELLS: [wrong]}))
        with pytest.raises(DataError, match="confusion_cells"):
            read_figures(tmp_path, "test")
    with pytest.raises(DataError, match="has no confusion:"):
        check_shown({name: value for name, value in found.items() if name != CELLS}, "test.json")


def test_thousands_of_classes_take_little_beside_their_logits() -> None:
    rows, classes = 300, 3000
    logits, labels = drawn(rows, classes)
    tracemalloc.start()
    evaluated(logits, labels, [str(number) for number in range(classes)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * logits.nbytes  # a matrix of all cells alone would be ten times the logits


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn()
    chances = probabilities(logits)
    assert sum(1 for _ in blocks(logits)) == 1
    assert BLOCK // CLASSES > ROWS
    losses = log_loss_per_row(logits, labels)
    monkeypatch.setattr("harness.scores.metrics.BLOCK", 7 * CLASSES + 3)
    assert [len(logits[rows]) for rows in blocks(logits)] == [7] * 85 + [5]
    classes, highest = most_probable(logits)
    assert (classes == chances.argmax(axis=1)).all()
    assert (highest == chances.max(axis=1)).all()
    assert (log_loss_per_row(logits, labels) == losses).all()


def test_areas_of_too_many_classes_have_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn()
    values = classification_metrics(logits, labels)
    few = intervals(logits, labels, values)
    monkeypatch.setattr("harness.scores.intervals.MOST_RANKED", logits.size - 1)
    many = intervals(logits, labels, values)
    assert few["roc_auc"][0] < values["roc_auc"] < few["roc_auc"][1]
    assert many == {**few, "roc_auc": None, "pr_auc": None}
