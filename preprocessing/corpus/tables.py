# SPDX-License-Identifier: Apache-2.0
"""The rows of tables of any format, as Arrow columns, some at a time: the one reader of a corpus and of a prediction.

Errors name the file and the row.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from preprocessing.base.arrays import one_chunk
from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import listed, shown
from preprocessing.corpus import addresses, parquet
from preprocessing.corpus.forms import SAMPLE_BYTES, plain
from preprocessing.corpus.records import (
    check_width,
    csv_rows,
    raw,
    read_columns,
    read_header,
    record_ends,
    with_newline,
)
from preprocessing.corpus.sources import File, Part
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

MOST_ROWS, MOST_BYTES = parquet.BATCH_ROWS, parquet.BATCH_BYTES
"""Rows, and bytes of them, that are given together; a longer row is given alone."""
ENCODING = "set source.encoding, or correct the row"
FILE = "file"
"""The column of a folder that says which file a text comes from."""
POSITIONS, POSITION_BYTES = 8, 1 << 17
"""How many positions within a file a sample looks at after its beginning, and how much it reads there."""
SAMPLE_ROWS = 4000
TEXT = pa.large_string()


@dataclass(frozen=True)
class Rows:
    """Some rows of a part, one after the other."""

    first: int
    """The number of the first one in its file, from 1."""
    table: pa.Table
    """Their columns as they were read: bytes from CSV and texts a line, types of its own from Parquet."""
    lines: list[bytes]
    """CSV, JSON lines and texts a line: the records as they were written, line ends and blank lines included."""


def iter_rows(part: Part, columns: Sequence[str] | None = None, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """The rows of a part, a bounded number at a time; all columns unless some are named.

    Values of JSON lines are texts, int64, double or bool where all values of these rows are such, else JSON; ``schema``
    holds the types that they have in the whole file, see ``common_schema``. Raises ``DataError`` for what is no record
    of the format, and for a value of the text column of JSON lines that is no text.
    """
    if part.file.format == "parquet":
        yield from rows_of_parquet(part, part.columns if columns is None else columns)
    elif part.file.format == "folder":
        yield from rows_of_folder(part)
    else:
        row = part.cut.first_row
        for lines, filled in runs_of_lines(part):
            if part.file.format == "csv":
                table = csv_table(part, lines, filled, row, part.columns if columns is None else columns)
            elif part.file.format == "jsonl":
                table = json_table(part, lines, row, schema)
            else:
                texts = pa.array([line.rstrip(b"\r\n") for line in lines], pa.large_binary())
                table = pa.table({part.file.source.text_column: texts})
            yield Rows(row, table, lines)
            row += filled


def read_table(part: Part, wanted: list[str]) -> pa.Table:
    """Some columns of a whole part, as preprocessing reads them. Raises ``DataError`` as ``iter_rows`` does, and for a
    row of JSON lines that lacks one of them.
    """
    if part.file.format == "csv":
        data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
        return csv_table(part, [data], part.cut.rows, part.cut.first_row, wanted)
    if part.file.format == "jsonl":
        lines = addresses.read_range(part.data, part.cut.start, part.cut.stop).split(b"\n")
        return json_table(part, lines, part.cut.first_row, None, wanted)
    table = pa.concat_tables(parquet.decoded(rows.table) for rows in iter_rows(part, wanted))
    label = part.file.source.label_column
    if part.file.format == "parquet" and part.file.source.labels == AUTO and label in wanted:
        with addresses.open_file(part.data) as opened:
            classes = parquet.class_names(pa.parquet.read_schema(opened), label)
        if classes:
            table = table.set_column(wanted.index(label), label, by_name(part, table[label], classes))
    return table


def fail(part: Part, row: int, what: str) -> DataError:
    """The sentence of an error in one row."""
    if part.texts:
        return DataError(f"{part.texts[row - part.cut.first_row][0]}: {what}")
    return DataError(f"{part.file.name}: row {row}: {what}")


def as_text(part: Part, column: pa.ChunkedArray, rows: np.ndarray, name: str) -> pa.Array:
    """A column as large_string, its UTF-8 checked. Numbers become their digits, but are refused as texts."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = any(word in str(kind) for word in ("string", "binary")) and not pa.types.is_nested(kind)
    if name == part.file.source.text_column and not (is_text or column.null_count == len(column)):
        raise DataError(f"{part.file.name}: column {name!r} holds {kind}, not text; set source.text_column")
    try:
        array = one_chunk(column.cast(TEXT))
        array.validate(full=True)
        return array
    except pa.ArrowNotImplementedError:
        raise DataError(f"{part.file.name}: column {name!r} holds {kind}, which is no text or number") from None
    except pa.ArrowInvalid:
        raise bad_utf8(part, column, rows, name) from None


def bad_utf8(part: Part, column: pa.ChunkedArray, rows: np.ndarray, name: str) -> DataError:
    """Find the row and the byte that are not UTF-8."""
    for row, value in zip(rows.tolist(), column.cast(pa.large_binary()).to_pylist(), strict=True):
        try:
            (value or b"").decode()
        except UnicodeDecodeError as error:
            byte = f"byte {error.start} (0x{error.object[error.start]:02x}) of {name!r} is not UTF-8"
            return fail(part, row, f"{byte}; {ENCODING}")
    raise AssertionError("Arrow refused a column in which every value is UTF-8")


def runs_of_lines(part: Part) -> Iterator[tuple[list[bytes], int]]:
    """The records of a part, blank lines behind each of them, some at a time, and how many of them are rows."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    ends, filled = record_ends(data, part.file.dialect, f"{part.file.name}: from row {part.cut.first_row}", last=True)
    is_row = (filled | (part.file.format == "txt")).tolist()
    lines, rows, size = list[bytes](), 0, 0
    for (low, high), counts in zip(itertools.pairwise([0, *ends.tolist()]), is_row, strict=True):
        if counts and (rows == MOST_ROWS or size >= MOST_BYTES):
            yield lines, rows
            lines, rows, size = [], 0, 0
        lines.append(data[low:high])
        rows, size = rows + counts, size + high - low
    if rows:
        yield lines, rows


def csv_table(part: Part, lines: list[bytes], rows: int, first_row: int, wanted: Sequence[str]) -> pa.Table:
    """Some whole records of CSV as columns of bytes, repeated names among them."""
    data = lines[0] if len(lines) == 1 else b"".join(lines)
    all_of_them = tuple(wanted) == part.columns
    places = range(len(wanted)) if all_of_them else [part.columns.index(name) for name in wanted]
    found = read_columns(data, part.file.dialect, len(part.columns), places, rows, part.file.name, first_row)
    return pa.table(found, names=list(wanted))


def json_record(line: bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSON; NaN and infinities are null. Raises ``DataError`` that begins with ``where``."""
    try:
        record = json.loads(line.decode(), parse_constant=lambda _: None)
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} of the line (0x{line[error.start]:02x}) is not UTF-8"
        raise DataError(f"{where}: {byte}; {ENCODING}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON value ({addresses.sentence(error)}); one object per line") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f'{where}: a {kind}, expected an object such as {{"text": "…"}}')
    return record


def json_table(
    part: Part, lines: list[bytes], first_row: int, schema: pa.Schema | None, wanted: Sequence[str] | None = None
) -> pa.Table:
    """All keys of some JSON lines, null where a row lacks one; or those that are ``wanted``.

    Each row must have these, but for a label or a group that may be missing, and a text must be one.
    """
    source = part.file.source
    optional = [source.label_column] if source.missing_label != "error" else []
    optional += [str(part.file.splits.group_column)] if part.file.is_unlabelled else []
    filled = (line for line in lines if line not in (b"", b"\n", b"\r", b"\r\n"))
    records = [json_record(line, f"{part.file.name}: row {row}") for row, line in enumerate(filled, first_row)]
    for row, record in enumerate(records, first_row):
        for name in wanted or [source.text_column]:
            value = record.get(name)
            if wanted and name not in record and name not in optional:
                raise fail(part, row, f"has no key {name!r}; it has {listed(list(record))}")
            if isinstance(value, dict | list) or (name == source.text_column and not isinstance(value, str | None)):
                raise fail(part, row, f"{name!r} is {shown(value)}, expected a text")
    names = wanted or (schema.names if schema else list(dict.fromkeys(name for one in records for name in one)))
    check_width(part.file.name, len(names))
    values = {name: [record.get(name) for record in records] for name in names}
    kinds = schema or pa.schema([(name, json_type(them)) for name, them in values.items()])
    return pa.table({name: json_array(values[name], kinds.field(name).type) for name in names})


def json_type(values: list[Any]) -> pa.DataType:
    """The one type of some values of JSON; text where they have several, and for all else."""
    if any(isinstance(value, str) for value in values):
        return TEXT
    try:
        kind = pa.array(values).type
    except (ValueError, TypeError, OverflowError):
        return TEXT
    return kind if kind in (pa.int64(), pa.float64(), pa.bool_(), pa.null()) else TEXT


def json_array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values of JSON as an array of a type."""
    if pa.types.is_floating(kind):
        values = [None if value is None else float(value) for value in values]
    elif kind == TEXT:
        texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
        values = [text if text is None or text.isascii() else encode(text).decode() for text in texts]
    return pa.array(values, kind)


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """The columns of all pieces of JSON lines, each of the type that holds the values of every piece."""
    found: dict[str, set[pa.DataType]] = {}
    for field in (field for schema in schemas for field in schema):
        found.setdefault(field.name, set()).update({field.type} - {pa.null()})
    kinds = {name: kinds if kinds != {pa.int64(), pa.float64()} else {pa.float64()} for name, kinds in found.items()}
    return pa.schema([(name, its.pop() if len(its) == 1 else TEXT) for name, its in kinds.items()])


def rows_of_parquet(part: Part, wanted: Sequence[str]) -> Iterator[Rows]:
    """A run of rows of a Parquet file."""
    row, stop = part.cut.first_row, part.cut.first_row + part.cut.rows
    with (
        addresses.naming(part.data, f"{part.file.name}: from row {row}"),
        addresses.open_file(part.data) as opened,
        pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as file,
    ):
        for batch in parquet.batches(file, part.file.name, opened.size(), part.cut.start, part.cut.stop, wanted):
            yield Rows(row, pa.Table.from_batches([batch]).select(list(wanted)), [])
            row += len(batch)
    if row != stop:
        what = f"the rows from {row:,} to {stop - 1:,} that its footer tells of are not there: damaged; restore it"
        raise DataError(f"{part.file.name}: {what}")


def by_name(part: Part, column: pa.ChunkedArray, names: list[str]) -> pa.DictionaryArray:
    """A column of numbers of classes as their names, in the order of their numbers; below 0 there is no label."""
    numbers = one_chunk(column).cast(pa.int64())
    beyond = pc.fill_null(pc.greater_equal(numbers, len(names)), False).to_numpy(zero_copy_only=False)
    if beyond.any():
        at = int(np.argmax(beyond))
        what = f"label {numbers[at]} has no name: the file's metadata names {len(names)} classes"
        raise fail(part, part.cut.first_row + at, f"{what}; correct it, or say in source.labels what the numbers mean")
    indices = pc.if_else(pc.less(numbers, 0), pa.scalar(None, pa.int64()), numbers)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, TEXT))


def rows_of_folder(part: Part) -> Iterator[Rows]:
    """Whole text files, with their names and their labels."""
    source, first, size = part.file.source, part.cut.first_row, 0
    rows: list[tuple[str, bytes, str]] = []
    for number, (address, label, _) in enumerate(part.texts, 1):
        name = address.removeprefix(part.file.address).lstrip("/")
        rows.append((name, plain(b"".join(addresses.stream(address)), address, source.encoding), label))
        size += len(rows[-1][1])
        if len(rows) == MOST_ROWS or size >= MOST_BYTES or number == len(part.texts):
            names, texts, labels = zip(*rows, strict=True)
            columns = {FILE: pa.array(names), source.text_column: pa.array(texts, pa.large_binary())}
            columns |= {} if part.file.is_unlabelled else {source.label_column: pa.array(labels)}
            yield Rows(first + number - len(rows), pa.table(columns), [])
            rows, size = [], 0


@dataclass(frozen=True)
class Sample:
    """Some rows of a file with all their columns, from its beginning and, where it can be entered anywhere, from all
    over: corpora are often sorted by label. What is read is bounded, whatever the size of the file.
    """

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
        columns = parquet.footer_of(file.address, file.name).schema.to_arrow_schema().names
        return Sample(file, list(columns), lambda: parquet_values(file))
    first = next(addresses.stream(file.address), b"")
    file, form = file.seen(first)
    if file.format == "txt":
        return Sample(file, [file.source.text_column], dict, first)
    head = next(form.converted([first], file.name), b"")[form.mark :]
    whole = len(head) <= SAMPLE_BYTES and len(first) < addresses.READ_BYTES
    lines = with_newline(head) if whole else head[: head.rfind(b"\n", 0, SAMPLE_BYTES) + 1]
    if file.format == "jsonl":
        records = json_sample(file, [lines or head, *elsewhere(file)])
        columns = list(dict.fromkeys(name for record in records for name in record))
        check_width(file.name, len(columns))
        return Sample(file, columns, lambda: {name: [one.get(name) for one in records] for name in columns}, first)
    columns = list(file.source.columns) or list(read_header(head, file.name, file.dialect))
    return Sample(file, columns, lambda: csv_values(file, columns, lines), first)


def csv_values(file: File, columns: list[str], head: bytes) -> dict[str, list[Any]]:
    """Rows of CSV that have as many fields as there are columns; of columns of one name the first."""
    found = [row for data in (head, *elsewhere(file)) for _, row in csv_rows(data, file.dialect, file.name)]
    rows = spread([row for row in found if len(row) == len(columns)][0 if file.source.columns else 1 :])
    places = {name: place for place, name in reversed(list(enumerate(columns)))}
    return {name: [raw(row[places[name]]).decode("utf-8", "replace") for row in rows] for name in columns}


def elsewhere(file: File) -> Iterator[bytes]:
    """Whole lines from all over a long file that is read as it lies; none of others."""
    size = addresses.identity(file.address)["bytes"] or 0
    is_plain = file.form is not None and file.form.is_plain and not addresses.is_compressed(file.address)
    for place in range(1, POSITIONS + 1) if is_plain and size > 2 * SAMPLE_BYTES else ():
        start = size * place // (POSITIONS + 1)
        data = addresses.read_range(file.address, start, min(start + POSITION_BYTES, size))
        yield data[data.find(b"\n") + 1 : data.rfind(b"\n") + 1]


def spread(values: list[Any]) -> list[Any]:
    """At most ``SAMPLE_ROWS`` of some values, from all over them."""
    return values[:: 1 + len(values) // (SAMPLE_ROWS + 1)]


def json_sample(file: File, pieces: list[bytes]) -> list[dict[str, Any]]:
    """Objects of JSON lines."""
    if re.match(rb"\s*\[\s*\{", pieces[0]):
        raise DataError(
            f"{file.name}: one array of JSON, expected one object per line; jq -c '.[]' writes it so, and "
            "padless.prepare takes it as a frame: pandas.read_json"
        )
    records = []
    for line in spread([line for piece in pieces for line in piece.split(b"\n") if line.strip()]):
        try:
            records.append(json_record(line, file.name))
        except DataError:
            continue
    return records


def parquet_values(file: File) -> dict[str, list[Any]]:
    """Values of the columns that may be texts or labels, from row groups all over a Parquet file."""
    values: dict[str, list[Any]] = {}
    with addresses.naming(file.address, file.name), addresses.open_file(file.address) as opened:
        opened_parquet = pa.parquet.ParquetFile(opened)
        flat = [field.name for field in opened_parquet.schema_arrow if not is_heavy(field.type)]
        rows = [opened_parquet.metadata.row_group(group).num_rows for group in range(opened_parquet.num_row_groups)]
        begins = list(itertools.accumulate(rows, initial=0))
        chosen = {len(rows) * place // (POSITIONS + 1) for place in range(POSITIONS + 1)} if rows else set()
        for group in sorted(chosen):
            begin, stop = begins[group], begins[group] + min(rows[group], SAMPLE_ROWS // len(chosen))
            for batch in parquet.batches(opened_parquet, file.name, opened.size(), begin, stop, flat):
                for name in flat:
                    values.setdefault(name, []).extend(batch.column(name).to_pylist())
    return values


def is_heavy(kind: pa.DataType) -> bool:
    """Whether a column holds bytes or values within values: neither a text nor a label, and perhaps pictures."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_nested(kind) or "binary" in str(kind)
