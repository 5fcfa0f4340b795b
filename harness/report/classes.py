# SPDX-License-Identifier: Apache-2.0
"""Two classes or a thousand: which come first, which are taken for which, and how much of that fits on a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.data.checks import TRAIN
from harness.scores.metrics import confusion_from_json, largest_confusions
from preprocessing.base.split_names import NO_LABEL
from preprocessing.dataset.shards import Manifest

MATRIX_CLASSES = 20
"""Most classes whose confusion matrix is shown; beyond that only its largest cells are."""
SMALL_MATRIX = 6
"""Up to so many classes the matrix is all there is to say, and it fits a telephone."""
LISTED_CLASSES = 20
"""Classes that are shown at once; all of them when the reader asks."""
LISTED_CONFUSIONS = 12


def worst_first(per_class: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes by rising F1, of equals the larger first; those without a row, of which nothing is known, at the end."""
    return sorted(per_class, key=lambda entry: (not entry["rows"], entry["f1"] or 0.0, -entry["rows"]))


def class_rows(figures: Mapping[str, Any], manifest: Manifest | None) -> list[dict[str, Any]]:
    """What is known of each class, the worst first: its figures, the interval of its recall, its rows in training."""
    slices = {entry["name"]: entry for entry in figures["slices"] if entry["by"] == "label"}
    trained = labels_of_split(manifest, TRAIN) if manifest is not None else {}
    return [
        {
            **entry,
            "interval": slices[entry["label"]]["accuracy_interval"] if entry["label"] in slices else None,
            "log_loss": slices[entry["label"]]["log_loss"] if entry["label"] in slices else None,
            "trained": trained.get(entry["label"]),
        }
        for entry in worst_first(figures["per_class"])
    ]


def labels_of_split(manifest: Manifest, split: str) -> dict[str, int]:
    """Rows of each class in a split, by name; 0 for a class that has none there."""
    counts = dict.fromkeys(manifest.labels, 0)
    for shard in manifest.splits.get(split, []):
        for number, rows in shard.labels.items():
            if int(number) != NO_LABEL:
                counts[manifest.labels[int(number)]] += rows
    return counts


def confusions(figures: Mapping[str, Any], most: int | None = LISTED_CONFUSIONS) -> list[dict[str, Any]]:
    """The pairs of a true and another predicted class with the most rows, the largest first."""
    labels = figures["labels"]
    confusion = confusion_from_json(figures, len(labels))
    support = confusion.sum(axis=1).tolist()
    return [
        {"label": labels[true], "predicted": labels[said], "rows": rows, "share": rows / support[true]}
        for true, said, rows in largest_confusions(confusion, most)
    ]


def matrix(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each true class the count of each predicted one, and its share of the row; empty for too many classes."""
    if len(figures["labels"]) > MATRIX_CLASSES:
        return []
    rows = zip(figures["labels"], confusion_from_json(figures, len(figures["labels"])).toarray().tolist(), strict=True)
    return [
        {"label": label, "cells": [(count, count / max(sum(counts), 1)) for count in counts]} for label, counts in rows
    ]


def metric_names(labels: int) -> dict[str, str]:
    """The metrics in the order in which they are shown, by what they are called for so many classes."""
    macro = ", macro" if labels > 2 else ""
    return {
        "accuracy": "Accuracy",
        "balanced_accuracy": "Balanced accuracy",
        "f1": f"F1{macro}",
        "roc_auc": f"ROC AUC{macro}",
        "pr_auc": f"PR AUC{macro}",
        "log_loss": "Log loss",
        "ece": "Calibration error",
    }
