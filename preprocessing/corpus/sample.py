# SPDX-License-Identifier: Apache-2.0
"""Some rows of a file with all their columns, from its beginning and, where it can be entered anywhere, from all over.

Corpora are often sorted by label, so the first rows alone may hold one class. What is read is bounded, whatever the
size of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from preprocessing.base.errors import DataError
from preprocessing.corpus import addresses
from preprocessing.corpus.delimited import check_width, parse, read_header
from preprocessing.corpus.forms import SAMPLE_BYTES, converted
from preprocessing.corpus.readers import batches_of, footer_of
from preprocessing.corpus.records import Dialect, record_ends
from preprocessing.corpus.sources import File

PLACES, PLACE_BYTES = 8, 1 << 17
"""How many places within a file are looked at beside its beginning, and how much is read there."""
MAX_ROWS = 4000


@dataclass(frozen=True)
class Sample:
    """Some rows of a file."""

    file: File
    """With its form."""
    columns: list[str]
    load: Callable[[], dict[str, list[Any]]]
    """Reads ``values``, which costs more than the names do."""
    first: bytes = b""
    """The first bytes of a text file."""

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """Column -> its values, as texts (CSV), or as JSON or Parquet have them. All lists have the same length."""
        return self.load()


def sample(file: File) -> Sample:
    """Read some rows. Raises ``DataError`` for a file that cannot be read at all; rows that are wrong are left out."""
    if file.format == "parquet":
        return of_parquet(file)
    first = next(addresses.stream(file.address), b"")
    file = file.seen(first)
    assert file.form is not None
    head = next(converted([first], file.form, file.name), b"")[file.form.mark :]
    whole = len(first) < addresses.READ_BYTES and len(head) <= SAMPLE_BYTES
    ends, _ = record_ends(head[:SAMPLE_BYTES], file.dialect, last=whole)
    used = int(ends[-1]) if len(ends) else 0
    if file.format == "jsonl":
        return of_jsonl(file, first, [head[:used] or head, *elsewhere(file)])
    columns = list(file.source.columns) or list(read_header(head, file.name, file.dialect))
    start = 0 if file.source.columns or not len(ends) else int(ends[0])
    return Sample(file, columns, lambda: of_csv(file, columns, head[start:used]), first)


def of_csv(file: File, columns: list[str], head: bytes) -> dict[str, list[Any]]:
    """Rows of CSV; of columns of one name the first."""
    unique = [f"{place}" for place in range(len(columns))]
    tables = [rows_of(head, unique, file.dialect)]
    tables += [rows_of(data, unique, file.dialect).slice(1) for data in elsewhere(file)]
    table = pa.concat_tables(tables)
    values: dict[str, list[Any]] = {}
    for name, column in zip(columns, table.columns, strict=True):
        if name not in values:
            values[name] = [decoded(value) for value in spread(column.to_pylist())]
    return values


def elsewhere(file: File) -> Iterator[bytes]:
    """Whole lines from all over a long file that is read as it lies; none of others."""
    form = file.form
    size = addresses.identity(file.address)["bytes"] or 0
    if form is None or not form.is_plain or addresses.is_compressed(file.address) or size <= 2 * SAMPLE_BYTES:
        return
    for place in range(1, PLACES + 1):
        start = size * place // (PLACES + 1)
        data = addresses.read_range(file.address, start, min(start + PLACE_BYTES, size))
        yield data[data.find(b"\n") + 1 : data.rfind(b"\n") + 1]


def rows_of(data: bytes, columns: list[str], dialect: Dialect) -> pa.Table:
    """The records of some CSV that have as many fields as there are columns."""
    empty = pa.table({name: pa.array([], pa.large_binary()) for name in columns})
    try:
        return parse(data, columns, columns, dialect, lambda row: None) if data else empty
    except pa.ArrowInvalid:
        return empty  # the job itself says what is wrong, and where


def decoded(value: bytes | None) -> str | None:
    """A field as text; a byte that is not UTF-8 does not matter here."""
    return None if value is None else value.decode("utf-8", "replace")


def spread(values: list[Any]) -> list[Any]:
    """At most ``MAX_ROWS`` of some values, from all over them."""
    return values if len(values) <= MAX_ROWS else [values[at * len(values) // MAX_ROWS] for at in range(MAX_ROWS)]


def of_jsonl(file: File, first: bytes, pieces: list[bytes]) -> Sample:
    """Rows of JSON lines; a key that a row lacks is None there."""
    if re.match(rb"\s*\[\s*\{", pieces[0]):
        raise DataError(
            f"{file.name}: one array of JSON, expected one object per line; jq -c '.[]' writes it so, and "
            "padless.prepare takes it as a frame: pandas.read_json"
        )
    records = []
    for line in spread([line for piece in pieces for line in piece.split(b"\n") if line.strip()]):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    columns = list(dict.fromkeys(name for record in records for name in record))
    check_width(file.name, len(columns))
    return Sample(file, columns, lambda: {name: [record.get(name) for record in records] for name in columns}, first)


def of_parquet(file: File) -> Sample:
    """Rows from row groups all over a Parquet file."""
    columns = list(footer_of(file.address, file.name).schema.to_arrow_schema().names)
    return Sample(file, columns, lambda: rows_of_parquet(file))


def rows_of_parquet(file: File) -> dict[str, list[Any]]:
    """Values of the columns that may be texts or labels."""
    values: dict[str, list[Any]] = {}
    with addresses.naming(file.address, file.name), addresses.open_file(file.address) as opened:
        parquet = pa.parquet.ParquetFile(opened)
        groups = parquet.num_row_groups
        flat = [field.name for field in parquet.schema_arrow if not is_heavy(field.type)]
        for group in sorted({groups * place // (PLACES + 1) for place in range(PLACES + 1)}) if groups else []:
            left = MAX_ROWS // min(groups, PLACES + 1)
            for batch in batches_of(parquet, file.name, opened.size(), [group], flat):
                for name in flat:
                    column = batch.column(batch.schema.names.index(name)).slice(0, left)
                    values.setdefault(name, []).extend(column.to_pylist())
                left -= min(left, len(batch))
                if not left:
                    break
    return values


def is_heavy(kind: pa.DataType) -> bool:
    """Whether a column holds bytes or values within values: neither a text nor a label, and perhaps pictures."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return pa.types.is_nested(kind) or is_bytes
