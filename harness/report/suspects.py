# SPDX-License-Identifier: Apache-2.0
"""``padless suspects``: the rows of a dataset whose label is probably wrong, as a table to fill in; and the dataset
made anew with what was filled in.

First come equal texts with different labels, then rows that confident learning finds (``harness.scores.label_errors``),
by predictions of a TF-IDF baseline that has not learned from them. Networks of ``train --folds`` found about as many.
"""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harness.baseline.out_of_fold import predict_out_of_fold, read_labelled
from harness.inference.config import OUTPUT_SUFFIXES
from harness.inference.output import write_tables
from harness.scores.calibration import fit_temperature
from harness.scores.label_errors import find_label_errors
from harness.scores.metrics import probabilities
from preprocessing.base import atomic
from preprocessing.base.atomic import storage_errors
from preprocessing.base.configuration import build_config, options_of
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.schema import LocalPath, Name
from preprocessing.base.terminal import Screen, cells, count_noun, plain_line, public, shorten_line
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.corrections import (
    CORRECTION,
    LABEL,
    REMOVE,
    ROW,
    TEXT_ID,
    merge_corrections,
    read_corrections,
    text_id,
)
from preprocessing.corpus.sources import FRAME
from preprocessing.dataset.originals import find_originals
from preprocessing.dataset.shards import Manifest
from preprocessing.dataset.views import read_data
from preprocessing.job.build import prepare_dataset

if TYPE_CHECKING:
    import pandas as pd

NUM_PRINTED = 20
MIN_TEXT_CELLS = 20
"""Least width of a text in a printed line."""
EQUAL_TEXT, CONFIDENT = "equal text has another label", "another label is more probable"
COLUMNS = [ROW, "split", "why", LABEL, "predicted", "probability", CORRECTION, "text", TEXT_ID]


@dataclass(frozen=True, kw_only=True)
class SuspectsConfig:
    """Find rows whose label is probably wrong, or make the dataset anew with corrected labels."""

    SUBJECT = ("data",)
    data: Name
    """Dataset directory."""
    output: LocalPath | None = None
    """New file for all suspects (.csv, .tsv, .jsonl, .parquet), with an empty column correction; with --apply, the
    directory of the new dataset."""
    apply: LocalPath | None = None
    """A table of suspects: make the dataset anew, with each label in its column correction in place of the row's, and
    without the rows where it says remove. Rows without a correction stay as they are."""

    def __post_init__(self) -> None:
        """Check that the output fits."""
        if self.apply is not None and self.output is None:
            raise ConfigError("apply: makes a new dataset; name its directory with -o")
        if self.apply is None and self.output is not None:
            if Path(self.output).suffix.lower() not in OUTPUT_SUFFIXES:
                raise ConfigError(f"output: {self.output}: unknown ending; use .parquet, .csv, .tsv or .jsonl")
            if os.path.lexists(self.output):
                raise ConfigError(f"output: {self.output} is there already, perhaps filled in; name a new file")


def main(config: SuspectsConfig) -> None:
    """List the suspects, or make the dataset anew."""
    manifest = read_data(config.data)
    if manifest.has_label_sets:
        raise DataError(f"{config.data}: its texts have several labels each; suspects are found where each has one")
    if config.apply is not None:
        prepare_dataset(build_corrected_config(config, manifest))
        return
    suspects, screen = find_suspects(config, manifest), Screen()
    num_equal = (suspects["why"] == EQUAL_TEXT).sum()
    counts = f"{count_noun(len(suspects), 'label')} probably wrong, {num_equal:,} of equal texts with several labels"
    screen.print_text(f"{public(config.data)}: {counts}")
    for suspect in suspects[:NUM_PRINTED].itertuples():
        answer = f"{plain_line(suspect.label)} → {plain_line(suspect.predicted)} {suspect.probability:.2f}"
        head = f"{suspect.split} row {suspect.row}: {answer}  "
        screen.write([head + shorten_line(suspect.text, max(screen.width - cells(head), MIN_TEXT_CELLS))])
    if config.output is not None:
        path = Path(config.output)
        with storage_errors(path), atomic.replacing(path) as temporary, open(temporary, "wb") as file:
            write_tables(file, path, iter([pa.Table.from_pandas(suspects, preserve_index=False)]), COLUMNS)
        screen.print_text(f"written to {config.output}: write the right label, or {REMOVE}, into column {CORRECTION}")
        names = (config.data, config.output, f"{config.data}-corrected")
        screen.print_text("then: padless suspects {} --apply {} -o {}".format(*map(shlex.quote, names)))


def find_suspects(config: SuspectsConfig, manifest: Manifest) -> pd.DataFrame:
    """The table of suspects, with ``COLUMNS``. Raises ``DataError`` for a dataset that cannot be used."""
    table, blocks = read_labelled(config.data, manifest)
    logits, labels = predict_out_of_fold(config.data, manifest, table, blocks), table[LABEL].to_numpy()
    chances = probabilities(logits / fit_temperature(logits, labels))
    predicted, positions = chances.argmax(axis=1), np.arange(len(table))
    names, is_error = np.array(manifest.labels, object), find_label_errors(labels, chances)
    has_other_label = table.groupby("text")[LABEL].transform("nunique") > 1
    table = table.assign(
        why=np.where(has_other_label, EQUAL_TEXT, CONFIDENT),
        label=names[labels],
        predicted=names[predicted],
        probability=chances[positions, predicted],
        correction="",
        chance=chances[positions, labels],
    )
    table["text_chance"] = table.groupby("text")["chance"].transform("min")
    order = ["why", "text_chance", "text", ROW]
    table = table[is_error | has_other_label].sort_values(order, ascending=[False, True, True, True])
    text_by_row, reason = find_originals(manifest, table[ROW], math.inf)
    if reason:
        Screen(errors=True).print_text(f"warning: texts are missing, and cannot be corrected: {reason}")
    table["text"] = table[ROW].map(text_by_row)
    table[TEXT_ID] = table["text"].map(text_id, na_action="ignore")
    return table[COLUMNS].fillna("").reset_index(drop=True)


def build_corrected_config(config: SuspectsConfig, manifest: Manifest) -> PreprocessConfig:
    """The configuration of a dataset with the corrections of a table, and those that it has already.

    Raises ``DataError`` for a table that does not fit, or a dataset that cannot be made again.
    """
    assert config.apply is not None
    rows, _ = read_labelled(config.data, manifest)
    label_by_row = {str(row): manifest.labels[label] for row, label in zip(rows[ROW], rows[LABEL], strict=True)}
    corrections = read_corrections(config.apply, label_by_row, manifest.labels)
    values: dict[str, Any] = {"output": config.output}
    for part, content in manifest.provenance.get("config", {}).items():
        if isinstance(content, dict):
            values |= {f"{part}.{key}": value for key, value in content.items()}
        else:
            values[part] = content
    if values.get("source.path") in ([FRAME], None) or not {*values} <= {*options_of(PreprocessConfig)}:
        problem = "was made of a data frame, or by another version of padless, and cannot be made again"
        raise DataError(f"{config.data}: {problem}; correct the labels where its texts come from")
    values["source.corrections"] = merge_corrections(values.get("source.corrections", {}), corrections)
    prepare_config: PreprocessConfig = build_config(PreprocessConfig, values)
    return prepare_config
