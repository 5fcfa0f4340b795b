# SPDX-License-Identifier: Apache-2.0
"""``padless report RUN [RUN …]``: makes one HTML file of run directories, without network access or scripts.

Every run ends with a report; a failure to write it does not fail the run. matplotlib draws each chart as an SVG image,
which the page embeds. A run has the same colour and position in every legend; so has a class in the report of one run.
"""

from __future__ import annotations

import base64
import io
import math
import re
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
    differences,
    differing,
    ranked,
    ranking_figure,
    together,
    unique_names,
)
from harness.rundir.bundle_files import split_facts
from harness.rundir.json_files import Line
from harness.rundir.layout import REPORT, members
from harness.rundir.results import Measured, probability_column, read_predictions
from harness.scores.figures import FIGURES, title_of
from harness.scores.intervals import wilson
from harness.scores.metrics import LISTED_CONFUSIONS, largest_confusions, worst_first
from harness.scores.tables import LOG_LOSS, majority, never_found
from preprocessing.base import atomic
from preprocessing.base.errors import DataError, require
from preprocessing.base.installed import VERSION
from preprocessing.base.schema import LocalPath
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.base.terminal import counted, duration, printable, public, public_values, shortened, tell
from preprocessing.config import Names
from preprocessing.labels import as_found

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "report.html.j2", "report.css"
GENERATOR = "padless report"
"""``generator`` of a report."""
MATRIX_CLASSES = 20
"""Maximum number of classes for a whole confusion matrix; beyond it only the largest cells are shown."""
THRESHOLDS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Probabilities from which class 1 of two classes is predicted, in the table of its precision and recall."""
BIN_ROWS = 10
"""Minimum number of rows of a bin in the chart of the calibration."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one HTML report about one run, or comparing several.

    For a folder of train --seeds or --folds, the report shows the spread of its runs.
    """

    SUBJECT = ("run",)
    run: Names
    """Run directories, or folders of train --seeds or --folds."""
    output: LocalPath | None = None
    """File to write; RUN/report.html for one run, or one folder of runs, report.html in the current directory for
    several."""
    overwrite: bool = False
    """Replace an existing file that is not a report."""
    open: bool = False
    """Show it in the browser."""

    def __post_init__(self) -> None:
        """Check the ending of the output."""
        require(Path(self.output or REPORT).suffix in (".html", ".htm", ""), "output", self.output, "the ending .html")


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
    environment.globals["bin_rows"] = BIN_ROWS
    runs = ranked(runs) if spread is None else runs
    names, is_one = unique_names(runs), len({run.fingerprint or run.directory for run in runs}) == 1
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
        "pairs": differences(runs, names) if is_one and spread is None else [],
        "apart": not is_one,
        "numbers": range(1, len(runs) + 1) if spread is None else [one.number for one in spread["runs"]],
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
    labels, manifest = run.labels, run.manifest
    splits = {} if manifest is None else split_facts(manifest)
    config = public_values(manifest.provenance.get("config")) if manifest is not None else None
    shown: dict[str, Any] = {"split": None, "figures": None, "chances": None}
    if run.measured is not None:
        figures = run.measured.figures
        chances = read_chances(run.measured, labels)
        mistakes, no_texts = mistakes_of(figures["mistakes"], manifest, str(run.config["data"]))
        shown = {
            "split": run.measured.split,
            "figures": figures,
            "warnings": list(filter(None, (majority(figures), never_found(figures["per_class"])))),
            "mistakes": group_mistakes(mistakes, figures),
            "no_texts": no_texts,
            "classes": worst_first(figures["per_class"]),
            "matrix": matrix_of(figures),
            "confusions": confusions(figures)[:LISTED_CONFUSIONS],
            "chances": chances,
            "thresholds": threshold_table(chances, figures["threshold"]) if chances is not None else [],
        }
    return {
        "name": name,
        "facts": run,
        "labels": labels,
        "pretrained": run.config.get("task") == LANGUAGE_MODEL,
        "metrics": titles(labels),
        "log_loss": LOG_LOSS,
        "settings": flat(run.config),
        "state": run.status.get("state", "unknown"),
        "step": run.status.get("step") or (run.train[-1]["step"] if run.train else 0),
        "splits": splits,
        "dataset_config": yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else None,
        **shown,
    }


def group_mistakes(mistakes: Sequence[dict[str, Any]], figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusions of which there are mistakes to show, each with its ``mistakes``, the largest first."""
    by_confusion: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for mistake in mistakes:
        by_confusion.setdefault((mistake["label"], mistake["predicted"]), []).append(mistake)
    groups = confusions(figures)
    for group in groups:
        group["mistakes"] = by_confusion.get((group["label"], group["predicted"]), [])
    return [group for group in groups if group["mistakes"]]


def confusions(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The confusions of a true and a predicted class, the largest first."""
    labels, entries = figures["labels"], figures["per_class"]
    return [
        {"label": labels[true], "predicted": labels[said], "rows": rows, "share": rows / entries[true]["rows"]}
        for true, said, rows in largest_confusions(figures["confusion"], len(figures["confusion"]))
    ]


def matrix_of(figures: Mapping[str, Any]) -> np.ndarray:
    """Rows of each true class by predicted class, int64 ``[classes, classes]``; empty for too many classes."""
    number = len(figures["labels"])
    if number > MATRIX_CLASSES:
        return np.empty((0, 0))
    matrix, (true, said, rows) = np.zeros((number, number), np.int64), np.array(figures["confusion"]).T
    matrix[true, said] = rows
    return matrix


FILTERS: dict[str, Callable[..., Any]] = {
    "figure": lambda value, digits=4: "–" if value is None else f"{value:.{digits}f}",
    "public": public,
    "parts_of_name": re.compile(r"(?<=[_/.:])").split,
    "quoted": lambda place: shlex.quote(str(place)),
    "share": lambda value, digits=1: "–" if value is None else f"{value:.{digits}%}",
    "count": lambda value: f"{value:,}",
    "mebibytes": lambda value: f"{value / 2**20:,.0f} MiB",
    "moment": lambda seconds: datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
    "duration": duration,
    "around_recall": lambda entry: wilson(entry["recall"] * entry["rows"], entry["rows"]),
}
"""Name in the template -> function that formats a value."""


SIZE = (4.4, 3.0)
"""Inches: small, so that the text is readable on a phone, where a chart fills the width."""
SLOTS = 8
"""Number of colours; further lines reuse them, dashed, and are not in the legend."""
FEW_POINTS = 20
"""A line with at most this many points has markers."""
CURVE_POINTS = 300
LONGEST = 28
"""Maximum characters of a name in a legend."""
Chart: TypeAlias = tuple[str, str]
"""Title, and data URL of the image."""
Curve: TypeAlias = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]
"""x and y."""
OVER_STEPS = (
    ("Training loss", "train", "loss", "log loss"),
    ("Validation loss", VALIDATION, "log_loss", "log loss"),
    ("Validation perplexity", VALIDATION, "perplexity", "perplexity"),
    ("Validation accuracy", VALIDATION, "accuracy", "accuracy"),
    ("Learning rate", "train", "lr", "learning rate"),
    ("Gradient norm", "train", "grad_norm", "norm before clipping"),
    ("Throughput", "speed", "tokens_per_s", "tokens/s"),
)
"""Title, attribute of ``RunFacts`` with the lines, figure, and label of the y axis."""


def draw(
    title: str,
    curves: Iterable[tuple[str, Curve]],
    x_label: str,
    y_label: str,
    *,
    low: float | None = 0,
    diagonal: bool = False,
) -> list[Chart]:
    """Draw named curves, each in the colour of its position, with the line x = y if ``diagonal``; nothing if all are
    empty. ``low`` is the minimum of the y axis.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [(place, name, *curve) for place, (name, curve) in enumerate(curves) if len(curve[0])]
    if not shown:
        return []
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
        if len(shown) > 1:
            figure.legend(loc="outside lower center", ncols=2, frameon=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about characters missing in matplotlib's font: the browser has them
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return [(title, f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}")]


def averaged(lines: Sequence[Line], name: str) -> Curve:
    """Steps and values of a figure over a run; for many lines, means of neighbouring ones."""
    known = [(line["step"], line[name]) for line in lines if line.get(name) is not None and math.isfinite(line[name])]
    groups = np.array_split(np.array(known, float).reshape(-1, 2), min(len(known), CURVE_POINTS) or 1)
    return [group[-1, 0] for group in groups if len(group)], [group[:, 1].mean() for group in groups if len(group)]


def learning_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """The charts of ``OVER_STEPS``; runs overlaid. For a single run, both losses are in one; the validation loss is the
    one of ``select``, if that is a loss.
    """
    charts, table = list[Chart](), list(OVER_STEPS)
    if len(runs) == 1:
        (run,), table = runs, table[2:]
        figure = "log_loss" if run.selected == "accuracy" else run.selected
        name = "validation, calibrated" if figure == "calibrated_log_loss" else VALIDATION
        both = [("training", averaged(run.train, "loss")), (name, averaged(run.validation, figure))]
        charts += draw("Loss", both, "step", "log loss")
    for title, lines, figure, y_label in table:
        curves = [(name, averaged(getattr(run, lines), figure)) for name, run in zip(names, runs, strict=True)]
        charts += draw(title, curves, "step", y_label, low=None if lines == VALIDATION else 0)
    return charts


def quality_charts(views: Sequence[Mapping[str, Any]], split: str) -> list[Chart]:
    """Calibration on one split, runs overlaid; for a single run also before calibration, and ROC and precision-recall
    curves if it has two classes.
    """
    bins = [
        (each["name"], bins_of(each["figures"]["calibration"]["after"] if each["split"] == split else []))
        for each in views
    ]
    charts, first = list[Chart](), views[0]
    if len(views) == 1 and first["figures"]:
        before = bins_of(first["figures"]["calibration"]["before"])
        bins = [("after temperature scaling", bins[0][1]), ("before temperature scaling", before)]
        charts = ranking_charts(first["chances"], first["labels"])
    return charts + draw("Calibration", bins, "confidence", "accuracy", diagonal=True)


Chances: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Whether each row is of class 1, and its probability: bool and float64 ``[rows]``, of both classes."""


def read_chances(measured: Measured, labels: Sequence[str]) -> Chances | None:
    """The predictions of two classes; None for other numbers, without predictions, or without rows of both."""
    if len(labels) != 2:
        return None
    column = probability_column(labels[1])
    try:
        table = read_predictions(measured.directory, measured.split, ["label", column])
    except DataError:
        return None
    positive = np.array([str(as_found(label)) == labels[1] for label in table["label"].to_pylist()])
    return (positive, table[column].to_numpy()) if len(set(positive.tolist())) == 2 else None


def threshold_table(chances: Chances, chosen: float) -> list[dict[str, Any]]:
    """Precision, recall and accuracy if class 1 is predicted from each of ``THRESHOLDS`` and from ``chosen`` on."""
    (positive, probabilities), table = chances, []
    for threshold in sorted({*THRESHOLDS, chosen}):
        predicted = probabilities >= threshold
        hits, rows = int((predicted & positive).sum()), int(predicted.sum())
        shares = {"precision": hits / rows if rows else None, "recall": hits / int(positive.sum())}
        accuracy = float((predicted == positive).mean())
        table.append({"threshold": threshold, "predicted": rows, **shares, "accuracy": accuracy})
    return table


def ranking_charts(chances: Chances | None, labels: Sequence[str]) -> list[Chart]:
    """The ROC and the precision-recall curve of two classes, if there are ``chances``."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    if chances is None:
        return []
    wrong, found, _ = roc_curve(*chances)
    precision, recall, _ = precision_recall_curve(*chances)
    return [
        *draw("ROC", [(labels[1], (wrong, found))], "false positive rate", "true positive rate", diagonal=True),
        *draw("Precision and recall", [(labels[1], (recall, precision))], "recall", "precision"),
    ]


def bins_of(bins: Sequence[Mapping[str, float]]) -> Curve:
    """Confidence and accuracy of each bin of a reliability diagram that has ``BIN_ROWS`` rows."""
    shown = [entry for entry in bins if entry["rows"] >= BIN_ROWS]
    return [entry["confidence"] for entry in shown], [entry["accuracy"] for entry in shown]
