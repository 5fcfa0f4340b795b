# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG for a page with a light and a dark face: matplotlib draws, the page's style sheet colours.

Matplotlib is told colours that stand for roles; they are replaced by CSS variables in the SVG it writes. Legends are
left to the page: there they wrap, and a name may hold any character.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

SIZE = (4.4, 2.9)
"""Inches: small, so that the text stays readable on a telephone, where a chart fills the width."""
SLOTS = 8
INK, QUIET, GRID = "#010101", "#010102", "#010103"
ROLES = {INK: "var(--ink)", QUIET: "var(--quiet)", GRID: "var(--line)"}
ROLES |= {f"#0201{slot:02x}": f"var(--s{slot})" for slot in range(SLOTS)}
FEW_POINTS = 20
"""A line with at most so many points shows them."""
STEEP = 20.0
"""How many times the median the largest value must be for a logarithmic axis."""
SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.labelsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Series:
    """One line of a chart, and its entry in the legend."""

    label: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    slot: int = 0
    """Number of its colour."""
    look: Literal["line", "dashed"] = "line"
    ring: tuple[float, float] | None = None
    """A point of it that is marked."""

    @property
    def dashed(self) -> bool:
        """Whether the line is; so is every second round of the colours, that two lines never look the same soon."""
        return self.look == "dashed" or self.slot // SLOTS % 2 == 1


@dataclass(frozen=True)
class Chart:
    """A finished chart: ``svg`` is safe to put into a page as it is."""

    title: str
    svg: str
    legend: list[tuple[str, int, str]]
    """Label, colour and look of each series; empty where there is only one."""


@contextmanager
def blank(title: str) -> Iterator[tuple[Any, Any]]:
    """An empty, see-through matplotlib figure and its axes; the ids in its SVG are a function of ``title``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**SETTINGS, "svg.hashsalt": title}):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        yield figure, axes


def draw(
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    percent: bool = False,
    diagonal: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float | None, float | None] = (None, None),
    dots: bool = True,
    steep: bool = False,
) -> Chart | None:
    """Draw ``series``; None if none of them has a point.

    ``percent`` writes y as a percentage; ``dots`` marks the points of a line that has few; ``steep`` lets y be
    logarithmic where a few large values would press all others onto the axis.
    """
    from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

    shown = [item for item in series if len(item.x)]
    if not shown:
        return None
    with blank(title) as (figure, axes):
        if diagonal is not None:
            axes.plot(diagonal, diagonal, color=QUIET, linestyle=":", linewidth=1.2)
        for item in shown:
            axes.plot(item.x, item.y, color=slot_colour(item.slot), **look_of(item, dots))
            if item.ring is not None:
                axes.plot(*item.ring, "o", color=slot_colour(item.slot), markersize=11, fillstyle="none", clip_on=False)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if x_range is not None:
            axes.set_xlim(*x_range)
        logarithmic = steep and is_steep(shown)
        axes.set_ylim(*y_range)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if logarithmic:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        elif not logarithmic and max(np.max(np.abs(item.y)) for item in shown) >= 10_000:
            axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        if x_label == "step":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    legend: list[tuple[str, int, str]] = [
        (item.label, item.slot % SLOTS, "dashed" if item.dashed else "line") for item in shown
    ]
    return Chart(title, page_svg(buffer.getvalue(), title), legend if len(legend) > 1 else [])


def is_steep(series: Sequence[Series]) -> bool:
    """Whether the largest value is far above most of them, and none of them is 0 or less."""
    values = np.concatenate([np.asarray(item.y, np.float64) for item in series])
    return bool(values.min() > 0 and values.max() > STEEP * np.median(values))


def look_of(series: Series, dots: bool) -> dict[str, Any]:
    """How matplotlib is to draw a series."""
    marks: dict[str, Any] = {"marker": "o", "markersize": 3.5} if dots and len(series.x) <= FEW_POINTS else {}
    return {"linestyle": "--" if series.dashed else "-", **marks}


def slot_colour(slot: int) -> str:
    """The colour that stands for a slot."""
    return f"#0201{slot % SLOTS:02x}"


def page_svg(svg: str, title: str) -> str:
    """Matplotlib's SVG as part of a page: no prologue, sizes from the page, roles for colours, names of its own."""
    head, _, rest = svg[svg.index("<svg") :].partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None, "matplotlib writes a viewBox"
    rest = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", rest, flags=re.DOTALL)
    for colour, role in ROLES.items():
        rest = rest.replace(colour, role)
    rest = re.sub(r"font-family: [^;]*; ?", "", rest)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', rest))
    own = re.sub(r"\W+", "-", title.lower())
    rest = re.sub(r' id="([^"]+)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", rest)
    rest = re.sub(r"url\(#", f"url(#{own}-", rest)
    rest = re.sub(r'(?:xlink:)?href="#', f'href="#{own}-', rest)
    label = html.escape(title, quote=True)
    return f'<svg {view.group()} role="img" aria-label="{label}">{rest}'
