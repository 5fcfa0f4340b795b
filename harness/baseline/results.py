# SPDX-License-Identifier: Apache-2.0
"""``DATA/baseline/``: what the linear model reached on a dataset, beside its shards, where every run on it looks.

There are ``SPLIT.json`` and ``SPLIT-predictions.parquet`` for each split, in the format of an evaluation. Each
``SPLIT.json`` carries the fingerprint of the dataset
and the recipe of the model. Those of another fingerprint or recipe count as not there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.baseline.linear import RECIPE, OnSplit
from harness.rundir.results import figures_name, predictions_name, read_figures, write_figures, write_predictions
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TEST, VALIDATION
from preprocessing.dataset.shards import Manifest

FOLDER = "baseline"
MADE_ANEW = "delete it, and `python -m harness baseline` makes it anew"


def folder_of(data: str | Path) -> Path:
    """Where the results of a dataset lie."""
    return Path(data, FOLDER)


def read_results(data: str | Path, fingerprint: str | None) -> dict[str, dict[str, Any]]:
    """Figures of each split of the dataset with this fingerprint, as far as they are there; none without one.

    Raises ``DataError`` for a damaged file.
    """
    found = {}
    for split in (VALIDATION, TEST):
        try:
            values = read_figures(folder_of(data), split)
        except DataError:
            path = folder_of(data) / figures_name(split)
            raise DataError(f"{path}: damaged; {MADE_ANEW}") from None
        if values is not None and fingerprint is not None and is_of(values, fingerprint):
            found[split] = values
    return found


def fold_name(fold: int) -> str:
    """What the figures on a fold are called, where others have the name of a split."""
    return f"fold-{fold}"


def read_folds(data: str | Path, fingerprint: str | None, folds: int) -> list[dict[str, Any]]:
    """Figures of the linear model on each fold, learned from the others; empty unless all are there.

    Raises ``DataError`` for a damaged file.
    """
    found = [read_figures(folder_of(data), fold_name(fold)) for fold in range(folds)]
    return [each for each in found if each is not None and is_of(each, fingerprint or "")] if all(found) else []


def write_folds(data: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """Write the figures on each fold, and remove those of folds that are no more. Raises ``OSError``."""
    for path in folder_of(data).glob(figures_name("fold-*")):
        if re.fullmatch(r"fold-\d+\.json", path.name):
            path.unlink()
    for fold, values in enumerate(results):
        write_figures(folder_of(data), fold_name(fold), values)


def is_of(values: dict[str, Any], fingerprint: str) -> bool:
    """Whether figures are those of a dataset with this fingerprint, by the recipe of today."""
    return (values.get("dataset"), values.get("recipe")) == (fingerprint, RECIPE)


def write_results(data: str | Path, manifest: Manifest, results: Mapping[str, OnSplit]) -> None:
    """Write predictions and figures of each split; those of a split that is no more are removed. Raises ``OSError``."""
    folder = folder_of(data)
    for split in (VALIDATION, TEST):
        if split in results:
            write_predictions(folder, split, manifest.labels, manifest.label_type, **results[split].predictions)
            write_figures(folder, split, results[split].figures)
        else:
            for name in (figures_name(split), predictions_name(split)):
                (folder / name).unlink(missing_ok=True)
