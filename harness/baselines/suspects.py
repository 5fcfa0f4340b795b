# SPDX-License-Identifier: Apache-2.0
"""``padless suspects``: the rows of a dataset whose label is probably wrong, the worst first.

First come equal texts with different labels, then rows that confident learning finds, by predictions of a TF-IDF
baseline that has not learned from them. Networks of ``train --folds`` found about as many.

Confident learning (Northcutt, Jiang and Chuang 2021, Confident Learning: Estimating Uncertainty in Dataset Labels): as
many as are off the diagonal of its confident joint, ranked by self-confidence. With 5 % of the labels replaced at
random, that found more of them, at the same number of rows, than counts by class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.baselines.tfidf import predict_out_of_fold, read_labelled
from harness.metrics.calibration import fit_temperature
from harness.metrics.metrics import probabilities
from padless.core import atomic
from padless.core.atomic import storage_errors
from padless.core.cli import print_json
from padless.core.errors import ConfigError, DataError
from padless.core.schema import LocalPath, Name
from padless.core.terminal import Screen, count_noun, plain_line, public
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import find_originals, read_data

if TYPE_CHECKING:
    import pandas as pd

NUM_PRINTED = 20
EQUAL_TEXT, CONFIDENT = "equal text has another label", "another label is more probable"
COLUMNS = ["row", "split", "why", "label", "predicted", "probability", "text"]


@dataclass(frozen=True, kw_only=True)
class SuspectsConfig:
    """Find rows whose label is probably wrong."""

    SUBJECT = ("data",)
    data: Name
    """Dataset directory."""
    output: LocalPath | None = None
    """New .csv file for all suspects: row of the source, label, the label that is more probable, and why."""
    json: bool = False
    """Print all suspects as one JSON object instead of the first lines."""

    def __post_init__(self) -> None:
        """Check that the output fits."""
        if self.output is None:
            return
        if Path(self.output).suffix.lower() != ".csv":
            raise ConfigError(f"output: {self.output}: unknown ending; use .csv")
        atomic.check_replaced(Path(self.output), None)


def main(config: SuspectsConfig) -> None:
    """List the suspects."""
    manifest = read_data(config.data)
    if manifest.has_label_sets:
        raise DataError(f"{config.data}: its texts have several labels each; suspects are found where each has one")
    suspects = find_suspects(config, manifest)
    if config.json:
        print_json({"dataset": public(config.data), "suspects": suspects.to_dict("records")})
    else:
        print_suspects(config, suspects)
    if config.output is not None:
        path = Path(config.output)
        with storage_errors(path), atomic.replacing(path) as temporary:
            suspects.to_csv(temporary, index=False)
        screen = Screen(quiet=config.json)
        screen.print_text(f"written to {path}: correct these rows in the source, and prepare it again")


def print_suspects(config: SuspectsConfig, suspects: pd.DataFrame) -> None:
    """Print how many labels are suspect, and the first ones."""
    screen, num_equal = Screen(), (suspects["why"] == EQUAL_TEXT).sum()
    counts = f"{count_noun(len(suspects), 'label')} probably wrong, {num_equal:,} of equal texts with several labels"
    screen.print_text(f"{public(config.data)}: {counts}")
    for suspect in suspects[:NUM_PRINTED].itertuples():
        answer = f"{plain_line(suspect.label)} → {plain_line(suspect.predicted)} {suspect.probability:.2f}"
        head = f"{suspect.split} row {suspect.row}: {answer}  "
        screen.print_excerpt(head, suspect.text)


def find_suspects(config: SuspectsConfig, manifest: Manifest) -> pd.DataFrame:
    """The table of suspects, with ``COLUMNS``. Raises ``DataError`` for a dataset that cannot be used."""
    table, blocks = read_labelled(config.data, manifest)
    logits, labels = predict_out_of_fold(config.data, manifest, table, blocks), table["label"].to_numpy()
    chances = probabilities(logits / fit_temperature(logits, labels))
    predicted, positions = chances.argmax(axis=1), np.arange(len(table))
    names, is_error = np.array(manifest.labels, object), find_label_errors(labels, chances)
    has_other_label = table.groupby("text")["label"].transform("nunique") > 1
    table = table.assign(
        why=np.where(has_other_label, EQUAL_TEXT, CONFIDENT),
        label=names[labels],
        predicted=names[predicted],
        probability=chances[positions, predicted],
        chance=chances[positions, labels],
    )
    table["text_chance"] = table.groupby("text")["chance"].transform("min")
    order = ["why", "text_chance", "text", "row"]
    table = table[is_error | has_other_label].sort_values(order, ascending=[False, True, True, True])
    text_by_row, reason = find_originals(manifest, table["row"], everywhere=True)
    if reason:
        Screen(errors=True).print_text(f"warning: texts are missing: {reason}")
    table["text"] = table["row"].map(text_by_row)
    return table[COLUMNS].fillna("").reset_index(drop=True)


def find_label_errors(labels: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """Bool ``[rows]``: whether the label of a row, int64 ``[rows]``, is probably wrong.

    A row counts for a class if its probability, float64 ``[rows, classes]``, reaches the mean of the rows that have the
    label; if it reaches that of several, for the most probable of these. As many labels are wrong as rows count for
    another class: the least probable ones, unless they are the most probable class of their row.
    """
    num_classes = chances.shape[1]
    label_chances = chances[np.arange(len(labels)), labels]
    label_rows = np.bincount(labels, minlength=num_classes)
    thresholds = np.bincount(labels, label_chances, num_classes) / np.maximum(label_rows, 1)
    reached = np.where((chances >= thresholds) & (label_rows > 0), chances, 0.0)
    confident_classes = np.where(reached.any(axis=1), reached.argmax(axis=1), labels)
    num_errors = (confident_classes != labels).sum()
    is_error = np.zeros(len(labels), bool)
    is_error[np.argsort(label_chances, kind="stable")[:num_errors]] = True
    return is_error & (chances.argmax(axis=1) != labels)
