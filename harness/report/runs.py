# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the files of each run directory of a report, and ranks several runs; figures of the runs of one
command: those of each, their mean and spread, and for folds those over all rows.

Runs are ranked by validation: choosing a run by the test split would make it a validation split.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.baseline.results import Comparison, compare, find_results
from harness.config import LANGUAGE_MODEL, flat
from harness.data.views import held_out
from harness.rundir.bundle_files import read_info, stored_info
from harness.rundir.json_files import Line
from harness.rundir.layout import BUNDLE, EVALUATION, METRICS, OUT_OF_FOLD, THROUGHPUT, Member, listed, storage
from harness.rundir.metrics_log import read_log
from harness.rundir.records import read_attempts, read_config, read_environment, read_status
from harness.rundir.results import (
    probability_column,
    read_figures,
    read_measured,
    read_predictions,
    read_summary,
)
from harness.scores.figures import CHOSEN_BY, FIGURES, spreads
from harness.scores.intervals import LEVEL, METHOD_OVER_RUNS, intervals, spread
from harness.scores.metrics import classification_metrics, per_class
from harness.scores.tables import still_improving
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.base.terminal import public_values
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import read_data
from preprocessing.labels import typed_values

WEIGHED = ("tokens_per_s", "data_wait")
"""Figures of log lines that are averaged with their durations as weights."""
UNSET = "unset"
"""Shown for a setting that a run does not have."""


class RunFacts:
    """A run directory in memory. Missing files are empty or None."""

    def __init__(self, directory: str | Path) -> None:
        """Read it. Raises ``DataError`` if it is not a run, has no metrics, or is damaged."""
        self.directory = Path(directory)
        self.config = read_config(directory)
        lines = read_log(directory)
        if not lines:
            raise DataError(
                f"{self.directory / METRICS}: holds no metrics: this run has logged nothing yet; wait for its first "
                "log line, or name another run"
            )
        self.train = [line for line in lines if line["kind"] == "train"]
        self.validation = [line for line in lines if line["kind"] == VALIDATION]
        self.speed = [line for line in read_log(directory, THROUGHPUT) if line["kind"] == "train"]
        self.attempts = read_attempts(directory)
        self.environment = public_values(read_environment(directory))
        self.status = public_values(read_status(directory))
        self.measured = read_measured(self.directory)
        """Figures on the test split, else on validation, if any."""
        info = stored_info(self.directory / BUNDLE)
        self.fingerprint = info.dataset if info is not None else None
        """Fingerprint of the dataset of the training."""
        self.manifest, self.manifest_note = dataset_of(self.config, self.fingerprint)
        """Manifest of that dataset; or why there is none: the directory is missing or holds another dataset."""
        if self.fingerprint is None and self.manifest is not None:
            self.fingerprint = self.manifest.fingerprint
        self.linear: dict[str, dict[str, Any]] = {}
        """Figures of the linear model on the same dataset, by split, from ``DATA/baseline``."""
        self.beside: Comparison | None = None
        """The comparison of the run with the linear model, if possible."""
        self.linear_note: str | None = None
        """Why there is no comparison, although the linear model was measured."""
        try:
            self.linear, self.beside = beside_linear(self.directory, self.config["data"])
        except DataError as error:
            self.linear_note = str(error)

    @property
    def labels(self) -> list[str]:
        """The names of the classes; empty if unknown."""
        if self.measured is not None:
            return list(self.measured.figures["labels"])
        return list(self.manifest.labels) if self.manifest is not None else []

    @property
    def selected(self) -> str:
        """The figure that chose the best weights; always the loss for a pretraining."""
        select = "loss" if self.config.get("task") == LANGUAGE_MODEL else str(self.config.get("select"))
        return CHOSEN_BY.get(select, "accuracy")

    @property
    def best_validation(self) -> Line | None:
        """The line of the best validation."""
        return next((line for line in reversed(self.validation) if line.get("best")), None)

    @property
    def advice(self) -> str | None:
        """Whether more epochs are worth their time; None for a run that has not finished."""
        finished = self.status.get("state") == "finished"
        return still_improving(self.validation, self.selected, self.config["epochs"]) if finished else None

    @cached_property
    def speed_summary(self) -> dict[str, float]:
        """Training time in seconds, and figures of the log lines averaged over it; empty without lines. Raises
        ``DataError`` for a line without one of them.
        """
        rows = {line["step"]: line["rows"] for line in self.train if line.get("rows")}
        try:
            lines = [line for line in self.speed if line["step"] in rows and line["rows_per_s"]]
            if not lines:
                return {}
            seconds = [rows[line["step"]] / line["rows_per_s"] for line in lines]
            means = {name: float(np.average([line[name] for line in lines], weights=seconds)) for name in WEIGHED}
            padding = float(np.mean([line["padding"] for line in self.train]))
            memory = float(max(line["memory_bytes"] for line in lines))
        except (KeyError, TypeError) as error:
            what = f"a line has no number for {error}; remove it, or restore the file"
            raise DataError(f"{self.directory}: {METRICS} or {THROUGHPUT}: {what}") from None
        return {"seconds": float(sum(seconds)), **means, "padding": padding, "memory_bytes": memory}


def beside_linear(run: Path, data: str | Path) -> tuple[dict[str, dict[str, Any]], Comparison | None]:
    """The linear model's figures on the dataset of a run, by split, and the comparison of the run with it.

    Validation is left out if the run held out a fold instead. Raises ``DataError`` for damaged figures.
    """
    info = stored_info(run / BUNDLE)
    folder, linear = find_results(run, data, info.dataset if info is not None else None)
    if info is not None and info.fold is not None:
        linear.pop(VALIDATION, None)
    return linear, compare(read_measured(run), folder, linear)


def dataset_of(config: dict[str, Any], fingerprint: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest of the run's dataset, or why it is missing."""
    place = config["data"]
    try:
        manifest = read_data(place)
        if fingerprint not in (None, manifest.fingerprint):
            raise DataError(f"{place} now holds another dataset (fingerprint {manifest.fingerprint[:12]})")
        return held_out(manifest, config.get("fold"), place), None
    except DataError as error:
        return None, str(error)


def ranking_figure(runs: Sequence[RunFacts]) -> str:
    """The figure to rank runs by: the common figure of ``select``, else the accuracy."""
    chosen = {run.selected for run in runs}
    return chosen.pop() if len(chosen) == 1 else "accuracy"


def ranked(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Runs, the best validation first; those without one come last. Ties keep their order."""
    name = ranking_figure(runs)

    def place(run: RunFacts) -> float:
        value = (run.best_validation or {}).get(name)
        if value is None or not math.isfinite(value):
            return math.inf
        return value if FIGURES[name].lower_is_better else -value

    return sorted(runs, key=place)


def differences(runs: Sequence[RunFacts], names: Sequence[str]) -> list[tuple[str, Comparison]]:
    """The name of each run that can be compared with the first, over the same rows; its accuracy takes the place of the
    linear model's.
    """
    best, found = runs[0].measured, list[tuple[str, Comparison]]()
    for run, name in zip(runs[1:], names[1:], strict=True):
        with suppress(DataError):  # other rows, or no predictions
            if best and (pair := compare(run.measured, best.directory, {best.split: best.figures})):
                found.append((name, pair))
    return found


def differing(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """Settings that differ between runs, with the value of each run; the run directory is left out."""
    every = [flat(run.config) for run in runs]
    table = {key: [config.get(key, UNSET) for config in every] for config in every for key in config if key != "run"}
    return {key: values for key, values in table.items() if any(value != values[0] for value in values)}


def unique_names(runs: Sequence[RunFacts]) -> list[str]:
    """The directories below the common parent of all runs."""
    paths = [run.directory.resolve() for run in runs]
    above = os.path.commonpath([path.parent for path in paths])
    return [str(path.relative_to(above)) for path in paths]


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
        "splits": {split: spreads([one["splits"][split] for one in of_runs]) for split in splits},
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


def over_all_rows(folder: Path, runs: Sequence[Member], names: Sequence[str]) -> dict[str, Any]:
    """Metrics over all rows of all folds, each once, with intervals, and each class; ``names`` are the classes.

    Temperature, threshold and best epoch of a run were chosen on the fold that it held out, so the figures are those of
    a validation, not of a test. Writes the predictions to ``folder``, in the order of the source, with each row's fold.
    Raises ``DataError`` unless each row of the dataset's folds is predicted exactly once.
    """
    manifest = read_data(read_config(runs[0].path)["data"])
    rows = sum(manifest.rows(name) for name in (TRAIN, VALIDATION) if manifest.splits.get(name))
    columns = ["label", "predicted", *map(probability_column, names)]
    tables = []
    for run in runs:
        again = f"remove {run.path}, and the same launch trains it again"
        part = read_predictions(run.path / EVALUATION, VALIDATION, columns, again)
        tables.append(part.add_column(1, "fold", pa.array(np.full(len(part), run.number, np.int32))))
    table = pa.concat_tables(tables).sort_by("row").combine_chunks()
    if (different := len(np.unique(table["row"]))) != rows or len(table) != rows:
        raise DataError(
            f"{folder}: its folds predict {different:,} different rows by {len(table):,} predictions, the dataset has "
            f"{rows:,} in folds: a run there is of another dataset; remove it, and launch again"
        )
    path = folder / OUT_OF_FOLD
    with storage(path), atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        pq.write_table(table, file)
    classes = pa.array(typed_values(names, manifest.label_type))
    labels, predicted = (pc.index_in(table[name], value_set=classes).to_numpy() for name in ("label", "predicted"))
    chances = np.stack([table[probability_column(name)].to_numpy() for name in names], axis=1)
    logits = np.log(np.maximum(chances, SMALLEST))
    logits = logits[:, 1] - logits[:, 0] if len(names) == 2 else logits
    values = classification_metrics(logits, labels, predicted)
    by_class = per_class(values["confusion"], names)
    return {**values, "intervals": intervals(logits, labels, predicted), "per_class": by_class}


def together(folder: Path, began: Sequence[Member]) -> dict[str, Any]:
    """The facts of a page about the runs in the summary of ``folder``; the names of others in ``began`` are ``open``.

    Raises ``DataError`` without a summary.
    """
    kind = began[0].kind
    values = read_summary(folder, kind)
    if values is None:
        raise DataError(f"{folder}: its runs ({listed(began)}) have not all finished; wait, or name those to compare")
    counted = [one["run"] for one in values["runs"]]
    return {
        "kind": kind,
        "runs": [one for one in began if one.name in counted],
        "open": [one.name for one in began if one.name not in counted],
        "values": values,
        "shown": list(values["splits"])[0 if kind == "fold" else -1 :],
        "titles": {name: capital(one.title) for name, one in FIGURES.items()},
    }


def linear_on_folds(runs: Sequence[Member], values: dict[str, Any]) -> dict[str, Any] | None:
    """The linear model on the folds of ``collect``'s ``values``: the spread of its figures, and of the runs' accuracy
    minus its own; None if it was not measured on all folds.
    """
    data = read_config(runs[0].path)["data"]
    names = [one.name for one in runs]
    found = list(map(chosen, find_results(runs[0].path, data, values["dataset"], names)[1].values()))
    if len(found) != len(runs) or VALIDATION not in values["splits"]:
        return None
    mine = [one["splits"][VALIDATION]["accuracy"] for one in values["runs"]]
    differences = [own - other["accuracy"] for own, other in zip(mine, found, strict=True)]
    return {"spread": spreads(found), "difference": spread(differences)}


def capital(text: str) -> str:
    """A text with its first letter capitalised."""
    return text[:1].upper() + text[1:]
