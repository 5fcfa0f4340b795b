# SPDX-License-Identifier: Apache-2.0
"""The table of all figures; the figures of a split from its logits and labels, as in ``SPLIT.json``; and figures for a
terminal: tables of splits, runs, classes and confusions, and sentences about them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from harness.metrics.calibration import Decision
from harness.metrics.intervals import intervals, spread
from harness.metrics.metrics import (
    calibration_error,
    classification_metrics,
    log_loss_per_row,
    per_class,
    reliability,
    worst_first,
)
from padless.core.terminal import Screen, count_noun, percent, shorten_line, table

MAX_CLASSES = 10
"""Maximum number of classes in a table; of more, those with the lowest F1."""
MAX_CONFUSIONS = 12
"""Maximum number of confusions shown."""
MIN_IMPROVEMENT = 0.02
"""Share of the validation loss: if the last third of the epochs has taken more off, more epochs are advised."""
MAX_NAMED_CLASSES = 3
"""Most classes that a warning names."""
MAX_LABEL_CELLS = 32
"""Most cells of a label in a table."""


FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "f1_micro": "F1 (micro)",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "log loss",
    "calibrated_log_loss": "calibrated log loss",
    "ece": "calibration error",
    "perplexity": "perplexity",
}
"""Key -> title in tables, reports and model cards, in display order; a split has the figures of its task."""
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
    has_label_sets, title = "f1_micro" in values, FIGURES[key]
    if key == "accuracy" and has_label_sets:
        title = "subset accuracy"
    elif key == "f1" and labels:
        is_of_one = len(labels) == 2 and not has_label_sets
        title = f"F1 of {shorten_line(labels[1], MAX_LABEL_CELLS)}" if is_of_one else "F1 (macro)"
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
    labels, logits = scores.labels, scores.logits / decision.temperature
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
            "after": [
                {"rows": int(rows), "confidence": confidence, "accuracy": accuracy}
                for rows, confidence, accuracy in bins.T.tolist()
                if rows
            ],
        },
    }


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


def figures_table(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each figure with its interval (95 %), and a column for each split, by name the figures of
    ``SPLIT.json``.
    """
    row_by_title = {"rows": {"figure": "rows"}}
    for name, values in splits.items():
        row_by_title["rows"][name] = f"{values['rows']:,}"
        for title, value, interval in show_figures(values, values["labels"]):
            row_by_title.setdefault(title, {"figure": title})[name] = f"{value}  {interval}"
    return table(list(row_by_title.values()), left=("figure", *splits))


def classes_table(per_class: Sequence[Mapping[str, Any]]) -> list[str]:
    """Precision, recall, F1 and rows of each class, in their order; of more than ``MAX_CLASSES`` the worst by F1.

    A dash replaces the precision of a class that was never predicted, and the recall of one without rows.
    """
    rows, is_cut = [], len(per_class) > MAX_CLASSES
    for entry in worst_first(per_class)[:MAX_CLASSES] if is_cut else per_class:
        row = {"class": shorten_line(entry["label"], MAX_LABEL_CELLS)}
        for title in ("precision", "recall", "F1"):
            value = entry[title.lower()]
            row[title] = "–" if value is None else f"{value:.3f}"
        rows.append({**row, "rows": f"{entry['rows']:,}"})
    more = [f"… the {MAX_CLASSES} worst of {len(per_class)} classes by F1"] if is_cut else []
    return table(rows, left=("class",)) + more


def print_figures(screen: Screen, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures of splits side by side, then the effect of temperature and threshold, and classes, of the last."""
    last = list(splits.values())[-1]
    screen.write(figures_table(splits))
    calibration = last["calibration"]
    line = (
        f"calibration: temperature {last['temperature']:.3f} took the calibration error from "
        f"{calibration['ece_before']:.4f} to {last['ece']:.4f}, log loss from {calibration['log_loss_before']:.4f} to "
        f"{last['log_loss']:.4f}"
    )
    has_threshold = "threshold" in last and len(last["labels"]) == 2
    screen.print_text(f"{line}; threshold {last['threshold']:.4f}" if has_threshold else line)
    screen.write([""])
    screen.write(classes_table(last["per_class"]))


def print_evaluation(screen: Screen, values: Mapping[str, Any]) -> None:
    """Print an evaluation: figures, classes, confusions."""
    rows, num_unread = values["rows"], values["texts"]["without_known_word"]
    left_out = f", {values['left_out']:,} left out" if values.get("left_out") else ""
    screen.print_text(f"{values['split']}: {rows:,} rows{left_out}")
    if num_unread:
        share = f"{num_unread:,} of {rows:,} rows ({percent(num_unread / rows)})"
        screen.print_text(f"note: {share} hold no known word")
    screen.write([""])
    print_figures(screen, {values["split"]: values})
    confusions = []
    for confusion in largest_confusions(values):
        names = {key: shorten_line(confusion[key], MAX_LABEL_CELLS) for key in ("true", "predicted")}
        confusions.append({**names, "rows": f"{confusion['rows']:,}"})
    lines = ["largest confusions", *table(confusions, left=("true", "predicted"))]
    screen.write(["", *lines] if confusions else ["", "no row is confused"])


def largest_confusions(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusions of a true and a predicted class, those with the most rows first."""
    labels, entries = values["labels"], values["per_class"]
    wrong = [cell for cell in values["confusion"] if cell[0] != cell[1]]
    wrong.sort(key=itemgetter(2), reverse=True)
    return [
        {"true": labels[true], "predicted": labels[predicted], "rows": rows, "share": rows / entries[true]["rows"]}
        for true, predicted, rows in wrong[:MAX_CONFUSIONS]
    ]


def spread_table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean, standard deviation and interval of the mean (95 %) of each figure that all runs have."""
    rows = []
    for name, values in spreads(runs).items():
        row = {"figure": FIGURES[name], "mean": f"{values['mean']:.4f}"}
        if values["sd"] is not None:
            row |= {"sd": f"{values['sd']:.4f}", "95 %": f"{values['low']:.4f} to {values['high']:.4f}"}
        rows.append(row)
    return table(rows, left=("figure",))


def warnings_of(values: Mapping[str, Any]) -> list[str]:
    """What makes the figures of a split doubtful, as sentences."""
    return [text for text in (majority(values), never_found(values["per_class"])) if text is not None]


def majority(values: Mapping[str, Any]) -> str | None:
    """A warning about an accuracy within one standard error of that of always naming the largest class; none with
    several labels to a text.
    """
    largest, rows, accuracy = max(values["per_class"], key=itemgetter("rows")), values["rows"], values["accuracy"]
    always = largest["rows"] / rows
    if "thresholds" in values or always == 1 or accuracy - always > math.sqrt(always * (1 - always) / rows):
        return None
    return (
        f"no better than the majority class (accuracy {accuracy:.4f} on {values['split']}, {always:.4f} for always "
        f"saying {largest['label']!r}): more epochs, another optim.lr, or look at the labels; unequal classes are "
        "judged by balanced accuracy, and weighed by optim.class_weights"
    )


def still_improving(validations: Sequence[Mapping[str, Any]], chosen: str, epochs: int) -> str | None:
    """Advice for a training whose last validation is its best one, and clearly better than those before.

    ``chosen``: the figure by which the best epoch was chosen; the log loss is compared where that is no loss.
    """
    figure = "log_loss" if chosen == "accuracy" else chosen
    losses = [line[figure] for line in validations]
    if len(losses) < 3 or losses[-1] > min(losses):
        return None
    improved = losses[-1] < (1 - MIN_IMPROVEMENT) * losses[-1 - len(losses) // 3]
    return f"validation was still improving: --epochs {2 * epochs} or more" if improved else None


def never_found(per_class: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning about classes of which no row is recognised; accuracy, and F1 of another class, do not show them."""
    missed = [entry for entry in per_class if entry["rows"] and not entry["recall"]]
    if not missed or len(missed) == sum(entry["rows"] > 0 for entry in per_class):
        return None
    names = ", ".join(
        f"{entry['label']!r} ({count_noun(entry['rows'], 'row')})" for entry in missed[:MAX_NAMED_CLASSES]
    )
    more = f" and {len(missed) - MAX_NAMED_CLASSES:,} more classes" if len(missed) > MAX_NAMED_CLASSES else ""
    return (
        f"no row of {names}{more} is recognised: judge by the F1 of each class, and weigh classes with "
        "optim.class_weights, or add rows of them"
    )
