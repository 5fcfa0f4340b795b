# SPDX-License-Identifier: Apache-2.0
"""Labels that a person has corrected: ``source.corrections``, and the tables in which they are filled in.

A correction is for a text and its label, wherever such rows are, so it outlives a source that is sorted or extended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import join_names
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus.batches import SourceBatch
from preprocessing.corpus.readers import open_reader
from preprocessing.corpus.sources import list_files
from preprocessing.labels import drop_zero_fraction

ROW, TEXT_ID, LABEL, CORRECTION = COLUMNS = ("row", "text_id", "label", "correction")
REMOVE = "remove"
"""In a table, in place of a label: leave the row out. A class of this name is meant, if there is one."""
LEFT_OUT = ""
"""In ``source.corrections``, in place of a label."""


def text_id(text: str) -> str:
    """A text in tables and configurations: a hash that begins with a letter, so that a spreadsheet reads no number."""
    return f"t{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def read_corrections(path: str, label_by_row: Mapping[str, str], labels: Sequence[str]) -> dict[str, str]:
    """``source.corrections`` of a table, for a dataset whose rows, by number, have these labels.

    Raises ``DataError`` for a table without corrections, one of another dataset, and a row with an unknown class, or
    with two corrections.
    """
    corrections, name_by_spelling = dict[str, str](), {drop_zero_fraction(name): name for name in labels}
    if not Path(path).is_file():
        raise DataError(f"{path}: is no file; name the table of suspects that was filled in")
    source = SourceConfig(path=path, text_column=[ROW, TEXT_ID, CORRECTION], label_column=LABEL)
    (file,) = list_files(source, SplitConfig(column=None))
    reader = open_reader(file)
    if not {*COLUMNS} <= {*reader.columns}:
        raise DataError(f"{path}: no table of suspects, which has the columns {join_names(COLUMNS)}")
    for batch in reader.batches():
        columns = [batch.column(name).to_pylist() for name in COLUMNS]
        for position, values in enumerate(zip(*columns, strict=True)):
            row, identity, spelling, correction = (drop_zero_fraction((value or "").strip()) for value in values)
            label, problem = label_by_row.get(row, ""), ""
            if name_by_spelling.get(spelling) != label:
                problem = (
                    f"{spelling[:60]!r} is not the label of row {row} of the dataset; make a table of this dataset"
                )
                problem += f", and change its column {CORRECTION} only"
            elif correction not in ("", REMOVE, *name_by_spelling):
                problem = f"{correction[:60]!r} is no class; write {join_names(labels)}, or {REMOVE}"
            elif correction:
                name = name_by_spelling.get(correction, LEFT_OUT)
                if corrections.setdefault(f"{identity} {label}", name) != name:
                    problem = "another row has its text and label, but another correction; write the same in both"
            if problem:
                raise batch.error(position, problem)
    if not corrections:
        problem = f"column {CORRECTION} is empty in every row, so nothing would change"
        raise DataError(f"{path}: {problem}; write a label there, or {REMOVE}")
    return corrections


def merge_corrections(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Both, of which the ``second`` are for labels that the ``first`` leave."""
    corrected = {key: second.get(f"{key.partition(' ')[0]} {label}", label) for key, label in first.items()}
    return {**second, **corrected}


def correct_labels(batch: SourceBatch, labels: pa.Array) -> tuple[pa.Array, np.ndarray, set[str]]:
    """The labels of a batch (string) with ``source.corrections``, null for rows to leave out; whether each row is left
    out (bool); and the texts whose label is corrected.
    """
    corrections, names, corrected = batch.file.source.corrections, labels.to_pylist(), set[str]()
    is_removed = np.zeros(len(batch), bool)
    for row, text in enumerate(batch.texts().to_pylist()):
        identity = text_id(text or "")
        key = f"{identity} {names[row]}"
        if key in corrections:
            is_removed[row] = corrections[key] == LEFT_OUT
            names[row] = corrections[key] or None
            corrected.add(identity)
    return pa.array(names, pa.string()), is_removed, corrected


def check_corrected(corrections: Mapping[str, str], corrected: set[str]) -> None:
    """Raise ``DataError`` for a correction of a text that is not among those ``corrected``."""
    missing_texts = {key.partition(" ")[0] for key in corrections} - corrected
    if missing_texts:
        problem = f"no row has the text {min(missing_texts)!r} with the label that is corrected"
        raise DataError(f"source.corrections: {problem}: is the table of another dataset, or has the source changed?")
