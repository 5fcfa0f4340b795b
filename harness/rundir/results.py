# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves of a split: ``SPLIT.json`` with every figure, ``SPLIT-predictions.parquet`` with every row.

They lie in the run directory for the test at the end of a run, and in ``evaluation/`` for any later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.rundir.figures_schema import check_figures
from harness.rundir.json_files import read_object
from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import one_line
from preprocessing.labels import LabelType, as_found, typed_values

FORMAT, FORMAT_VERSION = "padless-evaluation", 1


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

    ``predicted`` is int64 ``[rows]`` and ``chances`` float64 ``[rows, labels]``; ``names`` are the labels' names, which
    become values of ``label_type``.
    """
    columns: dict[str, Any] = {"predicted": typed_values(names, label_type)[predicted]}
    return columns | {probability_column(name): chances[:, number] for number, name in enumerate(names)}


def write_figures(directory: Path, split: str, values: dict[str, Any]) -> None:
    """Write ``SPLIT.json``: ``values`` are plain and finite. Raises ``OSError``."""
    atomic.write_json(directory / figures_name(split), {"format": FORMAT, "format_version": FORMAT_VERSION, **values})


def read_figures(directory: Path, split: str) -> dict[str, Any] | None:
    """The figures of a split, None where there are none yet. Raises ``DataError`` for those of another version."""
    path = directory / figures_name(split)
    content = read_object(path)
    if not content:
        return None
    if (content.get("format"), content.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise DataError(
            f"{path}: another version of padless wrote it; use that version's report, "
            "or evaluate the run again with this one"
        )
    check_figures(content, str(path))
    return content


def write_predictions(
    directory: Path,
    split: str,
    names: Sequence[str],
    label_type: LabelType,
    *,
    rows: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    chances: np.ndarray,
) -> None:
    """Write ``SPLIT-predictions.parquet``: row number in the source, true label, predicted label, probabilities.

    ``rows``, ``labels`` and ``predicted`` are int64 ``[rows]``, ``chances`` is float64 ``[rows, labels]``. Raises
    ``OSError``.
    """
    columns = {"row": rows, "label": typed_values(names, label_type)[labels]}
    with atomic.replacing(directory / predictions_name(split)) as temporary:
        pq.write_table(pa.table(columns | prediction_columns(predicted, chances, names, label_type)), temporary)


def read_hits(directory: Path, split: str, again: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers in the source, int64 ``[rows]``, ascending, and whether each row was predicted rightly.

    Raises ``DataError`` that ends with ``again`` where the file is missing or damaged.
    """
    path = directory / predictions_name(split)
    try:
        table = pq.read_table(path, columns=["row", "label", "predicted"]).sort_by("row")
        right = pc.equal(table["label"], table["predicted"])
        return table["row"].to_numpy(), np.asarray(right.to_numpy(), bool)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not readable ({one_line(error)}); {again}") from None


def read_predictions(directory: Path, split: str, names: Sequence[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """True labels by name, object ``[rows]``, and the probability of each label in ``names``, float64 ``[rows]``.

    Raises ``OSError``, ``KeyError`` or ``ValueError`` where the file is missing or does not have these columns.
    """
    path = directory / predictions_name(split)
    table = pq.read_table(path, columns=["label", *(probability_column(name) for name in names)])
    chances = {name: table[probability_column(name)].to_numpy() for name in names}
    return np.array([as_found(label) for label in table["label"].to_pylist()], dtype=object), chances
