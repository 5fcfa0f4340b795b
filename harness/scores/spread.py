# SPDX-License-Identifier: Apache-2.0
"""How far figures of several runs lie apart: mean, standard deviation, and Student's interval of the mean.

The interval is about runs: where the mean of ever more seeds, or folds, would lie. It says nothing about other rows,
which the interval of each run is about. Runs of different folds share most of their training rows, so they are not
independent, and their interval is somewhat too narrow (Bengio and Grandvalet, 2004, No Unbiased Estimator of the
Variance of K-Fold Cross-Validation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.scores.on_screen import METRICS
from preprocessing.base.screen import Column, table

LEVEL = 0.95
METHOD = "Student's t over the runs"
FIGURES = {**METRICS, "perplexity": "perplexity"}
"""Key and title of each figure whose spread is told, in the order of tables; a run has those of its task."""
WEIGHTS = {"ece": 5, "pr_auc": 4, "balanced_accuracy": 3, "roc_auc": 2, "interval": 1}
"""Columns that give way in a narrow terminal, those of the largest weight first."""


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """``mean``, ``sd`` (with n - 1), and ``low`` and ``high`` of the mean's interval; None where one run cannot say."""
    from scipy.special import stdtrit

    number, array = len(values), np.asarray(values, np.float64)
    mean = float(array.mean())
    if number < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None}
    sd = float(array.std(ddof=1))
    half = float(stdtrit(number - 1, (1 + LEVEL) / 2)) * sd / number**0.5
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


def spreads(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """The spread of each figure that all ``runs`` have on one split."""
    names = [name for name in FIGURES if runs and all(run.get(name) is not None for run in runs)]
    return {name: spread([run[name] for run in runs]) for name in names}


def spread_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """A line for each run, then the mean, the standard deviation and the interval of the mean; a column a figure."""
    found = spreads(runs)
    columns = [Column(key="run", title="", right=False)]
    for name in found:
        columns.append(Column(key=name, title=FIGURES[name], weight=WEIGHTS.get(name, 0)))
        if name == "accuracy":
            columns.append(Column(key="interval", title="95 % (rows)", right=False, weight=WEIGHTS["interval"]))
    lines = []
    for run, values in zip(names, runs, strict=True):
        bounds = values.get("intervals", {}).get("accuracy")
        interval = "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
        lines.append({"run": run, "interval": interval, **{name: f"{values[name]:.4f}" for name in found}})
    for title, key in (("mean", "mean"), ("sd", "sd"), ("95 % from", "low"), ("95 % to", "high")):
        shown = {name: f"{each[key]:.4f}" for name, each in found.items() if each[key] is not None}
        lines += [{"run": title, **shown}] if shown else []
    return table(columns, lines, width)


def in_words(title: str, values: Mapping[str, float | None]) -> str:
    """``accuracy 0.8712 ± 0.0011 (95 % of the mean: 0.8690 to 0.8734)``."""
    if values["sd"] is None:
        return f"{title} {values['mean']:.4f}"
    return (
        f"{title} {values['mean']:.4f} ± {values['sd']:.4f} (95 % of the mean: {values['low']:.4f} to "
        f"{values['high']:.4f})"
    )
