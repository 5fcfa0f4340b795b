# SPDX-License-Identifier: Apache-2.0
"""Read columns of one part of a corpus, whatever its format. Errors name the file and the row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from preprocessing.base.arrow import one_chunk
from preprocessing.base.errors import DataError
from preprocessing.base.untrusted import check_unpacked, listed, shown
from preprocessing.corpus import addresses
from preprocessing.corpus.delimited import check_width, parse
from preprocessing.corpus.encodings import UTF8, as_utf8, recognised
from preprocessing.corpus.forms import BYTE_ORDER_MARK
from preprocessing.corpus.sources import Part
from preprocessing.labels import AUTO, as_found, spelling
from preprocessing.text.characters import encode

BATCH_ROWS, BATCH_BYTES = 1024, 4 << 20
"""Rows of Parquet, or bytes of them, that are given at once."""
DECODED_BYTES, FEWEST_ROWS = 64 << 20, 4
"""Bytes that are decoded at once, if every row held all that its pages hold; and rows that are in any case."""
ROW_BYTES = 16
"""What a row needs in memory at least."""
ENCODING = "set source.encoding, or mend the row"


def read_table(part: Part, wanted: list[str]) -> pa.Table:
    """Some columns of a part, as they are. Raises ``DataError`` for what is no record of the format."""
    kinds = {"csv": read_csv, "jsonl": read_jsonl, "parquet": read_parquet, "folder": read_folder}
    return kinds[part.file.format](part, wanted)


def fail(part: Part, row: int, what: str) -> DataError:
    """The sentence of an error in one row."""
    if part.texts:
        return DataError(f"{part.texts[row - part.cut.first_row][0]}: {what}")
    return DataError(f"{part.file.name}: row {row}: {what}")


def as_text(part: Part, column: pa.ChunkedArray, rows: np.ndarray, name: str) -> pa.Array:
    """A column as large_string, its UTF-8 checked. Numbers become their digits, but are refused as texts."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if name == part.file.source.text_column and not (is_text or is_bytes or column.null_count == len(column)):
        raise DataError(f"{part.file.name}: column {name!r} holds {kind}, not text; set source.text_column")
    try:
        texts = column.cast(pa.large_string())
        array = one_chunk(texts)
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


def read_csv(part: Part, wanted: list[str]) -> pa.Table:
    """The wanted columns as bytes."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    ragged: list[Any] = []
    try:
        table = parse(data, part.columns, wanted, part.file.dialect, ragged.append)
    except pa.ArrowInvalid as error:
        raise DataError(f"{part.file.name}: near row {part.cut.first_row}: {addresses.sentence(error)}") from None
    if ragged:
        first = ragged[0]
        what = f"{first.actual_columns} fields, the header has {first.expected_columns}"
        raise fail(
            part,
            part.cut.first_row + first.number - 1,
            f"{what}; mend the row, or set source.delimiter, quote or escape",
        )
    if len(table) != part.cut.rows:
        what = f"{len(table)} rows where {part.cut.rows} lines end"
        raise DataError(f"{part.file.name}: from row {part.cut.first_row}: {what}; line ends must be \\n or \\r\\n")
    return table


def read_jsonl(part: Part, wanted: list[str]) -> pa.Table:
    """One JSON object per line; the wanted keys of each."""
    data = addresses.read_range(part.data, part.cut.start, part.cut.stop)
    source = part.file.source
    optional = {source.label_column} if source.missing_label != "error" else set()
    if part.file.is_unlabelled and part.file.splits.group_column:
        optional.add(part.file.splits.group_column)
    values: dict[str, list[Any]] = {name: [] for name in wanted}
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line not in (b"", b"\r")]
    for row, line in enumerate(lines, part.cut.first_row):
        record = json_record(line, f"{part.file.name}: row {row}")
        for name in wanted:
            if name not in record and name not in optional:
                raise fail(part, row, f"has no key {name!r}; it has {listed(list(record))}")
            value = record.get(name)
            text = scalar(value, f"{part.file.name}: row {row}: {name!r}", name == source.text_column)
            is_typed = name == source.label_column and isinstance(value, bool | int | float)
            values[name].append(value if is_typed else text)
    return pa.table(
        {
            name: of_one_type(column) if name == source.label_column else pa.array(column, pa.large_string())
            for name, column in values.items()
        }
    )


def of_one_type(values: list[Any]) -> pa.Array:
    """The labels of some rows of JSON, as numbers or booleans where all of them are such, else as texts."""
    try:
        return pa.array([None if value != value else value for value in values])
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([as_found(value) for value in values], pa.large_string())


def json_record(line: bytes, where: str) -> dict[str, Any]:
    """The object in a line of JSON. Raises ``DataError`` that begins with ``where``."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} of the line (0x{line[error.start]:02x}) is not UTF-8"
        raise DataError(f"{where}: {byte}; {ENCODING}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a JSON value ({addresses.sentence(error)}); one object per line") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise DataError(f'{where}: a {kind}, expected an object such as {{"text": "…"}}')
    return record


def scalar(value: Any, where: str, is_text: bool) -> str | None:
    """A JSON value as text; null and NaN are none. Raises ``DataError`` that begins with ``where``."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return encode(value).decode() if not value.isascii() else value
    if is_text or isinstance(value, (dict, list)):
        raise DataError(f"{where} is {shown(value)}, expected a text")
    return str(value)


def footer_of(address: str, name: str) -> pa.parquet.FileMetaData:
    """What a Parquet file says of itself.

    Raises ``DataError`` for what is no Parquet file, and for one of too many columns, or of more rows or bytes than so
    few bytes hold texts.
    """
    with addresses.open_file(address) as opened:
        try:
            footer = pa.parquet.read_metadata(opened)
            footer.schema.to_arrow_schema()
            size = opened.size()
        except (*addresses.FAILURES, UnicodeDecodeError) as error:
            raise DataError(f"{name}: not a Parquet file ({addresses.sentence(error)})") from None
    check_width(name, footer.num_columns)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    check_unpacked(name, max(ROW_BYTES * footer.num_rows, sum(group.total_byte_size for group in groups)), size)
    return footer


def batches_of(
    file: pa.parquet.ParquetFile,
    name: str,
    size: int,
    groups: list[int],
    columns: list[str] | None,
    rows: int = BATCH_ROWS,
) -> Iterator[pa.RecordBatch]:
    """About so many ``rows`` at a time of some row groups of a Parquet file of ``size`` bytes, fewer if they are long.

    A value may be as long as the pages of its column and stand in every row, which no footer tells. Raises
    ``DataError`` where they become far more bytes than texts of such a file do.
    """
    largest = max((file.metadata.row_group(group).total_byte_size for group in groups), default=0)
    few = max(FEWEST_ROWS, min(rows, DECODED_BYTES // max(largest, 1)))
    held: list[pa.RecordBatch] = []
    unpacked = held_bytes = 0
    for batch in file.iter_batches(few, row_groups=groups, columns=columns, use_threads=False):
        bytes_here = decoded(batch).nbytes
        unpacked, held_bytes = unpacked + bytes_here, held_bytes + bytes_here
        check_unpacked(name, unpacked, size)
        held.append(batch)
        if sum(map(len, held)) >= rows or held_bytes >= BATCH_BYTES:
            yield as_one(held)
            held, held_bytes = [], 0
    if held:
        yield as_one(held)


def as_one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Some record batches as one."""
    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def read_parquet(part: Part, wanted: list[str]) -> pa.Table:
    """A run of rows of one row group; the rows before it are skipped batch by batch."""
    batches, position, asked = [], 0, part.cut.stop - part.cut.start
    with (
        addresses.naming(part.data, f"{part.file.name}: row group {part.group}"),
        addresses.open_file(part.data) as opened,
        pa.parquet.ParquetFile(opened, buffer_size=1 << 20) as file,
    ):
        names = [name for name in wanted if name in file.schema_arrow.names]
        fields = [file.schema_arrow.field(name) for name in names]
        batches.append(decoded(pa.RecordBatch.from_pylist([], schema=pa.schema(fields))))  # a row group may be empty
        for batch in batches_of(file, part.file.name, opened.size(), [part.group], wanted):
            start, stop = part.cut.start - position, part.cut.stop - position
            position += len(batch)
            if stop > 0 and start < len(batch):
                rows = batch.select(names).slice(max(start, 0), min(stop, len(batch)) - max(start, 0))
                batches.append(decoded(rows))
            if stop <= len(batch):
                break
        label = part.file.source.label_column
        classes = class_names(file.schema_arrow, label) if part.file.source.labels == AUTO else []
    table = pa.Table.from_batches(batches).select(wanted)
    if len(table) != asked:
        which = f"row group {part.group}: has {len(table):,} of the {asked:,} rows from row {part.cut.first_row:,} on"
        raise DataError(f"{part.file.name}: {which} that its footer tells of: damaged; restore it")
    if classes and label in wanted:
        table = table.set_column(wanted.index(label), label, by_name(part, table[label], classes))
    return table


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names that Hugging Face's datasets wrote beside a column of numbers (``ClassLabel``); none if it did not."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        is_named = feature["_type"] == "ClassLabel" and isinstance(feature["names"], list)
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return list(map(str, feature["names"])) if is_named and pa.types.is_integer(schema.field(column).type) else []


def by_name(part: Part, column: pa.ChunkedArray, names: list[str]) -> pa.DictionaryArray:
    """A column of numbers of classes as their names, but for those in ``source.neutral``; below 0 there is no label.

    The dictionary has all names in the order of their numbers.
    """
    numbers = one_chunk(column).cast(pa.int64())
    beyond = pc.fill_null(pc.greater_equal(numbers, len(names)), False).to_numpy(zero_copy_only=False)
    if beyond.any():
        at = int(np.argmax(beyond))
        what = f"label {numbers[at]} has no name: the file's metadata names {len(names)} classes"
        raise fail(part, part.cut.first_row + at, f"{what}; mend it, or say in source.labels what the numbers mean")
    neutral = {spelling(value) for value in part.file.source.neutral} - {spelling(name) for name in names}
    known = [str(number) if str(number) in neutral else name for number, name in enumerate(names)]
    indices = pc.if_else(pc.less(numbers, 0), pa.scalar(None, pa.int64()), numbers)
    return pa.DictionaryArray.from_arrays(indices, pa.array(known, pa.large_string()))


def plain(content: bytes, name: str, encoding: str) -> bytes:
    """A whole text file as UTF-8, without a byte order mark."""
    encoding = recognised(content, name) if encoding == AUTO else encoding
    return b"".join(as_utf8([content], encoding, name)) if encoding != UTF8 else content.removeprefix(BYTE_ORDER_MARK)


def decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose dictionary columns, as pandas writes categories, hold their values."""
    columns = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
    return pa.record_batch(
        {
            name: column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
            for name, column in columns.items()
        }
    )


def read_folder(part: Part, wanted: list[str]) -> pa.Table:
    """Whole text files with their labels; a folder has no other columns."""
    system, _ = addresses.filesystem(part.data)
    source = part.file.source
    texts = []
    for address, _, _ in part.texts:
        with addresses.naming(address), addresses.raw(system, addresses.filesystem(address)[1]) as opened:
            texts.append(plain(opened.read(), address, source.encoding))
    labels = pa.array([label for _, label, _ in part.texts])
    columns = {source.text_column: pa.array(texts, pa.large_binary()), source.label_column: labels}
    return pa.table(columns)
