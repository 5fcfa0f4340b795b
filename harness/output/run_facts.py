# SPDX-License-Identifier: Apache-2.0
"""Reads and checks the files of each run directory of a report, and ranks several runs; figures of the runs of one
command: those of each, their mean and spread, and for folds those over all rows.

Runs are ranked by validation: choosing a run by the test split would make it a validation split.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.baselines.measured import Comparison, compare_with_encoder, compare_with_run, find_results
from harness.config import LANGUAGE_MODEL, RunConfig, flat, to_dict
from harness.data.run_rows import hold_out
from harness.metrics.figures import CHOSEN_BY, FIGURES, spreads
from harness.metrics.intervals import LEVEL, METHOD_OVER_RUNS, intervals
from harness.metrics.metrics import classification_metrics, per_class
from harness.metrics.tables import still_improving
from harness.rundir.bundle_files import find_info, read_info
from harness.rundir.json_files import Line
from harness.rundir.layout import (
    BUNDLE,
    CONFIG,
    ENVIRONMENT,
    EVALUATION,
    METRICS,
    OUT_OF_FOLD,
    THROUGHPUT,
    Member,
    join_runs,
    storage,
)
from harness.rundir.metrics_log import read_log
from harness.rundir.records import read_environment, read_run_config, read_status
from harness.rundir.results import (
    figures_name,
    probability_column,
    read_figures,
    read_measured,
    read_predictions,
    read_summary,
)
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.split_names import TEST, TRAIN, VALIDATION
from padless.core.terminal import count_noun, public_values
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import read_data
from preprocessing.labels import convert_names, is_list


class RunFacts:
    """A run directory in memory. Missing files are empty or None."""

    def __init__(self, directory: str | Path) -> None:
        """Read it. Raises ``DataError`` if it is not a run, has no metrics, or is damaged."""
        self.directory = Path(directory)
        self.config = read_run_config(directory)
        lines = read_log(directory)
        if not lines:
            raise DataError(
                f"{self.directory / METRICS}: holds no metrics: this run has logged nothing yet; wait for its first "
                "log line, or name another run"
            )
        self.train = [line for line in lines if line["kind"] == "train"]
        self.validation = [line for line in lines if line["kind"] == VALIDATION]
        throughput = read_log(directory, THROUGHPUT)
        seconds = [line["seconds"] for line in throughput if "seconds" in line]
        self.training_s = seconds[-1] if seconds else None
        """Time to the last validation."""
        self.test_rows_per_s = next((line["rows_per_s"] for line in reversed(throughput) if line["kind"] == TEST), None)
        """Rows that all ranks read in a second of the test."""
        self.environment = public_values(read_environment(directory))
        self.status = public_values(read_status(directory))
        self.measured = read_measured(self.directory)
        """Figures on the test split, else on validation, if any."""
        self.gaps = list(self.find_gaps(lines))
        """What is missing in files of the run, one sentence each."""
        info = find_info(self.directory / BUNDLE)
        self.fingerprint = info.dataset if info is not None else None
        """Fingerprint of the dataset of the training."""
        self.manifest, self.manifest_note = find_manifest(self.config, self.fingerprint)
        """Manifest of that dataset; or why there is none: the directory is missing or holds another dataset."""
        if self.fingerprint is None and self.manifest is not None:
            self.fingerprint = self.manifest.fingerprint
        self.linear: dict[str, dict[str, Any]] = {}
        """Figures of the TF-IDF baseline on the same dataset, by split, from ``DATA/baseline``."""
        self.comparison: Comparison | None = None
        """The comparison of the run with the TF-IDF baseline, if possible."""
        self.linear_note: str | None = None
        """Why there is no comparison, although the TF-IDF baseline was measured."""
        try:
            self.linear, self.comparison = compare_linear(self.directory, self.config["data"])
        except DataError as error:
            self.linear_note = str(error)
        self.encoder: Comparison | None = None
        """The comparison with an encoder that taught the run."""
        with suppress(DataError):
            self.encoder = compare_with_encoder(self.directory, self.config)

    def find_gaps(self, lines: Sequence[Line]) -> Iterator[str]:
        """What an intact run has and this one does not: a file was cut, or is of another run."""
        if missing := sorted(flat(to_dict(RunConfig())).keys() - flat(self.config).keys()):
            yield f"{CONFIG} lacks {count_noun(len(missing), 'key')}, such as {missing[0]}"
        if not self.environment.get("effective") or not self.environment.get("versions"):
            yield f"{ENVIRONMENT} is missing or incomplete"
        last_step = lines[-1]["step"]
        if self.status.get("state") == "finished" and last_step < self.status["step"]:
            yield f"{METRICS} ends at step {last_step:,}, the run at step {self.status['step']:,}"
        for split, folder in ((TEST, self.directory), (VALIDATION, self.directory / EVALUATION)):
            has_figures = (folder / figures_name(split)).exists()
            if has_figures and (self.measured is None or (self.measured.split != split and split == TEST)):
                yield f"{folder / figures_name(split)} is not of the weights in {BUNDLE}/, so it is not shown"

    @property
    def labels(self) -> list[str]:
        """The names of the classes; empty if unknown."""
        if self.measured is not None:
            return list(self.measured.figures["labels"])
        return list(self.manifest.labels) if self.manifest is not None else []

    @property
    def deciding_figure(self) -> str:
        """The figure that chose the best weights; always the loss for a pretraining."""
        select = "loss" if self.config.get("task") == LANGUAGE_MODEL else str(self.config.get("select"))
        return CHOSEN_BY.get(select, "accuracy")

    @property
    def best_validation(self) -> Line | None:
        """The line of the best validation."""
        return next((line for line in reversed(self.validation) if line.get("best")), None)

    @property
    def advice(self) -> str | None:
        """Whether a finished run should have had more epochs."""
        epochs = self.config.get("epochs")  # a cut file lacks it
        if self.status.get("state") != "finished" or epochs is None:
            return None
        return still_improving(self.validation, self.deciding_figure, epochs)


def compare_linear(run: Path, data: str | Path) -> tuple[dict[str, dict[str, Any]], Comparison | None]:
    """The TF-IDF baseline's figures on the dataset of a run, by split, and the comparison of the run with it.

    Validation is left out if the run held out a fold instead. Raises ``DataError`` for damaged figures, and for a
    missing dataset of a run without a bundle.
    """
    info = find_info(run / BUNDLE)
    folder, linear = find_results(run, data, info.dataset if info is not None else read_data(data).fingerprint)
    if info is not None and info.fold is not None:
        linear.pop(VALIDATION, None)
    return linear, compare_with_run(read_measured(run), folder, linear)


def find_manifest(config: dict[str, Any], fingerprint: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest of the run's dataset, or why it is missing."""
    data = config["data"]
    try:
        manifest = read_data(data)
        if fingerprint not in (None, manifest.fingerprint):
            raise DataError(f"{data} now holds another dataset (fingerprint {manifest.fingerprint[:12]})")
        return hold_out(manifest, config.get("fold"), data), None
    except DataError as error:
        return None, str(error)


def ranking_figure(runs: Sequence[RunFacts]) -> str:
    """The figure to rank runs by: the common figure of ``select``, else the accuracy."""
    figures = {run.deciding_figure for run in runs}
    return figures.pop() if len(figures) == 1 else "accuracy"


def rank(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """Runs, the best validation first; those without one come last. Ties keep their order."""
    name = ranking_figure(runs)

    def position(run: RunFacts) -> float:
        value = (run.best_validation or {}).get(name)
        if value is None or not math.isfinite(value):
            return math.inf
        return value if FIGURES[name].lower_is_better else -value

    return sorted(runs, key=position)


def compare_with_first(runs: Sequence[RunFacts], names: Sequence[str]) -> list[tuple[str, Comparison]]:
    """The name of each run that can be compared with the first, over the same rows; its accuracy takes the place of the
    TF-IDF baseline's.
    """
    first, pairs = runs[0].measured, list[tuple[str, Comparison]]()
    for run, name in zip(runs[1:], names[1:], strict=True):
        with suppress(DataError):  # other rows, or no predictions
            if first and (pair := compare_with_run(run.measured, first.directory, {first.split: first.figures})):
                pairs.append((name, pair))
    return pairs


def differing_settings(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """Settings that differ between runs, with the value of each run; the run directory is left out."""
    configs, values_by_key = [flat(run.config) for run in runs], {}
    for key in dict.fromkeys(key for config in configs for key in config if key != "run"):
        values = [config.get(key, "unset") for config in configs]
        if values != values[:1] * len(values):
            values_by_key[key] = values
    return values_by_key


def unique_names(runs: Sequence[RunFacts]) -> list[str]:
    """The directories below the common parent of all runs."""
    paths = [run.directory.resolve() for run in runs]
    parent = os.path.commonpath([path.parent for path in paths])
    return [str(path.relative_to(parent)) for path in paths]


SPLITS = (VALIDATION, TEST)
MIN_CHANCE = np.finfo(np.float64).tiny


def collect(runs: Sequence[Member]) -> dict[str, Any]:
    """The content of ``seeds.json`` or ``folds.json`` without out-of-fold figures. Raises ``DataError``.

    It has no times and paths, so an interrupted and an uninterrupted command write the same bytes.
    """
    entries: list[dict[str, Any]] = [{"run": run.name, run.kind: run.number, "splits": figures_of(run)} for run in runs]
    splits = [split for split in SPLITS if all(split in entry["splits"] for entry in entries)]
    infos = [read_info(run.path / BUNDLE) for run in runs]
    if len({info.dataset for info in infos}) > 1:
        raise DataError(f"{runs[0].path.parent}: its runs were trained on different datasets, so there is no spread")
    return {
        "dataset": infos[0].dataset,
        "labels": infos[0].labels,
        "runs": entries,
        "interval": {"level": LEVEL, "method": METHOD_OVER_RUNS},
        "splits": {split: spreads([entry["splits"][split] for entry in entries]) for split in splits},
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
    values = {VALIDATION: validation, TEST: test}
    return {split: select_figures(figures) for split, figures in values.items() if figures is not None}


def select_figures(values: dict[str, Any]) -> dict[str, Any]:
    """The figures, their intervals, and the number of rows."""
    return {name: values[name] for name in ("rows", *FIGURES, "intervals") if name in values}


def score_all_rows(folder: Path, runs: Sequence[Member], names: Sequence[str]) -> dict[str, Any]:
    """Metrics over all rows of all folds, each once, with intervals, and each class; ``names`` are the classes.

    Temperature, threshold and best epoch of a run were chosen on the fold that it held out, so the figures are those of
    a validation, not of a test. Writes the predictions to ``folder``, in the order of the source, with each row's fold.
    Raises ``DataError`` unless each row of the dataset's folds is predicted exactly once.
    """
    manifest = read_data(read_run_config(runs[0].path)["data"])
    num_rows = sum(manifest.rows(name) for name in (TRAIN, VALIDATION) if manifest.splits.get(name))
    columns = ["label", "predicted", *map(probability_column, names)]
    tables = []
    for run in runs:
        hint = f"remove {run.path}, and the same launch trains it again"
        part = read_predictions(run.path / EVALUATION, VALIDATION, columns, hint)
        tables.append(part.add_column(1, "fold", pa.array(np.full(len(part), run.number, np.int32))))
    table = pa.concat_tables(tables).sort_by("row").combine_chunks()
    if (num_distinct := len(np.unique(table["row"]))) != num_rows or len(table) != num_rows:
        raise DataError(
            f"{folder}: its folds predict {num_distinct:,} different rows by {len(table):,} predictions, the dataset "
            f"has {num_rows:,} in folds: a run there is of another dataset; remove it, and launch again"
        )
    path = folder / OUT_OF_FOLD
    with storage(path), atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        pq.write_table(table, file)
    classes = pa.array(convert_names(names, manifest.label_type))
    labels, predicted = (numbers_of_labels(table[name], classes) for name in ("label", "predicted"))
    chances = np.stack([table[probability_column(name)].to_numpy() for name in names], axis=1)
    logits = np.log(np.maximum(chances, MIN_CHANCE))
    if labels.ndim > 1:
        logits -= np.log(np.maximum(1 - chances, MIN_CHANCE))
    elif len(names) == 2:
        logits = logits[:, 1] - logits[:, 0]
    values = classification_metrics(logits, labels, predicted)
    by_class = per_class(labels, predicted, names)
    return {**values, "intervals": intervals(logits, labels, predicted), "per_class": by_class}


def numbers_of_labels(column: pa.ChunkedArray, classes: pa.Array) -> np.ndarray:
    """The class numbers of a column of labels, int64 ``[rows]``; of one of lists bool ``[rows, classes]``."""
    if not is_list(column.type):
        return np.asarray(pc.index_in(column, value_set=classes).to_numpy())
    rows = pc.list_parent_indices(column).to_numpy()
    members = np.zeros((len(column), len(classes)), bool)
    members[rows, pc.index_in(pc.list_flatten(column), value_set=classes).to_numpy()] = True
    return members


def summarize_runs(folder: Path, started: Sequence[Member]) -> dict[str, Any]:
    """The facts of a page about the runs in the summary of ``folder``; the names of others that ``started`` are
    ``open``.

    Raises ``DataError`` without a summary.
    """
    kind = started[0].kind
    values = read_summary(folder, kind)
    if values is None:
        raise DataError(
            f"{folder}: its runs ({join_runs(started)}) have not all finished; wait, or name those to compare"
        )
    finished = [entry["run"] for entry in values["runs"]]
    return {
        "folder": folder.resolve().name,
        "kind": kind,
        "runs": [run for run in started if run.name in finished],
        "open": [run.name for run in started if run.name not in finished],
        "values": values,
        "shown": list(values["splits"])[0 if kind == "fold" else -1 :],
        "titles": {name: capitalize(figure.title) for name, figure in FIGURES.items()},
    }


def capitalize(text: str) -> str:
    """A text with its first letter capitalised; the others stay."""
    return text[:1].upper() + text[1:]
