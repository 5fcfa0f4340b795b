# SPDX-License-Identifier: Apache-2.0
"""Reads JSON: an object a line, or one list of objects."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from padless.core.errors import DataError
from padless.core.untrusted import one_line, quote_value
from preprocessing.labels import join_lists
from preprocessing.sources.batches import LINE, TEXT, Reader, SourceBatch
from preprocessing.sources.sources import File
from preprocessing.sources.text_files import LineReader
from preprocessing.text.characters import encode

DECODER = json.JSONDecoder(parse_constant=lambda _: None)
"""Reads NaN and infinities, which Python writes, as null."""


class JsonReader(Reader):
    """Objects of JSON."""

    def __init__(self, file: File, chunks: Iterator[bytes]) -> None:
        lines = LineReader(file, chunks)
        if lines.look_ahead().lstrip().startswith(b"["):
            lines.chunks = iter([list_as_lines(lines.chunks, file.name)])
        lines.columns, lines.skip_blank = [LINE], True
        self.lines = lines.batches(keep_columns=True)
        first = list(itertools.islice(self.lines, 1))
        self.lines = itertools.chain(first, self.lines)
        self.records = [record for batch in first for record in parse_objects(batch)]
        """Those of the first batch."""
        keys = dict.fromkeys(key for record in self.records for key in record)
        super().__init__(file, [*keys], lines.read_as)

    def batches(self, keep_columns: bool = False) -> Iterator[SourceBatch]:
        """The values of the wanted columns, which are no objects; lists of labels are label sets."""
        for batch in self.lines:
            records, columns = parse_objects(batch), dict[str, pa.Array]()
            for name in self.file.key_by_column:
                values = [record.get(name) for record in records]
                if name == self.file.source.label_column:
                    values = batch.join_lists(values)
                for row, value in enumerate(values):
                    if isinstance(value, list | dict):
                        raise batch.error(row, f"{name!r} is {quote_value(value)}, expected a text")
                columns[name] = column_of_json(values)
            columns[LINE] = batch.table[LINE]
            yield SourceBatch(self.file, batch.numbers, pa.table(columns))

    def read_sample(self) -> dict[str, list[Any]]:
        """The values of the first batch, lists as label sets; none of columns with objects."""
        columns: dict[str, list[Any]] = {}
        for name in self.columns:
            values = [record.get(name) for record in self.records]
            columns[name] = [] if dict in map(type, values) else join_lists(values)
        return columns


def list_as_lines(chunks: Iterable[bytes], name: str) -> bytes:
    """A list of objects of JSON as JSON lines. Raises ``DataError`` for another value."""
    try:
        records = DECODER.decode(b"".join(chunks).decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name}: not a list of JSON ({one_line(error)}); correct it") from None
    return b"".join(encode(json.dumps(record, ensure_ascii=False)) + b"\n" for record in records)


def parse_objects(batch: SourceBatch) -> list[dict[str, Any]]:
    """The objects in some lines. Raises ``DataError`` for another value."""
    records = batch.table[LINE].to_pylist()
    for row, line in enumerate(records):
        try:
            records[row] = DECODER.decode(line.decode())
        except (ValueError, RecursionError) as error:
            problem = f"not a JSON value ({one_line(error)}); write one object a line, or one list of objects"
            raise batch.error(row, problem) from None
        if not isinstance(records[row], dict):
            problem = f'a {type(records[row]).__name__}, expected an object such as {{"text": "…"}}'
            raise batch.error(row, problem)
    return records


def column_of_json(values: Sequence[Any]) -> pa.Array:
    """The values at a key as a column of numbers or booleans, if all are; else of texts."""
    try:
        column = pa.array(values)
        return column.cast(TEXT) if column.type == pa.string() else column
    except (ValueError, TypeError, OverflowError):
        return pa.array(map(text_of_json, values), TEXT)


def text_of_json(value: Any) -> str | None:
    """A value of JSON as a text; lone surrogates are replaced."""
    if value is None:
        return None
    return encode(value if isinstance(value, str) else json.dumps(value)).decode()
