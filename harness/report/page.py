# SPDX-License-Identifier: Apache-2.0
"""``padless report RUN [RUN …]``: makes one HTML file of run directories, without network access or scripts.

Every run ends with a report; a failure to write it does not fail the run. matplotlib draws each chart as an SVG image,
which the page embeds. A run has the same colour and position in every legend; so has a class in the report of one run.
"""

from __future__ import annotations

import base64
import io
import math
import shlex
import warnings
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import yaml

from harness.config import LANGUAGE_MODEL, flat
from harness.inference import explanation
from harness.report.mistakes import mistakes_of
from harness.report.runs import (
    RunFacts,
    capital,
    dataset_groups,
    differences,
    differing,
    ranked,
    ranking_figure,
    ranks,
    together,
    unique_names,
)
from harness.rundir.bundle_files import split_facts
from harness.rundir.json_files import Line
from harness.rundir.layout import REPORT, members
from harness.rundir.results import probability_column, read_predictions
from harness.scores.figures import FIGURES, title_of
from harness.scores.metrics import confusion_from_json, largest_confusions, worst_first
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.installed import VERSION
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.terminal import counted, duration, printable, public, public_values, shortened, tell
from preprocessing.labels import as_found

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
GENERATOR = "padless report"
"""``generator`` of a report."""
MATRIX_CLASSES = 20
"""Maximum number of classes for a whole confusion matrix; beyond it only the largest cells are shown."""
LISTED_CONFUSIONS = 12


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML report about one run, or comparing several.

    For a folder of train --seeds or --folds, the report shows the spread of its runs.
    """

    SUBJECT = ("run",)
    run: list[str]
    """Run directories, or folders of train --seeds or --folds."""
    output: str | None = None
    """File to write; RUN/report.html for one run, or one folder of runs, report.html in the current directory for
    several."""
    overwrite: bool = False
    """Replace an existing file that is not a report."""
    open: bool = False
    """Show it in the browser."""


def main(config: ReportConfig) -> None:
    """Write the report of the given runs, print its path, and open it if that is asked for."""
    path = write_report(config.run, config.output, overwrite=config.overwrite)
    print(f"written to {path}")
    if config.open and not webbrowser.open(path.absolute().as_uri()):
        print(f"no browser can be opened here; open {path.absolute()} in yours")


def write_report(runs: Sequence[str | Path], output: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the report of ``runs`` and return its path.

    Raises ``DataError`` for a path that is not a run or has no metrics, ``ConfigError`` for an existing file that is
    not a report, without ``overwrite``.
    """
    inside = {place: members(place) for place in map(Path, runs)}
    first, *others = inside
    spread = together(first, inside[first]) if inside[first] and not others else None
    of_places = inside if spread is None else {first: spread["runs"]}
    facts = [RunFacts(path) for place, found in of_places.items() for path in [one.path for one in found] or [place]]
    target = Path(output or (REPORT if others else first / REPORT))
    atomic.check_replaced(target, overwrite, [GENERATOR])
    page = render(facts, spread)
    with atomic.storing(target, otherwise="name another --output"):
        atomic.write_text(target, page)
    return target


def write_report_quietly(run: str | Path) -> None:
    """Write the report at the end of a run; any error becomes one warning and does not fail the run."""
    try:
        write_report([run])
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        tell(f"warning: no report written ({reason}); padless report {run} tries again")


def render(runs: Sequence[RunFacts], spread: dict[str, Any] | None) -> str:
    """The page; ``spread`` is the result of ``together`` for ``runs``, which then keep their order.

    The template escapes every text except charts. Control characters are escaped visibly.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    runs = ranked(runs) if spread is None else runs
    names, groups = unique_names(runs), dataset_groups(runs)
    views = [view(run, name) for run, name in zip(runs, names, strict=True)]
    split = VALIDATION if {each["split"] for each in views} - {None} == {VALIDATION} else TEST  # of the charts
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs side by side"
    if spread is not None:
        folder = spread["runs"][0].path.resolve().parent.name
        title = f"{folder}: {counted(len(runs), spread['kind'])}"
    style = (FOLDER / STYLE).read_text(encoding="utf-8") + explanation.STYLE
    page = {
        "title": title,
        "head": explanation.page_head(f"{title} · padless", GENERATOR, style),
        "spread": spread,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "version": VERSION,
        "metrics": titles(()),
        "runs": views,
        "learning": learning_charts(runs, names),
        "quality": quality_charts(views, split),
        "split": split,
        "differing": differing(runs),
        "pairs": differences(runs, names) if spread is None else [],
        "groups": groups,
        "apart": len(set(groups)) > 1,
        "ranks": ranks(runs) if spread is None else [str(one.number) for one in spread["runs"]],
        "ranked_by": FIGURES[ranking_figure(runs)].title,
        "slots": SLOTS,
    }
    return printable(explanation.unix_lines(environment.get_template(TEMPLATE).render(page)))


def titles(labels: Sequence[str]) -> dict[str, str]:
    """Key -> title of the figures of a classifier with these classes."""
    return {
        name: capital(title_of(name, labels)) for name in FIGURES if name not in ("calibrated_log_loss", "perplexity")
    }


def view(run: RunFacts, name: str) -> dict[str, Any]:
    """The template's variables of one run, charts excepted."""
    curves, labels, manifest = curves_of(run), run.labels, run.manifest
    splits = {} if manifest is None else split_facts(manifest)
    config = public_values(manifest.provenance.get("config")) if manifest is not None else None
    shown: dict[str, Any] = {"split": None, "figures": None}
    if run.measured is not None:
        figures = run.measured.figures
        mistakes, no_texts = mistakes_of(figures["mistakes"], manifest, str(run.config["data"]))
        recalls = {entry["name"]: entry["accuracy_interval"] for entry in figures["slices"] if entry["by"] == "label"}
        shown = {
            "split": run.measured.split,
            "figures": figures,
            "mistakes": mistakes,
            "no_texts": no_texts,
            "classes": worst_first(figures["per_class"]),
            "recalls": recalls,
            "matrix": confusion_from_json(figures, len(labels)).toarray() if len(labels) <= MATRIX_CLASSES else [],
            "confusions": confusions(figures),
            "slices": [entry for entry in figures["slices"] if entry["by"] != "label"],
            "coloured": {label: slot for slot, label in enumerate(curves)} if len(labels) > 2 else {},
        }
    return {
        "name": name,
        "facts": run,
        "labels": labels,
        "curves": curves,
        "pretrained": run.config.get("task") == LANGUAGE_MODEL,
        "metrics": titles(labels),
        "settings": flat(run.config),
        "state": run.status.get("state", "unknown"),
        "step": run.status.get("step") or run.train[-1]["step"] if run.train else 0,
        "splits": splits,
        "dataset_config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None,
        **shown,
    }


def confusions(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions of a true and a predicted class, the largest first."""
    labels = figures["labels"]
    confusion = confusion_from_json(figures, len(labels))
    support = confusion.sum(axis=1).tolist()
    return [
        {"label": labels[true], "predicted": labels[said], "rows": rows, "share": rows / support[true]}
        for true, said, rows in largest_confusions(confusion, LISTED_CONFUSIONS)
    ]


FILTERS: dict[str, Callable[..., Any]] = {
    "figure": lambda value, digits=4: "–" if value is None else f"{value:.{digits}f}",
    "public": public,
    "quoted": lambda place: shlex.quote(str(place)),
    "share": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
    "count": lambda value: f"{value:,}",
    "mebibytes": lambda value: f"{value / 2**20:,.0f} MiB",
    "moment": lambda seconds: datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
    "duration": duration,
}
"""Name in the template -> function that formats a value."""


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
    the validation loss is the one of ``select``, if that is a loss.
    """

    def over_steps(title: str, figure: str, y_label: str, where: str, **how: Any) -> Chart | None:
        curves = [(name, averaged(getattr(run, where), figure)) for name, run in zip(names, runs, strict=True)]
        return draw(title, curves, "step", y_label, **how)

    if len(runs) == 1:
        (run,) = runs
        figure = "log_loss" if run.selected == "accuracy" else run.selected
        name = "validation, calibrated" if figure == "calibrated_log_loss" else "validation"
        both = [("training", averaged(run.train, "loss")), (name, averaged(run.validation, figure))]
        losses = [draw("Loss", both, "step", "log loss", low=0)]
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


def quality_charts(views: Sequence[Mapping[str, Any]], split: str) -> list[Chart]:
    """ROC, precision-recall and calibration on one split; runs overlaid, or the classes of one run."""
    of_classes, bins = [], []
    for each in views:
        name, run, pairs = each["name"], each["facts"], each["curves"]
        figures = each["figures"] if each["split"] == split else None
        after, before = (bins_of(figures, when) for when in ("after", "before"))
        if len(views) == 1:
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
