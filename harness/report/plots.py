# SPDX-License-Identifier: Apache-2.0
"""The charts of a page, as SVG with a light and a dark face: matplotlib draws, the page's style sheet colours.

Matplotlib is told colours that stand for roles; they are replaced by CSS variables in the SVG it writes. Legends are
left to the page: there they wrap, and a name may hold any character. A run has the same colour and the same place in
every legend; so has a class of one run.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from harness.report.runs import RunFacts
from harness.rundir.json_files import Line
from harness.rundir.results import read_predictions
from harness.scores.figures import FIGURES, title_of
from harness.scores.metrics import confusion_from_json
from preprocessing.base.split_names import TEST, VALIDATION

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
CURVE_POINTS = 300
MOST_CURVES = 6
"""Classes whose ROC and precision-recall curves are drawn: more are a tangle."""
NAMED = 12
"""Up to so many runs each has its number at the axis."""
SPREAD = ("accuracy", "f1", "roc_auc", "log_loss", "ece", "perplexity")
"""Figures of many runs that have a chart."""
Curve: TypeAlias = tuple[np.ndarray, np.ndarray]
"""x and y."""
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


def svg_of(figure: Any, title: str) -> str:
    """A matplotlib figure as part of a page: no prologue, sizes from the page, roles for colours, ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = buffer.getvalue()
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
    return f'<svg {view.group()} role="img" aria-label="{html.escape(title, quote=True)}">{rest}'


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
        svg = svg_of(figure, title)
    legend: list[tuple[str, int, str]] = [
        (item.label, item.slot % SLOTS, "dashed" if item.dashed else "line") for item in shown
    ]
    return Chart(title, svg, legend if len(legend) > 1 else [])


def is_steep(series: Sequence[Series]) -> bool:
    """Whether the largest value is far above most of them, and none of them is 0 or less."""
    values = np.concatenate([np.asarray(item.y, np.float64) for item in series])
    return bool(values.min() > 0 and values.max() > STEEP * np.median(values))


def look_of(series: Series, dots: bool) -> dict[str, Any]:
    """How matplotlib is to draw a series."""
    marks: dict[str, Any] = {"marker": "o", "markersize": 3.5} if dots and len(series.x) <= FEW_POINTS else {}
    return {"linestyle": "--" if series.dashed else "-", **marks}


def capital(text: str) -> str:
    """A text with a capital in front."""
    return text[:1].upper() + text[1:]


def slot_colour(slot: int) -> str:
    """The colour that stands for a slot."""
    return f"#0201{slot % SLOTS:02x}"


def curves_of(run: RunFacts) -> dict[str, dict[str, Curve]]:
    """``{label: {"roc": (x, y), "pr": (x, y)}}``: of class 1 of two, of each of some against the rest of more.

    The keys are the classes in which the most rows go wrong, the worst first; empty where there are no predictions.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    if run.measured is None:
        return {}
    names = run.labels[1:] if len(run.labels) == 2 else most_errors(run.measured.figures)
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
        result[name] = {"roc": thinned(wrong, found), "pr": thinned(recall[::-1], precision[::-1])}
    return result


def worst_first(per_class: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Classes by rising F1, of equals the larger first; those without a row, of which nothing is known, at the end."""
    return sorted(per_class, key=lambda entry: (not entry["rows"], entry["f1"] or 0.0, -entry["rows"]))


def most_errors(figures: Mapping[str, Any], most: int = MOST_CURVES) -> list[str]:
    """The classes in which the most rows go wrong, missed and wrongly given together; the worst of them first.

    A class of two rows may well have the worst F1, but its curves are two steps and say nothing.
    """
    hits = confusion_from_json(figures, len(figures["labels"])).diagonal().tolist()
    errors = {
        entry["label"]: entry["rows"] + entry["predicted"] - 2 * right
        for entry, right in zip(figures["per_class"], hits, strict=True)
    }
    ordered = [entry["label"] for entry in worst_first(figures["per_class"]) if entry["rows"]]
    chosen = sorted(ordered, key=lambda label: -errors[label])[:most]
    return [label for label in ordered if label in chosen]


def thinned(x: np.ndarray, y: np.ndarray, points: int = CURVE_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A curve with at most ``points`` points, its ends among them."""
    if len(x) <= points:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
    return x[keep], y[keep]


def averaged(lines: Sequence[Line], name: str, points: int = CURVE_POINTS) -> tuple[list[float], list[float]]:
    """Steps and values of a figure over a run; where there are many lines, means of neighbours."""
    known = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), (int, float))]
    known = [(step, value) for step, value in known if math.isfinite(value)]
    size = -(-len(known) // points) or 1
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    return [group[-1][0] for group in groups], [float(np.mean([value for _, value in group])) for group in groups]


def spread_charts(values: Mapping[str, Any], split: str, kind: str) -> list[Chart]:
    """A chart for each figure of a split; ``values`` are those of ``many.collect``, ``kind`` is seed or fold.

    Each run is a point with its rows' interval, in the order of their numbers; the mean is a line in its own interval.
    """
    runs = [(run[kind], run["splits"][split]) for run in values["runs"]]
    found = values["splits"][split]
    return [spread_chart(name, found[name], runs, split, kind) for name in SPREAD if name in found]


def spread_chart(
    name: str, found: Mapping[str, float | None], runs: Sequence[tuple[int, Mapping[str, Any]]], split: str, kind: str
) -> Chart:
    """The chart of one figure; ``found`` is its spread, ``runs`` has the number and the figures of each run."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    title = capital(FIGURES[name].title)
    with blank(title) as (figure, axes):
        axes.axhline(found["mean"], color=QUIET, linewidth=1.2)
        if found["low"] is not None:
            axes.axhspan(found["low"], found["high"], color=QUIET, alpha=0.16, linewidth=0)
        for place, (_, values) in enumerate(runs):
            if (interval := values.get("intervals", {}).get(name)) is not None:
                axes.plot([place, place], interval, color=slot_colour(place), linewidth=1.2)
            axes.plot([place], [values[name]], color=slot_colour(place), marker="o", markersize=6, linestyle="none")
        axes.set_xlim(-0.6, len(runs) - 0.4)
        if len(runs) <= NAMED:
            axes.set_xticks(range(len(runs)), [str(number) for number, _ in runs])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(kind if len(runs) <= NAMED else f"{kind}, by its place")
        axes.set_ylabel(title)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if FIGURES[name].percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        return Chart(title, svg_of(figure, f"{title} of each {kind} on {split}"), [])


def over_steps(
    title: str, figure: str, y_label: str, runs: Sequence[RunFacts], names: Sequence[str], where: str, **how: Any
) -> Chart | None:
    """A figure over the steps, runs overlaid; ``where`` is ``train``, ``speed`` or ``validation``."""
    series = [
        Series(
            name, *averaged(getattr(run, where), figure), slot, ring=ring(run, figure) if where == VALIDATION else None
        )
        for slot, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    return draw(title, series, "step", y_label, x_range=steps_of(runs), **how)


def ring(run: RunFacts, figure: str) -> tuple[float, float] | None:
    """The point of the epoch whose weights were kept, on the figure that chose it."""
    best = run.best_validation
    value = best.get(figure) if best is not None and run.selected == figure else None
    return (best["step"], value) if best and isinstance(value, float) and math.isfinite(value) else None


def steps_of(runs: Sequence[RunFacts]) -> tuple[float, float]:
    """From 0 to just past the last step of any run: all charts over steps have the same axis."""
    return 0.0, 1.02 * max((line["step"] for run in runs for line in [*run.train, *run.validation]), default=1)


def learning_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Loss, validation, learning rate and gradient norm over the steps; runs overlaid."""
    f1 = title_of("f1", runs[0].labels) if len(runs) == 1 else "F1"
    low: dict[str, Any] = {"y_range": (0, None)}
    if len(runs) == 1:
        train, validation = averaged(runs[0].train, "loss"), averaged(runs[0].validation, "log_loss")
        both = [Series("training", *train), Series("validation", *validation, 1, ring=ring(runs[0], "log_loss"))]
        losses = [draw("Loss", both, "step", "log loss", x_range=steps_of(runs), **low)]
    else:
        losses = [
            over_steps("Training loss", "loss", "log loss", runs, names, "train", **low),
            over_steps("Validation loss", "log_loss", "log loss", runs, names, VALIDATION),
        ]
    return only(
        *losses,
        over_steps("Validation perplexity", "perplexity", "perplexity", runs, names, VALIDATION),
        over_steps("Validation loss, calibrated", "calibrated_log_loss", "log loss", runs, names, VALIDATION),
        over_steps("Validation accuracy", "accuracy", "accuracy", runs, names, VALIDATION, percent=True),
        over_steps(f"Validation {f1}", "f1", f1, runs, names, VALIDATION),
        over_steps("Learning rate", "lr", "learning rate", runs, names, "train", **low),
        over_steps("Gradient norm", "grad_norm", "norm before clipping", runs, names, "train", steep=True),
    )


def speed_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Tokens per second, waiting and padding over the steps; runs overlaid."""
    low: dict[str, Any] = {"y_range": (0, None)}
    return only(
        over_steps("Throughput", "tokens_per_s", "tokens/s", runs, names, "speed", **low),
        over_steps("Data wait", "data_wait", "share of time", runs, names, "speed", percent=True, **low),
        over_steps("Padding", "padding", "share of what is computed", runs, names, "train", percent=True, **low),
    )


def only(*charts: Chart | None) -> list[Chart]:
    """The charts that there are."""
    return [chart for chart in charts if chart is not None]


def shown_split(runs: Sequence[RunFacts]) -> str:
    """The split whose figures are drawn: test if any run has it, else validation."""
    found = {run.measured.split for run in runs if run.measured is not None}
    return TEST if TEST in found or not found else VALIDATION


def quality_charts(
    runs: Sequence[RunFacts], names: Sequence[str], curves: Sequence[Mapping[str, Mapping[str, Curve]]]
) -> list[Chart]:
    """ROC, precision-recall and calibration on one split; runs overlaid, or the classes of one run."""
    split, alone = shown_split(runs), len(runs) == 1
    roc, pr, reliability = [], [], []
    for slot, (run, name) in enumerate(zip(runs, names, strict=True)):
        if run.measured is None or run.measured.split != split:
            continue
        if alone or len(run.labels) == 2:  # the classes of several runs would be one tangle of lines
            for number, (label, curve) in enumerate(curves[slot].items()):
                of, place = (label, number) if alone else (name, slot)
                roc.append(Series(of, *curve["roc"], place))
                pr.append(Series(of, *curve["pr"], place))
        bins = run.measured.figures["calibration"]
        reliability.append(Series("after temperature scaling" if alone else name, *bins_of(bins["after"]), slot))
        if alone:
            reliability.append(Series("before temperature scaling", *bins_of(bins["before"]), 1, "dashed"))
    lowest = min((min(item.x) for item in reliability), default=0.0)
    whole, edge = (0.0, 1.0), (0.0, 1.02)
    wrong, right = "false positive rate", "true positive rate"
    return only(
        draw("ROC", roc, wrong, right, percent=True, diagonal=whole, y_range=edge, dots=False),
        draw("Precision and recall", pr, "recall", "precision", percent=True, y_range=edge, dots=False),
        draw("Calibration", reliability, "confidence", "accuracy", percent=True, diagonal=(lowest, 1.0)),
    )


def bins_of(bins: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    """Confidence and accuracy of each bin of a reliability diagram."""
    return [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins]
