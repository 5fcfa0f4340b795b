# SPDX-License-Identifier: Apache-2.0
"""Figures for a terminal: tables of splits, runs, classes and confusions, and sentences about them.

Two accuracies of ``n`` rows differ by chance alone by about ``sqrt(2 p (1 - p) / n)``; those of one run are measured on
the same rows, so by less. Differences within two such standard errors are not reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.scores.figures import FIGURES, spreads, title_of
from harness.scores.metrics import confusion_from_json, largest_confusions, worst_first
from preprocessing.base.terminal import WIDTH, Column, Screen, percent, shortened, table

CLASSES = 10
"""Maximum number of classes in a table; of more, those with the lowest F1."""
LISTED = 8
"""Maximum number of confusions shown."""
MARK = "*"
"""Marks the figure by which the best epoch was chosen."""
TIMES = 2.0
"""Standard errors that a difference must exceed."""
WORTH = 0.05
"""Minimum change that is reported, as a share of the errors."""
LATE = 0.25
"""An improvement over this last share of the epochs is reported."""
LABEL_CELLS = 32
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
    for key in FIGURES:
        row = {"figure": title_of(key, labels)}
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
    """Precision, recall, F1 and rows of each class, in their order; of more than ``CLASSES`` those with the lowest F1.

    A dash stands for the precision of a class that was never predicted, and for the recall of one without rows.
    """
    total, rows = sum(entry["rows"] for entry in per_class), []
    for entry in per_class if len(per_class) <= CLASSES else worst_first(per_class)[:CLASSES]:
        row = {key: "–" if entry[key] is None else f"{entry[key]:.3f}" for key in ("precision", "recall", "f1")}
        share = percent(entry["rows"] / total) if total else ""
        rows.append(
            {"label": shortened(entry["label"], LABEL_CELLS), "rows": f"{entry['rows']:,}", "share": share, **row}
        )
    more = [f"… the {CLASSES} worst of {len(per_class)} classes by F1"] if len(per_class) > CLASSES else []
    return table(CLASS_COLUMNS, rows, width) + more


def show_figures(screen: Screen, splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Print figures of splits side by side, then the effect of temperature and threshold, and classes, of the last."""
    last = list(splits.values())[-1]
    screen.table(figures_table(splits, last["labels"], screen.width))
    where, before = f" on {last['split']}" if "split" in last else "", last["calibration"]
    line = (
        f"calibration{where}: temperature {last['temperature']:.3f} took the calibration error from "
        f"{before['ece_before']:.4f} to {last['ece']:.4f}, log loss from {before['log_loss_before']:.4f} to "
        f"{last['log_loss']:.4f}"
    )
    screen.say(line if len(last["labels"]) > 2 else f"{line}; threshold {last['threshold']:.4f}")
    screen.write([""])
    screen.table(classes_table(last["per_class"], screen.width))


def show_evaluation(screen: Screen, values: Mapping[str, Any]) -> None:
    """Print an evaluation: figures, classes, confusions, the weakest group."""
    rows, texts = values["rows"], values["texts"]
    head = f"{values['split']}: {rows:,} rows"
    head += f", {values['left_out']:,} left out" if values.get("left_out") else ""
    head += f", {values['missing']:,} without a text" if values.get("missing") else ""
    screen.say(head)
    trained, unread = texts["training_texts"], texts["without_known_word"]
    if trained is None:
        screen.say("note: rows were not compared with the training texts: their dataset was moved or changed", "warn")
    elif trained:
        share = f"{trained:,} of {rows:,} rows ({percent(trained / rows)})"
        screen.say(f"note: {share} are training texts, so new texts may do worse than these figures", "warn")
    if unread:
        share = f"{unread:,} of {rows:,} rows ({percent(unread / rows)})"
        screen.say(f"note: {share} hold no word that the model knows", "warn")
    screen.write([""])
    show_figures(screen, {values["split"]: values})
    screen.write([""])
    screen.table(confusion_table(values))
    screen.write([""])
    screen.say(weakest(values))


def confusion_table(values: Mapping[str, Any]) -> list[str]:
    """The largest confusions: true class, predicted class, rows."""
    names = values["labels"]
    largest = largest_confusions(confusion_from_json(values, len(names)), LISTED)
    if not largest:
        return ["no row is confused"]
    columns = [Column(key, right=key == "rows") for key in ("true", "predicted", "rows")]
    names = [shortened(name, LABEL_CELLS) for name in names]
    rows = [{"true": names[true], "predicted": names[said], "rows": f"{count:,}"} for true, said, count in largest]
    return ["largest confusions", *table(columns, rows, WIDTH)]


def weakest(values: Mapping[str, Any]) -> str:
    """The group of rows with the lowest upper bound of its accuracy."""
    lowest = min(values["slices"], key=lambda entry: entry["accuracy_interval"][1])
    group = f"rows labelled {lowest['name']!r}" if lowest["by"] == "label" else f"rows with {lowest['name']}"
    return f"weakest group: {group}: accuracy {lowest['accuracy']:.4f} ({interval(lowest['accuracy_interval'])})"


def spread_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """A line for each run, then mean, standard deviation and interval of the mean; a column per figure."""
    found = spreads(runs)
    columns = [Column(name, FIGURES[name].title, weight=FIGURES[name].weight) for name in found]
    lines = dict(zip(names, runs, strict=True))
    for title, key in (("mean", "mean"), ("sd", "sd"), ("95 % from", "low"), ("95 % to", "high")):
        lines[title] = {name: each[key] for name, each in found.items()}
    rows = [
        {"run": title, **{name: f"{values[name]:.4f}" for name in found}}
        for title, values in lines.items()
        if all(values[name] is not None for name in found)
    ]
    return table([Column("run", " ", right=False), *columns], rows, width)


def is_higher(one: float, other: float, rows: int) -> bool:
    """Whether an accuracy on ``rows`` is higher than another by more than noise, and by at least ``WORTH``."""
    noise = TIMES * math.sqrt((one * (1 - one) + other * (1 - other)) / rows)
    return one - other > noise and one - other >= WORTH * (1 - other)


def verdicts(lines: Sequence[Mapping[str, Any]], epochs: int, class_rows: Mapping[str, int]) -> list[str]:
    """Sentences on problems of a run, each with advice; empty for a good run.

    ``lines`` are those of ``metrics.jsonl``, ``epochs`` the requested number, ``class_rows`` the rows of each class in
    the validation split. Empty without a validation, or if an accuracy is not finite.
    """
    course = [line for line in lines if line.get("kind") == "validation"]
    accuracy = [line["accuracy"] for line in course]
    if not course or not all(map(math.isfinite, accuracy)):
        return []
    best = max((at for at, line in enumerate(course) if line["best"]), default=0)
    top, end, rows = accuracy[best], accuracy[-1], sum(class_rows.values())
    found = []
    largest = max(class_rows, key=lambda name: class_rows[name])
    always = class_rows[largest] / rows
    if 0 < always < 1 and top - always <= math.sqrt(always * (1 - always) / rows):
        found.append(
            f"no better than the majority class (accuracy {top:.4f} on validation, {always:.4f} for always saying "
            f"{largest!r}): more epochs, another optim.lr, or look at the labels; unequal classes are judged by "
            "balanced accuracy, and weighed by optim.class_weights"
        )
    earlier = accuracy[: len(accuracy) - max(1, round(LATE * len(accuracy)))]
    if earlier and len(course) >= epochs and best == len(course) - 1 and is_higher(end, max(earlier), rows):
        change = f"accuracy {max(earlier):.4f} after epoch {accuracy.index(max(earlier)) + 1}, {end:.4f} at the end"
        found.append(f"validation was still improving ({change}): more epochs, as in --epochs {2 * epochs}")
    after = accuracy[best + 1 :]
    if len(after) >= 2 and best + 1 <= len(course) / 2 and is_higher(top, sum(after) / len(after), rows):
        found.append(
            f"best at epoch {best + 1} of {len(course)} (accuracy {top:.4f}, at the end {end:.4f}): it overfits, or "
            "optim.lr is too high; fewer epochs, more model.dropout, or more data"
        )
    return found


def never_found(per_class: Sequence[Mapping[str, Any]]) -> str | None:
    """A warning about classes of which no row is recognised; accuracy, and F1 of another class, do not show them."""
    lost = [entry for entry in per_class if entry["rows"] and not entry["recall"]]
    if not lost or len(lost) == sum(entry["rows"] > 0 for entry in per_class):
        return None
    rarest = ", ".join(f"{entry['label']!r} ({entry['rows']:,} rows)" for entry in lost[:3])
    more = f" and {len(lost) - 3:,} more classes" if len(lost) > 3 else ""
    return (
        f"no row of {rarest}{more} is recognised: judge by balanced accuracy, and weigh classes with "
        "optim.class_weights, or add rows of them"
    )
