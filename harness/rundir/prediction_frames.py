# SPDX-License-Identifier: Apache-2.0
"""Predictions as a pandas frame: those that a run leaves of its splits, and files that ``predict`` has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from harness.rundir import layout
from harness.rundir.results import predictions_name, probability_column
from preprocessing.base.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def open_predictions(place: str | Path, split: str | None = None) -> pd.DataFrame:
    """Predictions as a frame: ``predicted`` and ``probability_LABEL`` beside whatever else the file holds.

    ``place`` is a run directory, of which the predictions for ``split`` are read, those of the test split if there are
    any and of validation else; or a .parquet, .csv or .jsonl file. Texts stay texts, whatever they look like. Raises
    ``DataError`` where there is no such file, or one that cannot be read.
    """
    import pandas as pd

    path = found(Path(place), split)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        if path.suffix in (".jsonl", ".ndjson"):
            with open(path, encoding="utf-8-sig") as lines:  # pandas' own reader makes dates of texts
                return pd.DataFrame([json.loads(line) for line in lines if line.strip()])
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t" if path.suffix == ".tsv" else ",")
        chances = [name for name in frame.columns if str(name).startswith(probability_column(""))]
        return frame.astype(dict.fromkeys(chances, float))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as predictions ({' '.join(str(error).split())})") from None


def found(place: Path, split: str | None) -> Path:
    """The file that is meant. Raises ``DataError``."""
    if place.is_file():
        return place
    splits = ["test", "validation"] if split is None else [split]
    candidates = [folder / predictions_name(name) for name in splits for folder in (place, place / layout.EVALUATION)]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(f"{place}: holds no predictions of the split {' or '.join(splits)}; evaluate the run first")
    return path
