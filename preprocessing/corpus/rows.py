# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of one part of a corpus: texts, class numbers, splits, groups and row numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import (
    NO_LABEL,
    TEST_NUMBER,
    UNLABELLED_NUMBER,
    VALIDATION_NUMBER,
    split_number,
)
from preprocessing.corpus.sources import File, Part
from preprocessing.corpus.tables import Rows, read_rows
from preprocessing.labels import (
    MAX_CLASSES,
    NEUTRAL,
    UNKNOWN,
    LabelType,
    as_found,
    distinct,
    found_in,
    spelling,
    type_of,
)

NO_GROUP = 0
"""In place of a group's hash for a row without a group."""
MISSING = -3
"""In place of a class number for a row without a label, where labels may be missing."""


@dataclass(frozen=True)
class Piece:
    """The rows of a part that go into the dataset. All arrays have one entry per row."""

    texts: pa.Array
    """large_string without nulls."""
    label: np.ndarray
    """int32, each row's index into ``classes``; ``NO_LABEL`` in the split ``unlabelled``."""
    classes: list[str]
    """Names of the classes: those of ``source.labels``, or those found in this part, sorted."""
    label_type: LabelType | None
    """Type of the label column; None if it holds nothing."""
    known: list[str]
    """All class names in the file's metadata, in the order of their numbers; mostly none."""
    split: np.ndarray
    """int8, number of the split, or ``NO_SPLIT`` if the source names none."""
    row: np.ndarray
    """int64, the row's number in the source, from 1."""
    missing: np.ndarray
    """bool, whether the text was null."""
    neutral: int
    """Rows left out because their label is neutral."""
    filtered: int
    """Rows left out by ``source.where``."""
    without_label: int = 0
    """Rows left out because they have no label."""
    group: np.ndarray | None = None
    """uint64, a hash of each row's group, or ``NO_GROUP``; None without ``splits.group_column``."""
    times: dict[str, np.ndarray] = field(default_factory=dict)
    """With ``splits.time_column``, float64: ``number``, each row's number, and ``date``, its seconds since 1970; NaN
    where there is another or none."""


def read(part: Part) -> Piece:
    """Read one part. Raises ``DataError`` naming file and row."""
    source, rows = part.file.source, read_rows(part, list(part.file.wanted))
    if part.drawn is not None:
        rows = rows.only(np.isin(rows.numbers, part.drawn))
    kept = np.ones(len(rows), bool)
    for column, value in source.where.items():
        same = pc.equal(rows.text(column), value)
        kept &= pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    filtered, rows = int((~kept).sum()), rows.only(kept)
    split = split_numbers(rows)
    label, classes, label_type, known = labels_of(rows, split == UNLABELLED_NUMBER)
    dropped = (label == MISSING) & (source.missing_label == "drop") & (not part.file.is_unlabelled)
    neutral, kept = label == NEUTRAL, (label != NEUTRAL) & ~dropped
    rows, label, split = rows.only(kept), label[kept], split[kept]
    texts = rows.texts()
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    if source.missing_text == "error" and missing.any():
        mend = "fill or remove the row, or set source.missing_text to keep"
        raise rows.fail(np.argmax(missing), f"column {source.text_column!r} holds no text; {mend}")
    without = label == MISSING
    measured = without & ((split == VALIDATION_NUMBER) | (split == TEST_NUMBER))
    if measured.any():
        what = "there is no label, which rows of validation and test need; take the row out of its split"
        raise rows.fail(np.argmax(measured), what)
    label[without], split[without] = NO_LABEL, UNLABELLED_NUMBER
    return Piece(
        texts=pc.fill_null(texts, ""),
        label=label,
        classes=classes,
        label_type=label_type,
        known=known,
        split=split,
        row=rows.numbers + part.offset,
        missing=missing,
        neutral=int(neutral.sum()),
        filtered=filtered,
        without_label=int(dropped.sum()),
        group=group_hashes(rows),
        times=times_of(rows),
    )


def labels_of(rows: Rows, hidden: np.ndarray) -> tuple[np.ndarray, list[str], LabelType | None, list[str]]:
    """int32: the class of every row, ``NEUTRAL`` or, if ``source.missing_label`` allows it, ``MISSING``; and
    ``classes``, ``label_type``, ``known`` of the ``Piece``.

    Values in ``hidden`` rows are not read as labels.
    """
    source = rows.part.file.source
    given = source.label_map()
    if rows.part.file.is_unlabelled:
        return np.full(len(rows), MISSING, np.int32), given.names if given else [], None, []
    column = rows.table[source.label_column].combine_chunks()
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raise rows.bad_utf8(source.label_column) from None
    known = column.dictionary.to_pylist() if pa.types.is_dictionary(column.type) else []
    column = pc.if_else(pa.array(hidden), pa.scalar(None, column.type), column) if hidden.any() else column
    values, indices = distinct(column)
    found, names = (given.numbers_of(values), given.names) if given else found_in(values, source.neutral)
    if source.missing_label != "error":
        pairs = zip(found, values, strict=True)
        found = [MISSING if number == UNKNOWN and not spelling(value) else number for number, value in pairs]
    numbers = np.array(found, np.int32)[indices]
    if (numbers == UNKNOWN).any():
        at = int(np.argmax(numbers == UNKNOWN))
        value = as_found(column[at].as_py())
        what = "there is no label; fill it in, or leave such rows out with source.missing_label drop"
        if given and value and value.strip():
            known = ", ".join(given.numbers)
            what = f"label {value[:60]!r} is not known; known are {known}; correct the row, or set source.labels"
        raise rows.fail(at, what)
    if given is None:
        check_number(names, rows.part.file)
    return numbers, names, type_of(column.type) if given is None else "text", known


def check_number(classes: Collection[str], file: File) -> None:
    """Raise ``DataError`` for a label column of more than ``MAX_CLASSES`` distinct values."""
    if len(classes) > MAX_CLASSES:
        what = f"column {file.source.label_column!r} has more than {MAX_CLASSES:,} different values: is it the label?"
        mend = "Name another source.label_column, or say in source.labels what they mean"
        raise DataError(f"{file.name}: {what} {mend}")


def split_numbers(rows: Rows) -> np.ndarray:
    """int8: the split that the source names for every row, or ``NO_SPLIT``."""
    file = rows.part.file
    column, known = file.splits.column, file.spellings
    if column is None or file.is_unlabelled:
        return np.full(len(rows), split_number(file.split), np.int8)
    values, indices = distinct(rows.text(column))
    named = [known.get(spelling(value)) for value in values]
    for place, (value, name) in enumerate(zip(values, named, strict=True)):
        if name is None and (value or "").strip():
            what = f"split {value!r} is not known; known are {', '.join(map(str, known))}"
            raise rows.fail(np.argmax(indices == place), f"{what}; say in splits.names which split it means")
    return np.array([split_number(name) for name in named], np.int8)[indices]


def group_hashes(rows: Rows) -> np.ndarray | None:
    """uint64: a hash of every row's group, ``NO_GROUP`` for an empty cell."""
    column = rows.part.file.splits.group_column
    if column is None:
        return None
    values, indices = distinct(rows.text(column))
    hashes = []
    for name in ((value or "").strip() for value in values):
        digest = hashlib.sha256(name.encode()).digest()[:8]
        hashes.append(int.from_bytes(digest, "little") if name else NO_GROUP)
    return np.array(hashes, np.uint64)[indices]


def times_of(rows: Rows) -> dict[str, np.ndarray]:
    """``times`` of the ``Piece``. Raises ``DataError`` for a value that is neither an ISO date nor a number."""
    import pandas as pd

    column = rows.part.file.splits.time_column
    if column is None:
        return {}
    values = [""] * len(rows) if rows.part.file.is_unlabelled else rows.text(column).to_pylist()
    texts = pd.Series(values, dtype=object).fillna("").str.strip()
    number = pd.to_numeric(texts, errors="coerce").replace([np.inf, -np.inf], np.nan)
    dates = pd.to_datetime(texts.where(number.isna()), format="ISO8601", utc=True, errors="coerce")
    strange = number.isna() & dates.isna() & (texts != "")
    if strange.any():
        what = f"{texts[at := int(strange.argmax())][:60]!r} in {column!r} is no date and no number"
        raise rows.fail(at, f"{what}; write dates as 2024-12-31, or name another splits.time_column")
    seconds = (dates - pd.Timestamp(0, tz="UTC").as_unit("s")).dt.total_seconds()
    return {"number": number.to_numpy(float), "date": seconds.to_numpy(float)}
