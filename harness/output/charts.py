# SPDX-License-Identifier: Apache-2.0
"""Charts of a report: each an SVG image of matplotlib, as a data URL."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from harness.output.run_facts import RunFacts
from harness.rundir.json_files import Line
from padless.core.split_names import VALIDATION
from padless.core.terminal import shorten_line

MIN_BIN_ROWS = 10
"""Of a bin in the chart of the calibration."""
SIZE = (4.4, 3.0)
"""Inches: small, so that the text is readable on a phone, where a chart fills the width."""
NUM_COLOURS = 8
"""Further lines reuse them, dashed, and are not in the legend."""
MAX_POINTS = 300
"""Of a line over steps; of more, every second, third, … is drawn."""
MAX_LEGEND_CHARACTERS = 28
Chart: TypeAlias = tuple[str, str]
"""Title, and data URL of the image."""
Curve: TypeAlias = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y."""
OVER_STEPS = (
    ("Training loss", "train", "loss", "log loss"),
    ("Validation loss", VALIDATION, "log_loss", "log loss"),
    ("Validation perplexity", VALIDATION, "perplexity", "perplexity"),
    ("Validation accuracy", VALIDATION, "accuracy", "accuracy"),
    ("Gradient norm", "train", "grad_norm", "norm before clipping"),
)
"""Title, attribute of ``RunFacts`` with the lines, figure, and label of the y axis."""


def draw(
    title: str, curves: Iterable[tuple[str, Curve]], x_label: str, y_label: str, *, is_diagonal: bool = False
) -> list[Chart]:
    """Draw named curves, each in the colour of its position, with the line x = y if ``is_diagonal``; nothing if all are
    empty.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines = [(position, name, *curve) for position, (name, curve) in enumerate(curves) if len(curve[0])]
    if not lines:
        return []
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
        axes.grid(alpha=0.4)
        if is_diagonal:
            axes.axline((0, 0), slope=1, color="gray", linestyle=":")
        for position, name, x, y in lines:
            label = shorten_line(name, MAX_LEGEND_CHARACTERS) if position < NUM_COLOURS else None
            style = "." + ("--" if position // NUM_COLOURS % 2 else "-")
            axes.plot(x, y, style, color=f"C{position % NUM_COLOURS}", label=label, markersize=3)
        if len(lines) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about characters missing in matplotlib's font: the browser has them
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return [(title, f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}")]


def curve_of(lines: Sequence[Line], name: str) -> Curve:
    """Steps and values of a figure over a run."""
    finite = [(line["step"], line[name]) for line in lines if line.get(name) is not None and math.isfinite(line[name])]
    points = np.array(finite[:: 1 + len(finite) // MAX_POINTS], float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def learning_charts(runs: Sequence[RunFacts]) -> list[Chart]:
    """The charts of ``OVER_STEPS``; runs overlaid."""
    charts = list[Chart]()
    for title, lines, figure, y_label in OVER_STEPS:
        curves = [(run.name, curve_of(getattr(run, lines), figure)) for run in runs]
        charts += draw(title, curves, "step", y_label)
    return charts


def quality_charts(runs: Sequence[RunFacts], split: str) -> list[Chart]:
    """Confidence and accuracy of each bin with ``MIN_BIN_ROWS`` rows, on one split, runs overlaid."""
    curves = []
    for run in runs:
        bins = run.figures["calibration"]["after"] if run.figures and run.split == split else []
        points = [(entry["confidence"], entry["accuracy"]) for entry in bins if entry["rows"] >= MIN_BIN_ROWS]
        confidence, accuracy = np.array(points).reshape(-1, 2).T
        curves.append((run.name, (confidence, accuracy)))
    return draw("Calibration", curves, "confidence", "accuracy", is_diagonal=True)
