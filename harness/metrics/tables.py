# SPDX-License-Identifier: Apache-2.0
"""Figures for a terminal: tables of splits, runs, classes and confusions, and sentences about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from harness.metrics.figures import FIGURES, spreads, title_of
from harness.metrics.metrics import largest_confusions, worst_first
from padless.core.terminal import WIDTH, Column, Screen, count_noun, percent, shorten_line, table

MAX_CLASSES = 10
"""Maximum number of classes in a table; of more, those with the lowest F1."""
MAX_CONFUSIONS = 8
"""Maximum number of confusions shown."""
MIN_THRESHOLD_ROWS = 10
"""Fewer rows of validation say little about the threshold of a class."""
MARK = "*"
"""Marks the figure by which the best epoch was chosen."""
LOG_LOSS = "the mean of -ln(probability of the true class): 0 is perfect; a blind guess among n classes has ln(n)"
LOG_LOSS_OF_SETS = "the sum over all classes of -ln(probability of having the class, or not): 0 is perfect"
BEFORE_CALIBRATION = "; in this table before calibration, which corrects probabilities that are too certain"
CALIBRATED = "the log loss once a temperature, fitted on validation, has made probabilities match frequencies"
MIN_IMPROVEMENT = 0.02
"""Share of the validation loss: if the last third of the epochs has taken more off, more epochs are advised."""
MAX_LABEL_CELLS = 32
"""Most cells of a label in a table."""
CLASS_COLUMNS = (
    Column("label", "class", right=False),
    Column("precision"),
    Column("recall"),
    Column("f1", "F1"),
    Column("rows"),
    Column("share", "of all", weight=1),
)


def figures_table(splits: Mapping[str, Mapping[str, Any]], labels: Sequence[str], width: int) -> list[str]:
    """A line for each figure and a column for each split; intervals (95 %) are dropped if the table is too wide.

    ``splits`` has the figures of each split: those of ``SPLIT.json``, or the fewer ones of a line of the metrics.
    """
    columns = [Column("figure", " ", right=False)]
    for name in splits:
        columns += [Column(name), Column(f"{name} interval", "95 %", right=False, weight=1)]
    rows = [{"figure": "rows", **{name: f"{values['rows']:,}" for name, values in splits.items()}}]
    has_label_sets = any("f1_micro" in values for values in splits.values())
    for key in FIGURES:
        row = {"figure": title_of(key, labels, has_label_sets=has_label_sets)}
        for name, values in splits.items():
            if values.get(key) is not None:
                row |= {name: f"{values[key]:.4f}", f"{name} interval": interval(values.get("intervals", {}).get(key))}
        if len(row) > 1:
            rows.append(row)
    return table(columns, rows, width)


def interval(bounds: Sequence[float] | None) -> str:
    """``0.8632 to 0.8884``; nothing where there is none."""
    return "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def classes_table(per_class: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Precision, recall, F1 and rows of each class, in their order; of more than ``MAX_CLASSES`` the worst by F1.

    A dash replaces the precision of a class that was never predicted, and for the recall of one without rows.
    """
    total, rows = sum(entry["rows"] for entry in per_class), []
    for entry in per_class if len(per_class) <= MAX_CLASSES else worst_first(per_class)[:MAX_CLASSES]:
        row = {key: "–" if entry[key] is None else f"{entry[key]:.3f}" for key in ("precision", "recall", "f1")}
        share = percent(entry["rows"] / total) if total else ""
        rows.append(
            {
                "label": shorten_line(entry["label"], MAX_LABEL_CELLS),
                "rows": f"{entry['rows']:,}",
                "share": share,
                **row,
            }
        )
    more = [f"… the {MAX_CLASSES} worst of {len(per_class)} classes by F1"] if len(per_class) > MAX_CLASSES else []
    return table(CLASS_COLUMNS, rows, width) + more


def show_figures(screen: Screen, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures of splits side by side, then the effect of temperature and threshold, and classes, of the last."""
    last = list(splits.values())[-1]
    screen.table(figures_table(splits, last["labels"], screen.width))
    split, calibration = f" on {last['split']}" if "split" in last else "", last["calibration"]
    line = (
        f"calibration{split}: temperature {last['temperature']:.3f} took the calibration error from "
        f"{calibration['ece_before']:.4f} to {last['ece']:.4f}, log loss from {calibration['log_loss_before']:.4f} to "
        f"{last['log_loss']:.4f}"
    )
    has_threshold = "threshold" in last and len(last["labels"]) == 2
    screen.print_text(f"{line}; threshold {last['threshold']:.4f}" if has_threshold else line)
    screen.print_text(f"log loss: {LOG_LOSS_OF_SETS if 'thresholds' in last else LOG_LOSS}")
    screen.write([""])
    screen.table(classes_table(last["per_class"], screen.width))


def show_evaluation(screen: Screen, values: Mapping[str, Any]) -> None:
    """Print an evaluation: figures, classes, confusions."""
    rows = values["rows"]
    head = f"{values['split']}: {rows:,} rows"
    head += f", {values['left_out']:,} left out" if values.get("left_out") else ""
    screen.print_text(head)
    unread = values["texts"]["without_known_word"]
    if unread:
        share = f"{unread:,} of {rows:,} rows ({percent(unread / rows)})"
        screen.print_text(f"note: {share} hold no known word", "warn")
    screen.write([""])
    show_figures(screen, {values["split"]: values})
    screen.write([""])
    screen.table(confusion_table(values))


def confusion_table(values: Mapping[str, Any]) -> list[str]:
    """The largest confusions: true class, predicted class, rows."""
    names = values["labels"]
    largest = largest_confusions(values["confusion"], MAX_CONFUSIONS)
    if not largest:
        return ["no row is confused"]
    columns = [Column(key, right=key == "rows") for key in ("true", "predicted", "rows")]
    names = [shorten_line(name, MAX_LABEL_CELLS) for name in names]
    rows = [
        {"true": names[label], "predicted": names[predicted], "rows": f"{count:,}"}
        for label, predicted, count in largest
    ]
    return ["largest confusions", *table(columns, rows, WIDTH)]


def spread_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """A line for each run, then mean, standard deviation and interval of the mean; a column per figure."""
    spread_by_name = spreads(runs)
    columns = [Column(name, FIGURES[name].title, weight=FIGURES[name].weight) for name in spread_by_name]
    lines = dict(zip(names, runs, strict=True))
    for title, key in (("mean", "mean"), ("sd", "sd"), ("95 % from", "low"), ("95 % to", "high")):
        lines[title] = {name: spread[key] for name, spread in spread_by_name.items()}
    rows = []
    for title, values in lines.items():
        if all(values[name] is not None for name in spread_by_name):
            rows.append({"run": title, **{name: f"{values[name]:.4f}" for name in spread_by_name}})
    return table([Column("run", " ", right=False), *columns], rows, width)


def majority(values: Mapping[str, Any]) -> str | None:
    """A warning about an accuracy that, within one standard error, is that of always naming the largest class; none
    with several labels to a text.
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


def rare_classes(per_class: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning about classes of several labels to a text whose threshold few rows of validation choose."""
    rare = sorted((entry for entry in per_class if entry["rows"] < MIN_THRESHOLD_ROWS), key=itemgetter("rows"))
    if not rare:
        return None
    return (
        f"few validation rows have {describe_classes(rare)}: such thresholds follow probabilities more than labels; "
        "add rows of them, or set evaluation.threshold to fixed"
    )


def describe_classes(entries: Sequence[Mapping[str, Any]]) -> str:
    """The first three classes of ``per_class`` with their rows, and how many more there are."""
    classes = ", ".join(f"{entry['label']!r} ({count_noun(entry['rows'], 'row')})" for entry in entries[:3])
    more = f" and {len(entries) - 3:,} more classes" if len(entries) > 3 else ""
    return f"{classes}{more}"


def never_found(per_class: Sequence[Mapping[str, Any]], *, has_label_sets: bool = False) -> str | None:
    """A warning about classes of which no row is recognised; accuracy, and F1 of another class, do not show them."""
    missed = [entry for entry in per_class if entry["rows"] and not entry["recall"]]
    if not missed or len(missed) == sum(entry["rows"] > 0 for entry in per_class):
        return None
    judge = "F1 (macro)" if has_label_sets else "balanced accuracy"
    return (
        f"no row of {describe_classes(missed)} is recognised: judge by {judge}, and weigh classes with "
        "optim.class_weights, or add rows of them"
    )
