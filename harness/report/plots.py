# SPDX-License-Identifier: Apache-2.0
"""The charts of a page: drawn by matplotlib as SVG, each an image of its own that the page holds.

A run has the same colour and the same place in every legend; so has a class of one run.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from harness.report.runs import RunFacts
from harness.rundir.json_files import Line
from harness.rundir.results import read_predictions
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.terminal import shortened

SIZE = (4.4, 3.0)
"""Inches: small, so that the text stays readable on a telephone, where a chart fills the width."""
SLOTS = 8
"""Colours, matplotlib's first ones; further lines have them once more, dashed, and stand in no legend."""
FEW_POINTS = 20
"""A line with at most so many points shows them."""
CURVE_POINTS = 300
MOST_CURVES = 6
"""Classes whose ROC and precision-recall curves are drawn: more are a tangle."""
LONGEST = 28
"""Characters of a name in a legend."""
Curve: TypeAlias = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y."""
NONE: Curve = ([], [])


@dataclass(frozen=True)
class Chart:
    """A finished chart; ``image`` is the address of a picture, which holds the picture itself."""

    title: str
    image: str


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
    """Draw curves by their names, each in the colour of its place; None if none of them has a point.

    ``percent`` writes y as a percentage, ``diagonal`` adds the line x = y, ``low`` is the least y that is shown.
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
            warnings.simplefilter("ignore")  # of letters that matplotlib's own font lacks: the browser has them
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(title, f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}")


def curves_of(run: RunFacts) -> dict[str, tuple[Curve, Curve]]:
    """The ROC and the precision-recall curve by class: of class 1 of two, of the worst against the rest of more.

    Empty where there are no predictions.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    if run.measured is None:
        return {}
    worst = [entry["label"] for entry in worst_first(run.measured.figures["per_class"])]
    names = run.labels[1:] if len(run.labels) == 2 else worst[:MOST_CURVES]
    try:
        true, chances = read_predictions(run.measured.directory, run.measured.split, names)
    except (OSError, KeyError, ValueError):
        return {}
    result = {}
    for name in names:
        positive = true == name
        if positive.all() or not positive.any():
            continue
        wrong, found, _ = roc_curve(positive, chances[name])
        precision, recall, _ = precision_recall_curve(positive, chances[name])
        result[name] = (thinned(wrong, found), thinned(recall[::-1], precision[::-1]))
    return result


def worst_first(per_class: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes by rising F1, of equals the larger first; those without a row, of which nothing is known, at the end."""
    return sorted(per_class, key=lambda entry: (not entry["rows"], entry["f1"] or 0.0, -entry["rows"]))


def thinned(x: np.ndarray, y: np.ndarray) -> Curve:
    """A curve with at most ``CURVE_POINTS`` points, its ends among them."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), CURVE_POINTS)).round().astype(int))
    return x[keep], y[keep]


def averaged(lines: Sequence[Line], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a figure over a run; where there are many lines, means of neighbours."""
    known = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    known = [(step, value) for step, value in known if math.isfinite(value)]
    size = -(-len(known) // CURVE_POINTS) or 1
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    return [group[-1][0] for group in groups], [float(np.mean([value for _, value in group])) for group in groups]


def over_steps(
    title: str, figure: str, y_label: str, runs: Sequence[RunFacts], names: Sequence[str], where: str, **how: Any
) -> Chart | None:
    """A figure over the steps, runs overlaid; ``where`` is ``train``, ``speed`` or ``validation``."""
    curves = (averaged(getattr(run, where), figure) for run in runs)
    return draw(title, zip(names, curves, strict=True), "step", y_label, **how)


def learning_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Loss, validation, learning rate, gradient norm and throughput over the steps; runs overlaid. One run's loss on
    validation is the one that chose its weights, if one did.
    """
    if len(runs) == 1:
        (run,) = runs
        figure = "log_loss" if run.selected == "accuracy" else run.selected
        calibrated = ", calibrated" if figure != "log_loss" else ""
        training, validation = averaged(run.train, "loss"), averaged(run.validation, figure)
        curves = (("training", training), (f"validation{calibrated}", validation), kept(run, figure))
        losses = [draw("Loss", curves, "step", "log loss", low=0)]
        right = ("validation", averaged(run.validation, "accuracy")), kept(run, "accuracy")
        accuracy = draw("Validation accuracy", right, "step", "accuracy", percent=True)
    else:
        losses = [
            over_steps("Training loss", "loss", "log loss", runs, names, "train", low=0),
            over_steps("Validation loss", "log_loss", "log loss", runs, names, VALIDATION),
        ]
        accuracy = over_steps("Validation accuracy", "accuracy", "accuracy", runs, names, VALIDATION, percent=True)
    return only(
        *losses,
        over_steps("Validation perplexity", "perplexity", "perplexity", runs, names, VALIDATION),
        accuracy,
        over_steps("Learning rate", "lr", "learning rate", runs, names, "train", low=0),
        over_steps("Gradient norm", "grad_norm", "norm before clipping", runs, names, "train", low=0),
        over_steps("Throughput", "tokens_per_s", "tokens/s", runs, names, "speed", low=0),
    )


def kept(run: RunFacts, figure: str) -> tuple[str, Curve]:
    """The epoch whose weights were kept, as a point of the curve of the figure that chose it; no point of others."""
    best = run.best_validation
    is_known = best is not None and run.selected == figure and isinstance(best.get(figure), float)
    return "best, kept", ([best["step"]], [best[figure]]) if best is not None and is_known else NONE


def capital(text: str) -> str:
    """A text with a capital in front."""
    return text[:1].upper() + text[1:]


def only(*charts: Chart | None) -> list[Chart]:
    """The charts that there are."""
    return [chart for chart in charts if chart is not None]


def shown_split(runs: Sequence[RunFacts]) -> str:
    """The split whose figures are drawn: test if any run has it, else validation."""
    found = {run.measured.split for run in runs if run.measured is not None}
    return TEST if TEST in found or not found else VALIDATION


def quality_charts(
    runs: Sequence[RunFacts], names: Sequence[str], curves: Sequence[Mapping[str, tuple[Curve, Curve]]]
) -> list[Chart]:
    """ROC, precision-recall and calibration on one split; runs overlaid, or the classes of one run."""
    split, alone = shown_split(runs), len(runs) == 1
    measured = [run.measured.figures if run.measured and run.measured.split == split else None for run in runs]
    bins = [bins_of(values["calibration"]["after"]) if values else NONE for values in measured]
    of = [("after temperature scaling" if alone else name, each) for name, each in zip(names, bins, strict=True)]
    of_classes = curves[0] if alone else {}
    if alone and measured[0]:
        of.append(("before temperature scaling", bins_of(measured[0]["calibration"]["before"])))
    elif not alone:  # the classes of several runs would be one tangle of lines
        of_classes = {
            name: next(iter(each.values()), (NONE, NONE)) if values and len(values["labels"]) == 2 else (NONE, NONE)
            for name, each, values in zip(names, curves, measured, strict=True)
        }
    roc, precision = ([(name, pair[which]) for name, pair in of_classes.items()] for which in (0, 1))
    rates = "false positive rate", "true positive rate"
    return only(
        draw("ROC", roc, *rates, percent=True, diagonal=True, low=0),
        draw("Precision and recall", precision, "recall", "precision", percent=True, low=0),
        draw("Calibration", of, "confidence", "accuracy", percent=True, diagonal=True),
    )


def bins_of(bins: Sequence[Mapping[str, float]]) -> Curve:
    """Confidence and accuracy of each bin of a reliability diagram."""
    return [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins]
