# SPDX-License-Identifier: Apache-2.0
"""Points of curves: a figure over the steps of a run, and the ROC and precision-recall curves of its predictions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from harness.report.classes import worst_first
from harness.rundir.json_files import Line
from harness.rundir.results import read_predictions
from harness.scores.metrics import confusion_from_json

CURVE_POINTS = 300
MOST_CURVES = 6
"""Classes whose ROC and precision-recall curves are drawn: more are a tangle."""

Curve: TypeAlias = tuple[np.ndarray, np.ndarray]
"""x and y."""


def read_curves(directory: Path, split: str, figures: Mapping[str, Any]) -> dict[str, dict[str, Curve]]:
    """ROC and precision-recall curves: of class 1 for two classes, of each of some against the rest for more.

    ``figures`` are those that lie beside the predictions for ``split`` in ``directory``. The keys are in the order of
    ``worst_first``, in every chart. Raises ``OSError``, ``KeyError`` or ``ValueError`` where there are no predictions.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    names = figures["labels"]
    shown = names[1:] if len(names) == 2 else most_errors(figures)
    true, chances = read_predictions(directory, split, shown)
    result = {}
    for name in shown:
        positive = true == name
        if positive.all() or not positive.any():
            continue
        wrong, found, _ = roc_curve(positive, chances[name])
        precision, recall, _ = precision_recall_curve(positive, chances[name])
        result[name] = {"roc": thinned(wrong, found), "pr": thinned(recall[::-1], precision[::-1])}
    return result


def most_errors(figures: Mapping[str, Any], most: int = MOST_CURVES) -> list[str]:
    """The classes in which the most rows go wrong, missed and wrongly given together; the worst of them first.

    A class of two rows may well have the worst F1, but its curves are two steps and say nothing.
    """
    hits = confusion_from_json(figures, len(figures["labels"])).diagonal().tolist()
    errors = {
        entry["label"]: entry["rows"] + entry["predicted"] - 2 * hits[number]
        for number, entry in enumerate(figures["per_class"])
    }
    ordered = [entry["label"] for entry in worst_first(figures["per_class"]) if entry["rows"]]
    chosen = sorted(ordered, key=lambda label: -errors[label])[:most]
    return [label for label in ordered if label in chosen]


def thinned(x: np.ndarray, y: np.ndarray, points: int = CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A curve with at most ``points`` points, its ends among them."""
    if len(x) <= points:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    return x[keep], y[keep]


def averaged(lines: Sequence[Line], name: str, points: int = CURVE_POINTS) -> tuple[list[float], list[float]]:
    """Steps and values of a figure over a run; where there are many lines, means of neighbours."""
    known = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    known = [(step, value) for step, value in known if math.isfinite(value)]
    size = -(-len(known) // points) or 1
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    return [group[-1][0] for group in groups], [float(np.mean([value for _, value in group])) for group in groups]
