# SPDX-License-Identifier: Apache-2.0
"""Figures of new rows as small tables of at most 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from harness.scores.confusion import Confusion
from harness.scores.figures import describe_texts

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "roc_auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "log_loss": "log loss",
    "ece": "calibration error",
}
MOST_CLASSES = 12
"""Classes that are shown; of more, those with the lowest F1."""
WHOLE_CONFUSION = 6
"""Classes up to which every cell of the confusion is shown; of more, the largest confusions."""
LISTED = 8
WIDTH = 80
NAME_WIDTH = 24
GAP = "  "


def tables(name: str, values: Mapping[str, Any]) -> str:
    """Metrics, classes, confusion, the weakest group and drift, one below the other."""
    rows = f"{name}: {values['rows']:,} rows"
    rows += f", {values['left_out']:,} left out" if values["left_out"] else ""
    rows += f", {values['missing']:,} without a text" if values["missing"] else ""
    rows = "\n".join([rows, *(wrapped(f"note: {one}") for one in describe_texts(values["texts"], values["rows"]))])
    blocks = [rows, metrics(values), classes(values), confusion(values), weakest(values), drifted(values["drift"])]
    return "\n\n".join(blocks)


def metrics(values: Mapping[str, Any]) -> str:
    """Each metric with its interval."""
    many = len(values["labels"]) > 2
    lines = [["", "value", "95 % interval"]]
    for key, title in METRICS.items():
        if values[key] is not None:
            interval = values["intervals"].get(key)
            between = f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            macro = " (macro)" if many and key == "f1" else ""
            lines.append([title + macro, f"{values[key]:.4f}", between])
    return aligned(lines)


def classes(values: Mapping[str, Any]) -> str:
    """Precision, recall and F1 of each class, or of the worst ones."""
    entries = values["per_class"]
    shown = entries
    if len(entries) > MOST_CLASSES:
        shown = sorted(entries, key=lambda entry: (entry["f1"] is None, entry["f1"]))[:MOST_CLASSES]
    lines = [["class", "rows", "precision", "recall", "F1"]]
    for entry in shown:
        scores = ["" if entry[key] is None else f"{entry[key]:.4f}" for key in ("precision", "recall", "f1")]
        lines.append([entry["label"], f"{entry['rows']:,}", *scores])
    more = len(entries) - len(shown)
    return aligned(lines) + (f"\nand {more:,} classes with a higher F1" if more else "")


def confusion(values: Mapping[str, Any]) -> str:
    """Rows of each true class by predicted class, or the largest confusions."""
    names, counts = values["labels"], Confusion.read(values)
    if len(names) <= WHOLE_CONFUSION:
        width = (WIDTH - NAME_WIDTH) // len(names) - len(GAP)
        head = ["true \\ predicted", *(shortened(name, width) for name in names)]
        rows = zip(names, counts.matrix().tolist(), strict=True)
        return aligned([head, *([name, *(f"{cell:,}" for cell in row)] for name, row in rows)])
    largest = counts.largest(LISTED)
    lines = [
        ["true", "predicted", "rows"],
        *([names[true], shortened(names[said], NAME_WIDTH), f"{rows:,}"] for true, said, rows in largest),
    ]
    return "largest confusions\n" + aligned(lines) if largest else "no row is confused"


def weakest(values: Mapping[str, Any]) -> str:
    """The group of rows whose accuracy is surely the lowest."""
    lowest = min(values["slices"], key=lambda entry: entry["accuracy_interval"][1])
    low, high = lowest["accuracy_interval"]
    group = f"rows labelled {lowest['name']!r}" if lowest["by"] == "label" else f"rows with {lowest['name']}"
    return wrapped(f"weakest group: {group}: accuracy {lowest['accuracy']:.4f} ({low:.4f} to {high:.4f})")


def drifted(values: Mapping[str, Any]) -> str:
    """The new rows beside the training's, and what differs."""
    places = [place for place in ("train", "validation", "here") if place in values["unknown"]]
    lines = [["drift", *places]]
    lines.append(["unknown tokens", *(f"{values['unknown'][place]:.1%}" for place in places)])
    for key, title in (("0.05", "shortest twentieth"), ("0.5", "median"), ("0.95", "longest twentieth")):
        lengths = (values["lengths"].get(place) for place in places)
        lines.append([f"tokens, {title}", *("" if one is None else f"{one[key]:,}" for one in lengths)])
    shares = {place: shares_of(values["classes"].get(place)) for place in places}
    names = sorted(shares["here"], key=lambda name: -abs(shares["here"][name] - shares.get("train", {}).get(name, 0)))
    lines += [
        [f"class {name}", *(f"{shares[place][name]:.1%}" if shares[place] else "" for place in places)]
        for name in names[:LISTED]
    ]
    found = [wrapped(f"drift: {sentence}") for sentence in values["found"]]
    if "stability_index" not in values["lengths"]:
        found.append(wrapped("drift: lengths and classes of the training are not known: its dataset is elsewhere now"))
    return "\n".join([aligned(lines), *(found or ["drift: nothing to speak of"])])


def shares_of(counts: Mapping[str, int] | None) -> dict[str, float]:
    """Each class's share of the rows; none where they are not known."""
    total = sum((counts or {}).values()) or 1
    return {name: count / total for name, count in (counts or {}).items()}


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns one below the other: the first to the left, the others to the right."""
    cut = [[shortened(line[0], NAME_WIDTH if len(line) > 3 else 2 * NAME_WIDTH), *line[1:]] for line in lines]
    widths = [max(len(line[place]) for line in cut) for place in range(len(cut[0]))]
    rows = (
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in cut
    )
    return "\n".join(GAP.join(row).rstrip() for row in rows)


def wrapped(sentence: str) -> str:
    """A sentence on lines that fit, cut at words."""
    return textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
