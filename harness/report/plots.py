# SPDX-License-Identifier: Apache-2.0
"""Which charts a page has. A run has the same colour and the same place in every legend; so has a class of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from harness.data.checks import TEST, VALIDATION
from harness.report.charts import Chart, Series, draw
from harness.report.classes import metric_names
from harness.report.curves import averaged
from harness.report.facts import Measured, RunFacts
from harness.report.ranking import selected
from harness.scores.figures import CHOSEN_BY


def over_steps(
    title: str, figure: str, y_label: str, runs: Sequence[RunFacts], names: Sequence[str], where: str, **how: Any
) -> Chart | None:
    """A figure over the steps, runs overlaid; ``where`` is ``train``, ``speed`` or ``validation``."""
    series = [
        Series(name, *averaged(getattr(run, where), figure), slot, ring=ring(run, figure, where))
        for slot, (run, name) in pairs(runs, names)
    ]
    return draw(title, series, "step", y_label, x_range=steps_of(runs), **how)


def ring(run: RunFacts, figure: str, where: str) -> tuple[float, float] | None:
    """The point of the epoch whose weights were kept, on the figure that chose it."""
    best = run.best_validation
    if where != VALIDATION or best is None or CHOSEN_BY.get(selected(run)) != figure:
        return None
    value = best.get(figure)
    return (best["step"], value) if isinstance(value, float) and math.isfinite(value) else None


def steps_of(runs: Sequence[RunFacts]) -> tuple[float, float]:
    """From 0 to just past the last step of any run: all charts over steps have the same axis."""
    return 0.0, 1.02 * max((line["step"] for run in runs for line in [*run.train, *run.validation]), default=1)


def learning_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Loss, validation, learning rate and gradient norm over the steps; runs overlaid."""
    f1 = metric_names(max(len(run.labels) for run in runs))["f1"]
    if len(runs) == 1:
        both = [
            Series("training", *averaged(runs[0].train, "loss"), 0),
            Series(
                "validation", *averaged(runs[0].validation, "log_loss"), 1, ring=ring(runs[0], "log_loss", VALIDATION)
            ),
        ]
        charts = [draw("Loss", both, "step", "log loss", x_range=steps_of(runs), y_range=(0, None))]
    else:
        charts = [
            over_steps("Training loss", "loss", "log loss", runs, names, "train", y_range=(0, None)),
            over_steps("Validation loss", "log_loss", "log loss", runs, names, "validation"),
        ]
    charts += [
        over_steps("Validation perplexity", "perplexity", "perplexity", runs, names, "validation"),
        over_steps("Validation loss, calibrated", "calibrated_log_loss", "log loss", runs, names, "validation"),
        over_steps("Validation accuracy", "accuracy", "accuracy", runs, names, "validation", percent=True),
        over_steps(f"Validation {f1}", "f1", f1, runs, names, "validation"),
        over_steps("Learning rate", "lr", "learning rate", runs, names, "train", y_range=(0, None)),
        over_steps("Gradient norm", "grad_norm", "norm before clipping", runs, names, "train", steep=True),
    ]
    return [chart for chart in charts if chart is not None]


def speed_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """Tokens per second, waiting and padding over the steps; runs overlaid."""
    low: dict[str, Any] = {"percent": True, "y_range": (0, None)}
    charts = [
        over_steps("Throughput", "tokens_per_s", "tokens/s", runs, names, "speed", y_range=(0, None)),
        over_steps("Data wait", "data_wait", "share of time", runs, names, "speed", **low),
        over_steps("Padding", "padding", "share of what is computed", runs, names, "train", **low),
    ]
    return [chart for chart in charts if chart is not None]


def shown_split(runs: Sequence[RunFacts]) -> str:
    """The split whose figures are drawn: test if any run has it, else validation."""
    found = {run.measured.split for run in runs if run.measured is not None}
    return TEST if TEST in found or not found else VALIDATION


def quality_charts(runs: Sequence[RunFacts], names: Sequence[str]) -> list[Chart]:
    """ROC, precision-recall and calibration on one split; runs overlaid, or the classes of one run."""
    split, alone = shown_split(runs), len(runs) == 1
    roc, pr, reliability = [], [], []
    for slot, (run, name) in pairs(runs, names):
        if run.measured is None or run.measured.split != split:
            continue
        two_labels = len(run.measured.figures["labels"]) == 2
        for number, (label, curve) in enumerate(run.curves.items()):
            if alone or two_labels:  # the classes of several runs would be one tangle of lines
                of, place = (label, number) if alone else (name, slot)
                roc.append(Series(of, *curve["roc"], place))
                pr.append(Series(of, *curve["pr"], place))
        reliability += reliability_of(run.measured, name, slot, alone=alone)
    lowest = min((min(item.x) for item in reliability), default=0.0)
    whole, edge = (0.0, 1.0), (0.0, 1.02)
    wrong, right = "false positive rate", "true positive rate"
    charts = [
        draw("ROC", roc, wrong, right, percent=True, diagonal=whole, y_range=edge, dots=False),
        draw("Precision and recall", pr, "recall", "precision", percent=True, y_range=edge, dots=False),
        draw("Calibration", reliability, "confidence", "accuracy", percent=True, diagonal=(lowest, 1.0)),
    ]
    return [chart for chart in charts if chart is not None]


def reliability_of(measured: Measured, name: str, slot: int, *, alone: bool) -> list[Series]:
    """The reliability diagram of a run: after temperature scaling, and before it where the run is alone."""
    calibration = measured.figures["calibration"]
    if not alone:
        return [Series(name, *bins_of(calibration["after"]), slot)]
    return [
        Series("after temperature scaling", *bins_of(calibration["after"]), 0),
        Series("before temperature scaling", *bins_of(calibration["before"]), 1, "dashed"),
    ]


def bins_of(bins: list[dict[str, float]]) -> tuple[list[float], list[float]]:
    """Confidence and accuracy of each bin of a reliability diagram."""
    return [entry["confidence"] for entry in bins], [entry["accuracy"] for entry in bins]


def pairs(runs: Sequence[RunFacts], names: Sequence[str]) -> Iterable[tuple[int, tuple[RunFacts, str]]]:
    """``(slot, (run, name))`` for every run."""
    return enumerate(zip(runs, names, strict=True))
