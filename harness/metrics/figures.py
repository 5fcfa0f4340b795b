# SPDX-License-Identifier: Apache-2.0
"""The table of all figures, and the figures of a split from its logits and labels, as in ``SPLIT.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from harness.metrics.calibration import Decision
from harness.metrics.intervals import intervals, spread
from harness.metrics.metrics import calibration_error, classification_metrics, log_loss_per_row, per_class, reliability
from padless.core.terminal import shorten_line

MAX_NAME_CELLS = 24


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How tables, reports, trackers and model cards show a figure."""

    title: str
    lower_is_better: bool = False


FIGURES = {
    "accuracy": Figure(title="accuracy"),
    "balanced_accuracy": Figure(title="balanced accuracy"),
    "f1": Figure(title="F1"),
    "f1_micro": Figure(title="F1 (micro)"),
    "roc_auc": Figure(title="ROC AUC"),
    "pr_auc": Figure(title="PR AUC"),
    "log_loss": Figure(title="log loss", lower_is_better=True),
    "calibrated_log_loss": Figure(title="calibrated log loss", lower_is_better=True),
    "ece": Figure(title="calibration error", lower_is_better=True),
    "perplexity": Figure(title="perplexity", lower_is_better=True),
}
"""All figures by key, in display order; a split has those of its task."""
CHOSEN_BY = {"accuracy": "accuracy", "loss": "log_loss", "calibrated": "calibrated_log_loss"}
"""Value of ``select`` -> the figure of a validation by which the best epoch is chosen."""


class ShownFigure(NamedTuple):
    """A figure as people see it."""

    title: str
    value: str
    interval: str
    """Its 95 % interval; empty where there is none."""


def show_figure(values: Mapping[str, Any], key: str, labels: Sequence[str]) -> ShownFigure:
    """A figure of a split with these classes. The title of F1 names class 1 of two classes, or the mean over more; with
    several labels to a text, accuracy is that of whole label sets.
    """
    has_label_sets, title = "f1_micro" in values, FIGURES[key].title
    if key == "accuracy" and has_label_sets:
        title = "subset accuracy"
    elif key == "f1" and labels:
        is_of_one = len(labels) == 2 and not has_label_sets
        title = f"F1 of {shorten_line(labels[1], MAX_NAME_CELLS)}" if is_of_one else "F1 (macro)"
    bounds = (values.get("intervals") or {}).get(key)
    return ShownFigure(title, f"{values[key]:.4f}", "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}")


def show_figures(values: Mapping[str, Any], labels: Sequence[str]) -> list[ShownFigure]:
    """The figures that a split has, in display order: of ``SPLIT.json``, or the fewer ones of a line of the metrics."""
    return [show_figure(values, key, labels) for key in FIGURES if values.get(key) is not None]


@dataclass(frozen=True)
class Scores:
    """Logits and labels of every row of a split, in the order of the source."""

    rows: np.ndarray
    """int64 ``[rows]``: row numbers in the source, ascending."""
    labels: np.ndarray
    """int64 ``[rows]``; bool ``[rows, classes]`` with several labels to a text."""
    logits: np.ndarray
    """float64 ``[rows]`` for two classes, ``[rows, classes]`` for more; before calibration."""


def figures(scores: Scores, names: Sequence[str], decision: Decision) -> dict[str, Any]:
    """Metrics after calibration with intervals, each class, and the calibration, as plain values."""
    labels, logits = scores.labels, decision.calibrate(scores.logits)
    raw_bins, bins = reliability(scores.logits, labels), reliability(logits, labels)
    predicted, _ = decision.predictions(scores.logits)
    threshold: dict[str, Any] = {"threshold": decision.threshold}
    if labels.ndim > 1:
        threshold = {"thresholds": dict(zip(names, decision.thresholds, strict=True))}
    return {
        "temperature": decision.temperature,
        **threshold,
        **classification_metrics(logits, labels, predicted),
        "labels": list(names),
        "intervals": intervals(logits, labels, predicted),
        "per_class": per_class(labels, predicted, names),
        "calibration": {
            "bins": bins.shape[1],
            "ece_before": calibration_error(raw_bins),
            "log_loss_before": float(log_loss_per_row(scores.logits, labels).mean()),
            "before": bins_to_json(raw_bins),
            "after": bins_to_json(bins),
        },
    }


def bins_to_json(bins: np.ndarray) -> list[dict[str, Any]]:
    """The bins of ``reliability`` that hold rows, as plain values."""
    keys = ("rows", "confidence", "accuracy")
    columns = [dict(zip(keys, column, strict=True)) for column in bins.T.tolist() if column[0]]
    return [{**column, "rows": int(column["rows"])} for column in columns]


def scalar_figures(values: Mapping[str, Any]) -> dict[str, Any]:
    """The scalar figures among all values, for a line of the metrics and for trackers."""
    kinds = (int, float, type(None))
    return {name: value for name, value in values.items() if isinstance(value, kinds) and name != "step"}


def spreads(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """The spread of each figure that all ``runs`` have."""
    spread_by_name = {}
    for name in FIGURES:
        values = [run[name] for run in runs if run.get(name) is not None]
        if values and len(values) == len(runs):
            spread_by_name[name] = spread(values)
    return spread_by_name
