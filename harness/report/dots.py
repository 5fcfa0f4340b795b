# SPDX-License-Identifier: Apache-2.0
"""A figure of many runs as a chart: each run as a point with its rows' interval, the mean as a line in its own."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.charts import QUIET, Chart, blank, page_svg, slot_colour
from harness.scores.figures import FIGURES

NAMED = 12
"""Up to so many runs each has its number at the axis."""
PERCENT = ("accuracy", "balanced_accuracy")
SHOWN = ("accuracy", "f1", "roc_auc", "log_loss", "ece", "perplexity")
"""Figures that have a chart."""


def dots(
    title: str,
    numbers: Sequence[int],
    values: Sequence[float],
    intervals: Sequence[Sequence[float] | None],
    found: Mapping[str, float | None],
    x_label: str,
    split: str,
    *,
    percent: bool = False,
) -> Chart:
    """Draw one figure of a split; ``found`` is its spread, ``numbers`` the runs' seeds or folds, in whose order they
    stand.
    """
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    with blank(title) as (figure, axes):
        mean, low, high = (found[name] for name in ("mean", "low", "high"))
        assert mean is not None
        axes.axhline(mean, color=QUIET, linewidth=1.2)
        if low is not None and high is not None:
            axes.axhspan(low, high, color=QUIET, alpha=0.16, linewidth=0)
        for place, (value, interval) in enumerate(zip(values, intervals, strict=True)):
            if interval is not None:
                axes.plot([place, place], interval, color=slot_colour(place), linewidth=1.2)
            axes.plot([place], [value], color=slot_colour(place), marker="o", markersize=6, linestyle="none")
        axes.set_xlim(-0.6, len(values) - 0.4)
        if len(numbers) <= NAMED:
            axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(x_label if len(numbers) <= NAMED else f"{x_label}, by its place")
        axes.set_ylabel(title)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return Chart(title, page_svg(buffer.getvalue(), f"{title} of each {x_label} on {split}"), [])


def spread_charts(values: Mapping[str, Any], split: str, kind: str) -> list[Chart]:
    """A chart for each figure of a split; ``values`` are those of ``many.collect``, ``kind`` is seed or fold."""
    runs = values["runs"]
    charts = []
    for name in SHOWN:
        found = values["splits"][split].get(name)
        if found is None:
            continue
        of_runs = [run["splits"][split] for run in runs]
        intervals = [one.get("intervals", {}).get(name) for one in of_runs]
        title = FIGURES[name].title[0].upper() + FIGURES[name].title[1:]
        numbers, points = [run[kind] for run in runs], [one[name] for one in of_runs]
        charts.append(dots(title, numbers, points, intervals, found, kind, split, percent=name in PERCENT))
    return charts
