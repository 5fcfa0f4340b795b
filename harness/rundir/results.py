# SPDX-License-Identifier: Apache-2.0
"""The results of an evaluation: ``SPLIT.json`` with every figure, ``SPLIT-predictions.parquet`` with every row.

Those of the test at the end of a run are in the run directory, those of later evaluations in ``evaluation/``.
``SPLIT.json`` is sealed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.rundir.bundle_files import OF_WEIGHTS, find_info
from harness.rundir.json_files import read_sealed, write_sealed
from harness.rundir.layout import BUNDLE, EVALUATION, Kind, storage
from padless.core import atomic
from padless.core.errors import DataError
from padless.core.split_names import TEST, VALIDATION
from padless.core.untrusted import one_line, open_regular
from preprocessing.labels import NAME_END, LabelType, convert_names, is_list

KIND = ("padless-evaluation", 1)
MANY_KIND = ("padless-many-runs", 1)
OF_PREDICTIONS = "predictions_sha256"
"""Name in ``SPLIT.json`` of the sha256 of the predictions beside it."""


def figures_name(split: str) -> str:
    """Name of the file with the figures of a split."""
    return f"{split}.json"


def predictions_name(split: str) -> str:
    """Name of the file with the predictions for a split."""
    return f"{split}-predictions.parquet"


def probability_column(label: str) -> str:
    """Name of the column that holds the probability of a label."""
    return f"probability_{label}"


def prediction_columns(
    predicted: np.ndarray, chances: np.ndarray, names: Sequence[str], label_type: LabelType
) -> dict[str, Any]:
    """The columns of every table of predictions: the predicted label, and the probability of each label.

    ``predicted`` is as for ``label_column`` and ``chances`` float64 ``[rows, labels]``; ``names`` are the labels'
    names, which are converted to ``label_type``.
    """
    columns: dict[str, Any] = {"predicted": label_column(predicted, names, label_type)}
    return columns | {probability_column(name): chances[:, number] for number, name in enumerate(names)}


def label_column(labels: np.ndarray, names: Sequence[str], label_type: LabelType) -> Any:
    """The labels of rows as values of their type, of int64 ``[rows]``, -1 for none; as lists of them, of bool
    ``[rows, labels]``.
    """
    values = convert_names(names, label_type)
    if labels.ndim == 1:
        is_missing = labels < 0
        return pa.array(values).take(pa.array(labels, mask=is_missing)) if is_missing.any() else values[labels]
    lists = np.empty(len(labels), object)
    lists[:] = [values[is_member].tolist() for is_member in labels]
    return lists


def label_texts(labels: np.ndarray, names: Sequence[str]) -> list[str]:
    """The labels of each row, as for ``label_column``, as one text."""
    values: list[Any] = label_column(labels, names, "text").tolist()
    return values if labels.ndim == 1 else list(map(", ".join, values))


def check_replaceable(directory: Path, split: str, origin: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` if one of the two files is there and was edited, or is not of this origin.

    ``origin``: values that the figures in ``SPLIT.json`` must have to be replaced, None for one they must not have.
    """
    predictions = directory / predictions_name(split)
    try:
        figures = read_figures(directory, split) or {}
        is_ours = bool(figures) and all(figures.get(name) == value for name, value in origin.items())
    except DataError:
        figures, is_ours = {}, False
    atomic.check_replaced(directory / figures_name(split), is_ours or None)
    if is_ours and predictions.is_file():
        is_ours = figures.get(OF_PREDICTIONS) == atomic.sha256_file(predictions)
    atomic.check_replaced(predictions, is_ours or None)


def read_figures(directory: Path, split: str) -> dict[str, Any] | None:
    """The figures of a split, None where there are none yet. Raises ``DataError`` for damaged ones."""
    return read_sealed(directory / figures_name(split), KIND, rerun_command(directory, split))


def rerun_command(directory: Path, split: str) -> str:
    """The command that replaces damaged results of a run."""
    run = directory.parent if directory.name == EVALUATION else directory
    return f"`padless evaluate {run} --split {split} -o {directory}` writes it again, once a changed one is moved away"


def summary_path(folder: str | Path, kind: Kind) -> Path:
    """The file with the figures of many runs: ``seeds.json`` or ``folds.json``."""
    return Path(folder, f"{kind}s.json")


def write_summary(folder: str | Path, kind: Kind, values: dict[str, Any]) -> None:
    """Write the figures of many runs; ``values`` are plain and finite. Raises ``StorageError``."""
    path = summary_path(folder, kind)
    with storage(path):
        write_sealed(path, MANY_KIND, {"kind": kind, **values})


def read_summary(folder: str | Path, kind: Kind) -> dict[str, Any] | None:
    """The figures of many runs; None where there are none yet. Raises ``DataError`` for damaged ones."""
    return read_sealed(summary_path(folder, kind), MANY_KIND, "run the same launch again, which rewrites it")


@dataclass(frozen=True)
class Measured:
    """The best weights of a run, measured on every row of one split."""

    split: str
    figures: dict[str, Any]
    """Those of ``SPLIT.json``."""
    directory: Path
    """The directory of that file and the predictions."""


def read_measured(directory: Path) -> Measured | None:
    """The figures of the test split, else those of an evaluation on validation; None if there are none of the weights
    in the bundle. Raises ``DataError`` for damaged ones.
    """
    info = find_info(directory / BUNDLE)
    for split, folder in ((TEST, directory), (VALIDATION, directory / EVALUATION)):
        figures = read_figures(folder, split)
        if figures and (info is None or figures.get(OF_WEIGHTS) == info.weights_sha256):
            return Measured(split, figures, folder)
    return None


@dataclass(frozen=True)
class Predictions:
    """The predictions for the labelled rows of a split."""

    rows: np.ndarray
    """int64 ``[rows]``: their numbers in the source."""
    labels: np.ndarray
    """int64 ``[rows]``: the true classes; bool ``[rows, labels]`` with several labels to a text."""
    predicted: np.ndarray
    """As ``labels``."""
    chances: np.ndarray
    """float64 ``[rows, labels]``."""


def write_results(
    directory: Path,
    values: dict[str, Any],
    names: Sequence[str],
    label_type: LabelType,
    predictions: Predictions,
) -> None:
    """Write ``SPLIT.json`` with the hash of the predictions, and ``SPLIT-predictions.parquet``: row number in the
    source, true label, predicted label, probabilities. ``values`` are plain and finite. Raises ``OSError``.

    Old predictions are removed before: a killed process leaves none beside figures with another hash, which
    ``check_replaceable`` would take for edited ones.
    """
    columns = {"row": predictions.rows, "label": label_column(predictions.labels, names, label_type)}
    columns |= prediction_columns(predictions.predicted, predictions.chances, names, label_type)
    path = directory / predictions_name(values["split"])
    with atomic.replacing(path) as temporary:
        with open(temporary, "wb") as file:
            pq.write_table(pa.table(columns), file)
        path.unlink(missing_ok=True)
        figures = {**values, OF_PREDICTIONS: atomic.sha256_file(temporary)}
        write_sealed(directory / figures_name(values["split"]), KIND, figures)


def read_predictions(directory: Path, split: str, columns: Sequence[str], advice: str | None = None) -> pa.Table:
    """Columns of ``SPLIT-predictions.parquet``, in the order of the source. Raises ``DataError``, which ends with
    ``advice``, if the file is missing or damaged.
    """
    path = directory / predictions_name(split)
    try:
        figures = read_figures(directory, split) or {}
        with open_regular(path) as file:
            table = pq.read_table(file, columns=["row", *columns]).sort_by("row")
        if figures.get(OF_PREDICTIONS) not in (None, atomic.sha256_file(path)):
            raise ValueError(f"not the predictions of {figures_name(split)}")
        return table
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not readable ({one_line(error)}); {advice or rerun_command(directory, split)}"
        ) from None


def read_hits(directory: Path, split: str, advice: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers in the source, int64 ``[rows]``, ascending, and whether each row was predicted correctly.

    Raises ``DataError`` as ``read_predictions``.
    """
    table = read_predictions(directory, split, ["label", "predicted"], advice)
    labels, predicted = (join_label_column(table[name], NAME_END) for name in ("label", "predicted"))
    return table["row"].to_numpy(), np.asarray(pc.equal(labels, predicted).to_numpy(), bool)


def join_label_column(column: pa.ChunkedArray, separator: str) -> pa.ChunkedArray:
    """A column of labels, where they are lists as texts with a separator between the labels."""
    return pc.binary_join(column.cast(pa.list_(pa.string())), separator) if is_list(column.type) else column
