# SPDX-License-Identifier: Apache-2.0
"""The charts of a page: matplotlib draws each as an SVG image, which the page embeds.

A run has the same colour and position in every legend; so has a class in the report of one run.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from harness.report.runs import RunFacts
from harness.rundir.json_files import Line
from harness.rundir.results import probability_column, read_predictions
from harness.scores.metrics import worst_first
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.terminal import shortened
from preprocessing.labels import as_found

SIZE = (4.4, 3.0)
"""Inches: small, so that the text is readable on a phone, where a chart fills the width."""
SLOTS = 8
"""Number of colours; further lines reuse them, dashed, and are not in the legend."""
FEW_POINTS = 20
"""A line with at most this many points has markers."""
CURVE_POINTS = 300
MOST_CURVES = 6
"""Maximum number of classes with ROC and precision-recall curves in a chart."""
LONGEST = 28
"""Maximum characters of a name in a legend."""
Chart: TypeAlias = tuple[str, str]
"""Title, and data URL of the image."""
Curve: TypeAlias = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y."""
NONE: Curve = ([], [])


def draw(
    title: str,
    curves: Iterable[tuple[str, Curve]],
    x_label: str,
    y_label: str,
    *,
    percent: bool = False,
    diagonal: bool = False,
    low: float | None = None,
) -> Chart | None:
    """Draw named curves, each in the colour of its position; None if all are empty.

    ``percent`` shows y as a percentage, ``diagonal`` adds the line x = y, ``low`` is the minimum of the y axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    shown = [(place, name, *curve) for place, (name, curve) in enumerate(curves) if len(curve[0])]
    if not shown:
        return None
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.4)
        if diagonal:
            axes.axline((0, 0), slope=1, color="gray", linestyle=":")
        for place, name, x, y in shown:
            label = shortened(name, LONGEST) if place < SLOTS else None
            style, marker = "--" if place // SLOTS % 2 else "-", "." if len(x) <= FEW_POINTS else ""
            axes.plot(x, y, style, color=f"C{place % SLOTS}", label=label, marker=marker)
        axes.set_ylim(bottom=low)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        if len(shown) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about characters missing in matplotlib's font: the browser has them
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return title, f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def curves_of(run: RunFacts) -> dict[str, tuple[Curve, Curve]]:
    """ROC and precision-recall curves by class: that of class 1 of two, else the worst classes against the rest.

    Empty without predictions.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    if run.measured is None:
        return {}
    worst = [entry["label"] for entry in worst_first(run.measured.figures["per_class"])]
    names = run.labels[1:] if len(run.labels) == 2 else worst[:MOST_CURVES]
    columns = ["label", *map(probability_column, names)]
    try:
        table = read_predictions(run.measured.directory, run.measured.split, columns)
    except DataError:
        return {}
    true = np.array([as_found(label) for label in table["label"].to_pylist()], dtype=object)
    result = {}
    for name in names:
        positive = true == name
        if 0 < positive.sum() < len(true):
            chances = table[probability_column(name)].to_numpy()
            wrong, found, _ = roc_curve(positive, chances)
            precision, recall, _ = precision_recall_curve(positive, chances)
            result[name] = (thinned(wrong, found), thinned(recall[::-1], precision[::-1]))
    return result


def thinned(x: np.ndarray, y: np.ndarray) -> Curve:
    """A curve with at most ``CURVE_POINTS`` points, ends included."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).round().astype(int))
    return x[keep], y[keep]


def averaged(lines: Sequence[Line], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a figure over a run; for many lines, means of neighbouring ones."""
    known = [(line["step"], line[name]) for line in lines if line.get(name) is not None and math.isfinite(line[name])]
    size = -(-len(known) // CURVE_POINTS) or 1
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    return [group[-1][0] for group in groups], [float(np.mean([value for _, value in group])) for group in groups]


def learning_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Loss, validation, learning rate, gradient norm and throughput over the steps; runs overlaid. For a single run,
    the validation loss is the one of ``select``, if that is a loss, and a point marks the best epoch.
    """

    def over_steps(title: str, figure: str, y_label: str, where: str, **how: Any) -> Chart | None:
        curves = [(name, averaged(getattr(run, where), figure)) for name, run in zip(names, runs, strict=True)]
        return draw(title, [*curves, *(kept(runs, figure) if where == VALIDATION else [])], "step", y_label, **how)

    if len(runs) == 1:
        (run,) = runs
        figure = "log_loss" if run.selected == "accuracy" else run.selected
        name = "validation, calibrated" if figure == "calibrated_log_loss" else "validation"
        both = [("training", averaged(run.train, "loss")), (name, averaged(run.validation, figure))]
        losses = [draw("Loss", [*both, *kept(runs, figure)], "step", "log loss", low=0)]
    else:
        losses = [
            over_steps("Training loss", "loss", "log loss", "train", low=0),
            over_steps("Validation loss", "log_loss", "log loss", VALIDATION),
        ]
    charts = (
        *losses,
        over_steps("Validation perplexity", "perplexity", "perplexity", VALIDATION),
        over_steps("Validation accuracy", "accuracy", "accuracy", VALIDATION, percent=True),
        over_steps("Learning rate", "lr", "learning rate", "train", low=0),
        over_steps("Gradient norm", "grad_norm", "norm before clipping", "train", low=0),
        over_steps("Throughput", "tokens_per_s", "tokens/s", "speed", low=0),
    )
    return [chart for chart in charts if chart is not None]


def kept(runs: Sequence[RunFacts], figure: str) -> list[tuple[str, Curve]]:
    """The best epoch of a single run, as a point on the curve of the figure that chose it; empty for other figures."""
    best = runs[0].best_validation or {}
    if len(runs) > 1 or runs[0].selected != figure or figure not in best:
        return []
    return [("best, kept", ([best["step"]], [best[figure]]))]


def capital(text: str) -> str:
    """A text with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def shown_split(runs: Sequence[RunFacts]) -> str:
    """The split in the charts: test if any run has it, else validation."""
    found = {run.measured.split for run in runs if run.measured is not None}
    return TEST if TEST in found or not found else VALIDATION


def quality_charts(
    runs: Sequence[RunFacts], names: Sequence[str], curves: Sequence[Mapping[str, tuple[Curve, Curve]]]
) -> list[Chart]:
    """ROC, precision-recall and calibration on one split; runs overlaid, or the classes of one run."""
    split = shown_split(runs)
    of_classes, bins = [], []
    for name, run, pairs in zip(names, runs, curves, strict=True):
        figures = run.measured.figures if run.measured is not None and run.measured.split == split else None
        after, before = (bins_of(figures, when) for when in ("after", "before"))
        if len(runs) == 1:
            of_classes = list(pairs.items())
            bins = [("after temperature scaling", after), ("before temperature scaling", before)]
        else:  # several runs with many classes would be too many lines
            is_drawn = figures is not None and len(run.labels) == 2
            of_classes.append((name, next(iter(pairs.values()), (NONE, NONE)) if is_drawn else (NONE, NONE)))
            bins.append((name, after))
    roc, precision = ([(name, pair[which]) for name, pair in of_classes] for which in (0, 1))
    charts = (
        draw("ROC", roc, "false positive rate", "true positive rate", percent=True, diagonal=True, low=0),
        draw("Precision and recall", precision, "recall", "precision", percent=True, low=0),
        draw("Calibration", bins, "confidence", "accuracy", percent=True, diagonal=True),
    )
    return [chart for chart in charts if chart is not None]


def bins_of(figures: Mapping[str, Any] | None, when: str) -> Curve:
    """Confidence and accuracy of each bin of a reliability diagram, ``before`` or ``after`` calibration."""
    bins = figures["calibration"][when] if figures is not None else []
    return [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins]
