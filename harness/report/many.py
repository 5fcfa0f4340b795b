# SPDX-License-Identifier: Apache-2.0
"""Figures of many runs: those of each, their mean and spread, and for folds those over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.baseline.results import find_results
from harness.report.plots import capital
from harness.rundir.bundle_files import read_info
from harness.rundir.layout import BUNDLE, EVALUATION, OUT_OF_FOLD, Member, listed, storage
from harness.rundir.metrics_log import read_log
from harness.rundir.records import known_status, read_config
from harness.rundir.results import probability_column, read_figures, read_predictions, read_summary
from harness.scores.figures import FIGURES
from harness.scores.intervals import LEVEL, METHOD_OVER_RUNS, intervals, spread, spreads
from harness.scores.metrics import classification_metrics, confusion_from_json, per_class
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.dataset.views import read_data
from preprocessing.labels import as_found

SPLITS = (VALIDATION, TEST)
SMALLEST = np.finfo(np.float64).tiny


def collect(runs: Sequence[Member]) -> dict[str, Any]:
    """The content of ``seeds.json`` or ``folds.json`` without out-of-fold figures. Raises ``DataError``.

    It has no times and paths, so an interrupted and an uninterrupted command write the same bytes.
    """
    of_runs: list[dict[str, Any]] = [{"run": one.name, one.kind: one.number, "splits": figures_of(one)} for one in runs]
    splits = [split for split in SPLITS if all(split in one["splits"] for one in of_runs)]
    first, *others = (read_info(one.path / BUNDLE) for one in runs)
    if any(other.dataset != first.dataset for other in others):
        raise DataError(f"{runs[0].path.parent}: its runs were trained on different datasets, so there is no spread")
    return {
        "dataset": first.dataset,
        "labels": first.labels,
        "runs": of_runs,
        "interval": {"level": LEVEL, "method": METHOD_OVER_RUNS},
        "splits": {split: spreads([one["splits"][split] for one in of_runs], FIGURES) for split in splits},
    }


def figures_of(run: Member) -> dict[str, dict[str, Any]]:
    """Rows, figures and their intervals over rows for a run's best weights, by split.

    For folds, and without a test split, validation is measured after calibration, if the run has such figures; else it
    is the line of the best epoch, before calibration and without intervals.
    """
    test = read_figures(run.path, TEST)
    validation = read_figures(run.path / EVALUATION, VALIDATION) if run.kind == "fold" or test is None else None
    if validation is None or validation.get("step") != read_info(run.path / BUNDLE).step:
        best = [line for line in read_log(run.path) if line["kind"] == VALIDATION and line.get("best")]
        validation = best[-1] if best else None
    return {split: chosen(values) for split, values in ((VALIDATION, validation), (TEST, test)) if values is not None}


def chosen(values: dict[str, Any]) -> dict[str, Any]:
    """The figures, their intervals, and the number of rows."""
    return {name: values[name] for name in ("rows", *FIGURES, "intervals") if name in values}


def over_all_rows(folder: Path, runs: Sequence[Member], labels: Sequence[str]) -> dict[str, Any]:
    """The figures over all rows of all folds, each once; writes the predictions to ``folder``.

    Raises ``DataError`` if the folds are not exactly those of the dataset.
    """
    manifest = read_data(read_config(runs[0].path)["data"])
    rows = sum(manifest.rows(name) for name in (TRAIN, VALIDATION) if manifest.splits.get(name))
    table = gather(folder, runs, labels, rows)
    path = folder / OUT_OF_FOLD
    with storage(path), atomic.replacing(path) as temporary:
        pq.write_table(table, temporary)
    return figures_over_folds(table, labels)


def together(folder: Path, began: Sequence[Member]) -> dict[str, Any]:
    """The facts of a page about the finished runs of ``folder``, and the names of the unfinished ones in ``began``.

    Raises ``DataError`` if none of them has.
    """
    done = [one for one in began if known_status(one.path).get("state") == "finished"]
    if not done:
        raise DataError(
            f"{folder}: none of its runs has finished yet ({listed(began)}); wait for the first, or name one of them"
        )
    kind, values = done[0].kind, collect(done)
    stored = read_summary(folder, kind)
    if stored is not None and stored["runs"] == values["runs"]:
        values = stored
    return {
        "kind": kind,
        "runs": done,
        "open": [one.name for one in began if one not in done],
        "values": values,
        "shown": list(values["splits"])[0 if kind == "fold" else -1 :],
        "titles": {name: capital(one.title) for name, one in FIGURES.items()},
    }


def linear_on_folds(runs: Sequence[Member], values: dict[str, Any]) -> dict[str, Any] | None:
    """The linear model on the folds of ``collect``'s ``values``: its figures on each, their spread, and how often the
    runs are better; None if it was not measured on all folds.
    """
    data = read_config(runs[0].path)["data"]
    names = [one.name for one in runs]
    found = list(map(chosen, find_results(runs[0].path, data, values["dataset"], names)[1].values()))
    if len(found) != len(runs) or VALIDATION not in values["splits"]:
        return None
    mine = [one["splits"][VALIDATION]["accuracy"] for one in values["runs"]]
    differences = [own - other["accuracy"] for own, other in zip(mine, found, strict=True)]
    ahead = sum(difference > 0 for difference in differences)
    return {"folds": found, "spread": spreads(found, FIGURES), "difference": spread(differences), "ahead": ahead}


def gather(folder: Path, runs: Sequence[Member], labels: Sequence[str], rows: int) -> pa.Table:
    """The predictions of all folds, in the order of the source, with each row's fold.

    ``rows`` is the number of rows in the folds. Raises ``DataError`` unless each is predicted exactly once.
    """
    columns = ["label", "predicted", *map(probability_column, labels)]
    tables = []
    for run in runs:
        again = f"remove {run.path}, and the same launch trains it again"
        table = read_predictions(run.path / EVALUATION, VALIDATION, columns, again)
        tables.append(table.add_column(1, "fold", pa.array(np.full(len(table), run.number, np.int32))))
    whole = pa.concat_tables(tables).sort_by("row").combine_chunks()
    if (different := len(np.unique(whole["row"]))) != rows or len(whole) != rows:
        raise DataError(
            f"{folder}: its folds predict {different:,} different rows by {len(whole):,} predictions, the dataset has "
            f"{rows:,} in folds: a run there is of another dataset; remove it, and launch again"
        )
    return whole


def figures_over_folds(table: pa.Table, names: Sequence[str]) -> dict[str, Any]:
    """Metrics over all rows of ``gather``, each once, with intervals, and each class; ``names`` are the classes.

    Temperature, threshold and best epoch of a run were chosen on the fold that it held out, so the figures are those of
    a validation, not of a test.
    """
    places = {name: number for number, name in enumerate(names)}
    labels, predicted = (
        np.array([places[str(as_found(value))] for value in table[column].to_pylist()], np.int64)
        for column in ("label", "predicted")
    )
    chances = np.stack([table[probability_column(name)].to_numpy() for name in names], axis=1)
    logits = np.log(np.maximum(chances, SMALLEST))
    logits = logits[:, 1] - logits[:, 0] if len(names) == 2 else logits
    values = classification_metrics(logits, labels, predicted)
    by_class = per_class(confusion_from_json(values, len(names)), names)
    return {**values, "intervals": intervals(logits, labels, values, predicted), "per_class": by_class}
