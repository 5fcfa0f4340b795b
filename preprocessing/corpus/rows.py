# SPDX-License-Identifier: Apache-2.0
"""Reads the rows of one part of a corpus: texts, class numbers, splits, groups and row numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.base.arrays import one_chunk
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import (
    ALL_SPLITS,
    NO_LABEL,
    TEST_NUMBER,
    UNLABELLED_NUMBER,
    VALIDATION_NUMBER,
    split_number,
)
from preprocessing.corpus.sources import File, Part
from preprocessing.corpus.tables import as_text, bad_utf8, fail, joined, read_table
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
SHORT_DATE = r"^(\d\d?)[./-](\d\d?)[./-](\d{4})"
READINGS = {"number": "", "month first": r"\3-\1-\2", "day first": r"\3-\2-\1"}
"""How a column of times may be read -> what ``SHORT_DATE`` is then."""


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
    """With ``splits.time_column``, for each of ``READINGS`` float64: each row's time, dates as seconds since 1970; NaN
    for an empty cell, and for what cannot be read so."""


def read(part: Part) -> Piece:
    """Read one part. Raises ``DataError`` naming file and row."""
    source, table = part.file.source, read_table(part, list(part.file.wanted))
    rows = np.arange(part.cut.first_row, part.cut.first_row + len(table), dtype=np.int64)
    if part.drawn is not None:
        rows = np.array(part.drawn, np.int64)
        table = table.take(rows - part.cut.first_row)
    kept = np.ones(len(table), bool)
    for column, value in source.where.items():
        same = pc.equal(as_text(part, table[column], rows, column), value)
        kept &= pc.fill_null(same, False).to_numpy(zero_copy_only=False)
    filtered = int((~kept).sum())
    table, rows = table.filter(pa.array(kept)), rows[kept]
    split = split_numbers(part, table, rows)
    label, classes, label_type, known = labels_of(part, table, rows, split == UNLABELLED_NUMBER)
    dropped = (label == MISSING) & (source.missing_label == "drop") & (not part.file.is_unlabelled)
    neutral, kept = label == NEUTRAL, (label != NEUTRAL) & ~dropped
    table, rows, label, split = table.filter(pa.array(kept)), rows[kept], label[kept], split[kept]
    texts = joined(part, table, rows)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    if source.missing_text == "error" and missing.any():
        mend = "fill or remove the row, or set source.missing_text to keep"
        raise fail(part, int(rows[np.argmax(missing)]), f"column {source.text_column!r} holds no text; {mend}")
    without = label == MISSING
    measured = without & ((split == VALIDATION_NUMBER) | (split == TEST_NUMBER))
    if measured.any():
        at = int(np.argmax(measured))
        mend = "which needs one; take the row out of it"
        raise fail(part, int(rows[at]), f"there is no label, but the split is {ALL_SPLITS[split[at]]}, {mend}")
    label[without], split[without] = NO_LABEL, UNLABELLED_NUMBER
    return Piece(
        texts=pc.fill_null(texts, ""),
        label=label,
        classes=classes,
        label_type=label_type,
        known=known,
        split=split,
        row=rows + part.offset,
        missing=missing,
        neutral=int(neutral.sum()),
        filtered=filtered,
        without_label=int(dropped.sum()),
        group=group_hashes(part, table, rows),
        times=times_of(part, table, rows),
    )


def labels_of(
    part: Part, table: pa.Table, rows: np.ndarray, hidden: np.ndarray
) -> tuple[np.ndarray, list[str], LabelType | None, list[str]]:
    """int32: the class of every row, ``NEUTRAL`` or, if ``source.missing_label`` allows it, ``MISSING``; and
    ``classes``, ``label_type``, ``known`` of the ``Piece``.

    Values in ``hidden`` rows are not read as labels.
    """
    source, given = part.file.source, part.file.source.label_map()
    if part.file.is_unlabelled:
        return np.full(len(rows), MISSING, np.int32), given.names if given else [], None, []
    column = one_chunk(table[source.label_column])
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raise bad_utf8(part, table[source.label_column], rows, source.label_column) from None
    known = column.dictionary.to_pylist() if pa.types.is_dictionary(column.type) else []
    column = pc.if_else(pa.array(hidden), pa.scalar(None, column.type), column) if hidden.any() else column
    numbers, names = (given.numbers_of(column), given.names) if given else found_in(column, source.neutral)
    if source.missing_label != "error":
        values, indices = distinct(column)
        numbers[(numbers == UNKNOWN) & np.array([not spelling(value) for value in values])[indices]] = MISSING
    if (numbers == UNKNOWN).any():
        at = int(np.argmax(numbers == UNKNOWN))
        value = as_found(column[at].as_py())
        what = f"label {value[:60]!r} is not known" if given and value else "there is no label"
        mend = "fill it in, or leave such rows out with source.missing_label drop"
        mend = f"known are {', '.join(given.numbers)}; correct the row, or set source.labels" if given else mend
        raise fail(part, int(rows[at]), f"{what}; {mend}")
    if given is None:
        check_number(names, part.file)
    return numbers, names, type_of(column.type) if given is None else "text", known


def check_number(classes: Collection[str], file: File) -> None:
    """Raise ``DataError`` for a label column of more than ``MAX_CLASSES`` distinct values."""
    if len(classes) > MAX_CLASSES:
        some = ", ".join(repr(name[:40]) for name in sorted(classes)[:3])
        raise DataError(
            f"{file.name}: column {file.source.label_column!r} has more than {MAX_CLASSES:,} different values "
            f"({some}, …): is it the label? Name another source.label_column, or say in source.labels what they mean"
        )


def split_numbers(part: Part, table: pa.Table, rows: np.ndarray) -> np.ndarray:
    """int8: the split that the source names for every row, or ``NO_SPLIT``."""
    if part.texts:
        return np.array([split_number(part.texts[row - part.cut.first_row][2]) for row in rows], np.int8)
    column, known = part.file.splits.column, part.file.spellings
    if column is None or part.file.is_unlabelled:
        return np.full(len(rows), split_number(part.file.split), np.int8)
    values, indices = distinct(as_text(part, table[column], rows, column))
    named = [known.get(spelling(value)) for value in values]
    for place, (value, name) in enumerate(zip(values, named, strict=True)):
        if name is None and (value or "").strip():
            what = f"split {value!r} is not known; known are {', '.join(map(str, known))}"
            mend = "say in splits.names which split it means"
            raise fail(part, int(rows[np.argmax(indices == place)]), f"{what}; {mend}")
    return np.array([split_number(name) for name in named], np.int8)[indices]


def group_hashes(part: Part, table: pa.Table, rows: np.ndarray) -> np.ndarray | None:
    """uint64: a hash of every row's group, ``NO_GROUP`` for an empty cell."""
    column = part.file.splits.group_column
    if column is None:
        return None
    values, indices = distinct(as_text(part, table[column], rows, column))
    digests = [hashlib.sha256((value or "").strip().encode()).digest()[:8] for value in values]
    hashes = [int.from_bytes(digest, "little") or 1 for digest in digests]
    hashes = [one if (value or "").strip() else NO_GROUP for one, value in zip(hashes, values, strict=True)]
    return np.array(hashes, np.uint64)[indices]


def times_of(part: Part, table: pa.Table, rows: np.ndarray) -> dict[str, np.ndarray]:
    """``times`` of the ``Piece``. Raises ``DataError`` for a value that is neither a date nor a number."""
    import pandas as pd

    column = part.file.splits.time_column
    if column is None:
        return {}
    values = [""] * len(rows) if part.file.is_unlabelled else as_text(part, table[column], rows, column).to_pylist()
    texts = pd.Series(values, dtype=object).fillna("").str.strip()
    whole = texts.where(texts.str.contains(r"\d{4}"))  # pandas would take a year that is missing from today
    found = {"number": pd.to_numeric(texts, errors="coerce")}
    for name in ("month first", "day first"):
        dates = whole.str.replace(SHORT_DATE, READINGS[name], regex=True)
        dates = pd.to_datetime(dates, format="mixed", utc=True, errors="coerce")
        found[name] = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    strange = pd.DataFrame(found).isna().all(axis=1) & (texts != "")
    if strange.any():
        what = f"{texts[at := int(strange.argmax())][:60]!r} in {column!r} is no date with its year, and no number"
        raise fail(part, int(rows[at]), f"{what}; correct it, or name another splits.time_column")
    return {name: times.to_numpy(float) for name, times in found.items()}
