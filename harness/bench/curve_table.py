# SPDX-License-Identifier: Apache-2.0
"""The figures of a learning curve as a table: a line for each number of labels, means over draws."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from preprocessing.base.readable import duration


def summary(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each number of labels, the fewest first: rows, and of each method mean, deviation and draws."""
    result = []
    counts = sorted({line["labels"] for line in lines}, key=lambda count: count or float("inf"))
    for labels in counts:
        own = [line for line in lines if line["labels"] == labels]
        methods = {}
        for method in dict.fromkeys(line["method"] for line in own):
            figures = [line["accuracy"] for line in own if line["method"] == method]
            methods[method] = {
                "mean": statistics.fmean(figures),
                "sd": statistics.stdev(figures) if len(figures) > 1 else None,
                "draws": len(figures),
                "seconds": statistics.fmean(line["seconds"] for line in own if line["method"] == method),
            }
        result.append({"labels": labels, "rows": max(line["rows"] for line in own), "methods": methods})
    return result


def render(lines: Sequence[dict[str, Any]]) -> str:
    """The table. A cell without a figure is a dash; behind the means stands how long a training took."""
    methods = list(dict.fromkeys(method for line in lines for method in line["methods"]))
    rows = [f"{'labels':>8}" + "".join(f" {method:>17}" for method in methods)]
    for line in lines:
        cells = [cell(line["methods"].get(method)) for method in methods]
        rows.append(f"{line['rows']:>8,}" + "".join(f" {one:>17}" for one in cells))
    for method in methods:
        took = [line["methods"][method]["seconds"] for line in lines if method in line["methods"]]
        rows.append(f"{method}: {duration(min(took))} to {duration(max(took))} each")
    return "\n".join(rows)


def cell(figures: dict[str, Any] | None) -> str:
    """Mean and deviation of one method."""
    if figures is None:
        return "-"
    return f"{figures['mean']:.4f}" + ("" if figures["sd"] is None else f" ± {figures['sd']:.4f}")
