# SPDX-License-Identifier: Apache-2.0
"""Figures of the runs of one command: those of each, their mean and spread, and for folds those over all rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.metrics.figures import FIGURES, spreads
from harness.metrics.intervals import LEVEL, METHOD_OVER_RUNS, intervals
from harness.metrics.metrics import classification_metrics, per_class
from harness.rundir.bundle_files import read_info
from harness.rundir.layout import (
    BUNDLE,
    EVALUATION,
    OUT_OF_FOLD,
    Member,
    join_runs,
    storage,
)
from harness.rundir.metrics_log import read_log
from harness.rundir.records import read_run_config
from harness.rundir.results import (
    probability_column,
    read_figures,
    read_predictions,
    read_summary,
)
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.split_names import TEST, TRAIN, VALIDATION
from preprocessing.dataset.views import read_data
from preprocessing.labels import convert_names, is_list

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
    return {
        split: {name: figures[name] for name in ("rows", *FIGURES, "intervals") if name in figures}
        for split, figures in values.items()
        if figures is not None
    }


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
        raise DataError(f"{folder}: its runs ({join_runs(started)}) have not all finished; wait, or name one of them")
    finished = [entry["run"] for entry in values["runs"]]
    return {
        "folder": folder.resolve().name,
        "kind": kind,
        "runs": [run for run in started if run.name in finished],
        "open": [run.name for run in started if run.name not in finished],
        "values": values,
        "shown": list(values["splits"])[0 if kind == "fold" else -1 :],
        "titles": FIGURES,
    }
