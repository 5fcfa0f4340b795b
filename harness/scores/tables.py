# SPDX-License-Identifier: Apache-2.0
"""Figures as small tables for a terminal: splits side by side, and classes with precision, recall and support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.scores.figures import describe_calibration
from preprocessing.base.printable import percent
from preprocessing.base.screen import Column, Screen, shortened, table

CLASSES = 10
"""Classes that a table shows; of more, those with the lowest F1."""
METRICS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("f1", "F1"),
    ("roc_auc", "ROC AUC"),
    ("pr_auc", "PR AUC"),
    ("log_loss", "log loss"),
    ("calibrated_log_loss", "calibrated log loss"),
    ("ece", "calibration error"),
)
"""Key and title of each figure, in the order of the table."""
CHOSEN_BY = {"accuracy": "accuracy", "loss": "log_loss", "calibrated": "calibrated_log_loss"}
"""Value of ``select`` -> the figure of a validation by which the best epoch is chosen."""
MARK = "*"
"""Stands behind the figure that chose, wherever validations are shown."""
LONGEST_NAME = 24
CLASS_COLUMNS = (
    Column(key="label", title="class", right=False, shrinks=True),
    Column(key="precision", title="precision"),
    Column(key="recall", title="recall"),
    Column(key="f1", title="F1"),
    Column(key="rows", title="rows"),
    Column(key="share", title="of all", weight=1),
)


def figures_table(splits: Mapping[str, Mapping[str, Any]], labels: Sequence[str], width: int) -> list[str]:
    """A line for each figure and a column for each split; intervals (95 %) give way where the table is too wide.

    ``splits`` has the figures of each split: those of ``SPLIT.json``, or the shorter ones of a line of the metrics.
    """
    columns = [Column(key="figure", title="", right=False)]
    for name in splits:
        columns += [Column(key=name, title=name), Column(key=f"{name} interval", title="95 %", right=False, weight=1)]
    rows = [{"figure": "rows", **{name: f"{values['rows']:,}" for name, values in splits.items()}}]
    for key, title in METRICS:
        row = {"figure": title_of(key, title, labels)}
        for name, values in splits.items():
            if values.get(key) is not None:
                row[name] = f"{values[key]:.4f}"
                row[f"{name} interval"] = interval(values.get("intervals", {}).get(key))
        if len(row) > 1:
            rows.append(row)
    return table(columns, rows, width)


def title_of(key: str, title: str, labels: Sequence[str]) -> str:
    """A figure's name: F1 is that of one class, or the mean over all."""
    if key != "f1":
        return title
    return f"F1 of {shortened(labels[1], LONGEST_NAME)}" if len(labels) == 2 else "F1 (macro)"


def interval(bounds: Sequence[float] | None) -> str:
    """``0.8632 to 0.8884``; nothing where there is none."""
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def classes_table(per_class: Sequence[Mapping[str, Any]], width: int, most: int = CLASSES) -> list[str]:
    """Precision, recall, F1 and rows of each class, in their order; of more than ``most`` those with the lowest F1.

    A class that was never predicted has no precision, and one without a row no recall: a dash.
    """
    shown = list(per_class)
    if len(shown) > most:
        shown = sorted(shown, key=lambda entry: (entry["f1"] is None, entry["f1"] or 0.0, -entry["rows"]))[:most]
    total = sum(entry["rows"] for entry in per_class)
    rows = []
    for entry in shown:
        shares = {key: figure(entry[key]) for key in ("precision", "recall", "f1")}
        share = percent(entry["rows"] / total) if total else ""
        rows.append({"label": shortened(entry["label"], width), **shares, "rows": f"{entry['rows']:,}", "share": share})
    lines = table(CLASS_COLUMNS, rows, width)
    if len(per_class) > most:
        lines.append(f"… the {most} worst of {len(per_class)} classes by F1")
    return lines


def figure(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def show_figures(screen: Screen, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures of splits side by side; and calibration and classes of the last one."""
    last = list(splits.values())[-1]
    screen.table(figures_table(splits, last["labels"], screen.width))
    screen.say(describe_calibration(last))
    screen.write([""])
    screen.table(classes_table(last["per_class"], screen.width))
