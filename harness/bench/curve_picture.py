# SPDX-License-Identifier: Apache-2.0
"""A learning curve as a picture: accuracy by the number of labels, a line for each method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing.base import atomic

COLOURS = {"linear": "#8a8a8a", "labelled": "#2a6fbb", "all texts": "#c2571a"}
NAMES = {"linear": "linear model", "labelled": "labelled texts alone", "all texts": "with texts without labels"}


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture in the format of the file's name; bars reach one deviation up and down."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "padless"
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for method, colour in COLOURS.items():
        there = [line for line in lines if method in line["methods"]]
        if not there:
            continue
        rows = [line["rows"] for line in there]
        means = [100 * line["methods"][method]["mean"] for line in there]
        spread = [100 * (line["methods"][method]["sd"] or 0) for line in there]
        axes.errorbar(rows, means, yerr=spread, color=colour, marker="o", capsize=3, label=NAMES[method])
        axes.annotate(f"{means[-1]:.1f}", (rows[-1], means[-1]), (6, -3), textcoords="offset points", color=colour)
    axes.set_xscale("log")
    axes.set_xticks([line["rows"] for line in lines], [f"{line['rows']:,}" for line in lines])
    axes.minorticks_off()
    axes.set_xlabel("rows with a label")
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize="small")  # above the lines
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", dpi=160, metadata=dateless(path))
    pyplot.close(figure)


def dateless(path: Path) -> dict[str, None] | None:
    """What keeps the date out of a picture, so that the same figures give the same bytes."""
    return {"Date": None} if path.suffix == ".svg" else None
