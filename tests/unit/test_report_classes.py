# SPDX-License-Identifier: Apache-2.0
"""Which classes a report shows first, which pairs it says are confused, and which curves it draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.report.classes import class_rows, confusions, matrix, metric_names, worst_first
from harness.report.curves import most_errors
from harness.report.views import label_rows, split_rows
from harness.scores.metrics import confusion_from_json, per_class
from preprocessing.dataset.shards import read_manifest
from tests.datasets import write_dataset


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


def test_the_worst_class_comes_first_and_one_without_rows_last() -> None:
    found = worst_first(figures(CONFUSION)["per_class"])
    assert [entry["label"] for entry in found] == ["c2", "c1", "c0", "c4", "c3"]
    scores = [entry["f1"] for entry in found[:-1]]
    assert scores == sorted(scores)
    equal = worst_first(figures([[1, 1], [1, 1]])["per_class"] + [{"label": "large", "rows": 9, "f1": 0.5}])
    assert [entry["label"] for entry in equal] == ["large", "c0", "c1"]


def test_a_class_has_the_interval_of_its_recall() -> None:
    found = {entry["label"]: entry for entry in class_rows(figures(CONFUSION), None)}
    assert found["c1"]["interval"] == [0.1, 0.9]
    assert (found["c3"]["interval"], found["c3"]["trained"]) == (None, None)
    assert (found["c1"]["precision"], found["c1"]["recall"]) == (60 / 71, 0.6)


def test_the_largest_confusions_come_first() -> None:
    found = confusions(figures(CONFUSION), most=3)
    assert [(entry["label"], entry["predicted"], entry["rows"]) for entry in found] == [
        ("c1", "c0", 30),
        ("c0", "c1", 10),
        ("c1", "c3", 10),
    ]
    assert found[0]["share"] == 0.3
    assert confusions(figures([[3, 0], [0, 4]])) == []
    assert len(confusions(figures(CONFUSION), most=None)) == 5


def test_a_matrix_is_shown_of_twenty_classes_and_no_more() -> None:
    rows = matrix(figures(CONFUSION))
    assert rows[1] == {"label": "c1", "cells": [(30, 0.3), (60, 0.6), (0, 0.0), (10, 0.1), (0, 0.0)]}
    assert len(matrix(figures(np.eye(20, dtype=int).tolist()))) == 20
    assert matrix(figures(np.eye(21, dtype=int).tolist())) == []


def test_curves_are_those_of_the_classes_in_which_most_rows_go_wrong() -> None:
    assert most_errors(figures(CONFUSION), most=2) == ["c1", "c0"]
    assert most_errors(figures(CONFUSION), most=9) == ["c2", "c1", "c0", "c4"]


def test_metrics_over_several_classes_are_called_macro() -> None:
    assert metric_names(2)["f1"] == "F1"
    assert [metric_names(3)[name] for name in ("f1", "roc_auc", "pr_auc")] == [
        "F1, macro",
        "ROC AUC, macro",
        "PR AUC, macro",
    ]


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
