# SPDX-License-Identifier: Apache-2.0
"""What a user may not have meant: columns of splits or groups that nothing uses, and labels that are lists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from preprocessing.base.arrow import one_chunk
from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses, forms
from preprocessing.corpus.detection import SPLIT_NAMES
from preprocessing.corpus.readers import read_table
from preprocessing.corpus.sources import Part
from preprocessing.labels import AUTO, is_list

GROUP_NAMES = re.compile(
    r"(.+[_\- ]|)(film|movie|user|username|product|item|author|writer|thread|customer|client|reviewer|speaker|patient|"
    r"conversation|dialogue|session|business|restaurant|hotel|seller|brand|book|album|artist|domain|asin)s?"
    r"([_\- ]?(id|name|title))?|.+[_\- ]id|.+[a-z]Id",
    re.IGNORECASE,
)
"""What columns of groups are called; ``id`` alone is the row's own."""
ONE = "keep one label a row, or say in source.labels what each combination means"
LOOKED_AT = 2000
"""Rows at the start of a file whose values are compared."""


def columns_of(part: Part) -> list[str]:
    """The names of all columns of a part's file; of JSON lines, the keys of the first."""
    if part.file.format == "csv":
        return list(part.columns)
    if part.file.format == "parquet":
        with addresses.open_file(part.data) as opened:
            return list(pa.parquet.read_schema(opened).names)
    if part.file.format == "jsonl":
        return list(first_record(part))
    return []


def first_record(part: Part) -> dict[str, Any]:
    """The object in the first line of a part of JSON lines."""
    data = addresses.read_range(part.data, part.cut.start, min(part.cut.stop, part.cut.start + (1 << 20)))
    line = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").partition(b"\n")[0]
    try:
        record = json.loads(line)
    except ValueError:
        return {}  # a line longer than what was read; the job itself reads it whole
    return record if isinstance(record, dict) else {}


def unused_split(part: Part) -> str | None:
    """A sentence if the file has a column of splits that nothing uses."""
    file = part.file
    if file.split is not None or file.splits.column is not None:
        return None
    for name in columns_of(part):
        if name.casefold() in SPLIT_NAMES and name not in file.wanted:
            return (
                f"{file.name}: column {name!r} is not used: rows of all its splits are mixed; set splits.column {name}"
            )
    return None


def unused_group(part: Part) -> str | None:
    """A sentence if the file has a column that looks like one of groups, and validation is cut without it."""
    for name in columns_of(part):
        if GROUP_NAMES.fullmatch(name) and name not in part.file.wanted:
            values = pc.drop_null(first_values(part, name))
            different = pc.count_distinct(values).as_py() if len(values) else 0
            if 1 < different < len(values):
                what = f"column {name!r} looks like a group (in its first {len(values):,} rows {different:,} values)"
                why = "splits are cut without it, so validation may flatter"
                return f"{part.file.name}: {what}; {why}: see splits.group_column"
    return None


def listed_labels(part: Part) -> str | None:
    """A sentence if the cells of the label's column look like lists, each of which becomes a class of its own."""
    source = part.file.source
    if source.labels != AUTO or part.file.format == "folder" or source.label_column not in columns_of(part):
        return None
    names = pc.drop_null(pc.unique(first_values(part, source.label_column))).to_pylist()
    if not is_list(names):
        return None
    some = next(name for name in names if re.search("[,;|]", name))
    what = f"column {source.label_column!r} looks like several labels in one cell ({some[:60]!r})"
    return f"{part.file.name}: {what}; each combination is a class of its own, and a text is given one of them: {ONE}"


def first_values(part: Part, column: str) -> pa.Array:
    """The first values of one column, as texts; none where they cannot be read as such."""
    try:
        values = read_table(part, [column])[column].slice(0, LOOKED_AT)
        return one_chunk(pc.cast(values, pa.large_string()))
    except (DataError, pa.ArrowException):
        return pa.array([], pa.large_string())  # a column that nobody named gives no hint, and no error either


def hints(parts: list[Part], validation_is_cut: bool) -> Iterator[str]:
    """What is to be said of each file, looked for in its first part. How the first one is read was said before."""
    seen: set[str] = set()
    for part in parts:
        if part.file.address not in seen:
            seen.add(part.file.address)
            form = part.file.form
            said = forms.in_words(form, part.file.expected) if form and len(seen) > 1 else []
            yield from [f"source: {part.file.name}: {', '.join(said)}"] if said else []
            if part.file.is_unlabelled:
                continue
            found = [listed_labels(part), unused_split(part)]
            found += [unused_group(part)] if validation_is_cut and not part.file.splits.group_column else []
            yield from (f"hint: {sentence}" for sentence in found if sentence)
