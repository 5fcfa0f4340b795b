# SPDX-License-Identifier: Apache-2.0
"""Writes the rows of files with the predictions for them, as CSV, JSON lines or Parquet; the rows stay as they were."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.rundir.results import join_label_column
from padless.core.errors import ConfigError, DataError
from preprocessing.labels import LIST
from preprocessing.pipeline.parts import Source
from preprocessing.sources import parquet
from preprocessing.sources.convert import read_part
from preprocessing.sources.sources import FORMAT_BY_SUFFIX
from preprocessing.sources.text_files import BYTE_ORDER_MARK
from preprocessing.text.characters import encode

FOLDER_POSITIONS = (3, 0)
"""The file and the text of a folder's row among the columns that the reader gives."""
BLOCK_ROWS = 2048
"""Maximum rows that are written at once."""
Part: TypeAlias = tuple[tuple[Source, pa.Table], pa.Table]
"""The file and the rows of a converted part, and the new columns."""


@dataclass(frozen=True)
class Output:
    """A file of predictions: the columns of its sources, then the new ones."""

    path: Path
    sources: Sequence[Source]
    """Converted with all columns."""
    schema: pa.Schema
    """Of the columns of all sources; of none for JSON, whose objects need not be alike."""
    names: Sequence[str]
    """The new columns."""
    labels_separator: str
    """Between several labels in a CSV file; ``list``: they are written as JSON."""

    @classmethod
    def plan(cls, path: Path, sources: Sequence[Source], names: Sequence[str], labels_separator: str) -> Output:
        """Raises ``DataError`` for files with other columns than the first, and for columns named like the new ones,
        ``ConfigError`` for a format that the rows do not fit.
        """
        first, schema = sources[0], read_schema(sources[0])
        for source in sources:
            if source.file.format != first.file.format or not read_schema(source).equals(schema):
                problem = f"its format, columns or their types are not those of {first.file.name}"
                raise DataError(f"{source.file.name}: {problem}; predict them in two commands")
            if source.file.format == "jsonl":
                refuse_keys(source, names)
        for name in names:
            if name in schema.names:
                raise DataError(f"{first.file.name}: already has a column {name!r}; rename or remove it")
        if first.file.format == "jsonl" != FORMAT_BY_SUFFIX[path.suffix.lower()]:
            raise ConfigError(f"--output {path}: the rows of JSON are written as JSON lines; name a .jsonl file")
        return cls(path, sources, schema, names, labels_separator)

    def write(self, output: BinaryIO, parts: Iterable[Part]) -> None:
        """Write all rows of some parts, with their new columns."""
        if self.sources[0].file.format == "jsonl":
            for (_, rows), columns in parts:
                additions = columns.rename_columns(self.names).to_pylist()
                for line, members in zip(rows["line"].to_pylist(), additions, strict=True):
                    output.write(extend_object(line, members))
            return
        tables = (self.join_columns(source, rows, columns) for (source, rows), columns in parts)
        match FORMAT_BY_SUFFIX[self.path.suffix.lower()]:
            case "parquet":
                first = next(tables)
                with pq.ParquetWriter(output, first.schema) as writer:
                    for table in itertools.chain([first], tables):
                        writer.write_table(table)
            case "jsonl":
                for row in iter_rows(tables):
                    values = dict(zip([*self.schema.names, *self.names], map(finite, row), strict=True))
                    output.write(encode(as_json(values) + "\n"))
            case _:
                self.write_csv(output, iter_rows(tables))

    def write_csv(self, output: BinaryIO, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows with a header, with the delimiter and the byte order mark of the first source."""
        converted = self.sources[0].converted
        output.write(BYTE_ORDER_MARK if converted.has_mark else b"")
        writer = csv.writer(CsvLines(output), delimiter=converted.delimiter.replace("\t", ","))
        writer.writerow([*self.schema.names, *self.names])
        for row in rows:
            writer.writerow(map(field_of, row))

    def join_columns(self, source: Source, rows: pa.Table, columns: pa.Table) -> pa.Table:
        """The rows of a converted part as they were in its file, and the new columns."""
        positions = FOLDER_POSITIONS if source.file.format == "folder" else range(len(self.schema))
        table = pa.table([rows[f"column_{position}"] for position in positions], names=self.schema.names)
        table = table.replace_schema_metadata(self.schema.metadata)
        is_joined = self.labels_separator != LIST and FORMAT_BY_SUFFIX[self.path.suffix.lower()] == "csv"
        for name, column in zip(self.names, columns.columns, strict=True):
            table = table.append_column(name, join_label_column(column, self.labels_separator) if is_joined else column)
        return table


def refuse_keys(source: Source, names: Sequence[str]) -> None:
    """Raise ``DataError`` for the first object of JSON lines that has one of these keys."""
    pattern = "|".join(re.escape(json.dumps(name, ensure_ascii=False)) for name in names) + r"|\\u"
    for part in source.converted.parts:
        table = read_part(source.folder, part)
        candidates = table.filter(pc.match_substring_regex(table["line"].cast(pa.large_binary()), pattern))
        for row, line in zip(candidates["row"].to_pylist(), candidates["line"].to_pylist(), strict=True):
            if keys := sorted({*names} & {*json.loads(line)}):
                raise DataError(f"{source.file.name}: row {row}: already has a key {keys[0]!r}; rename or remove it")


class CsvLines:
    """A file for ``csv.writer``, whose records end at newlines; a carriage return is quoted like its ends."""

    def __init__(self, output: BinaryIO) -> None:
        self.output = output

    def write(self, record: str) -> None:
        """Write a record."""
        self.output.write(encode(f"{record[:-2]}\n"))


def read_schema(source: Source) -> pa.Schema:
    """The columns of a file, of texts except from Parquet; none of JSON."""
    file = source.file
    if file.format == "parquet":
        return parquet.read_footer(file)[1]
    names = {"jsonl": [], "folder": ["file", *file.source.text_columns]}.get(file.format, source.converted.columns)
    return pa.schema([(name, pa.large_string()) for name in names])


def iter_rows(tables: Iterable[pa.Table]) -> Iterator[tuple[Any, ...]]:
    """The rows of tables as values of Python."""
    for table in tables:
        for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
            yield from zip(*map(parquet.values_of, batch.columns), strict=True)


def extend_object(line: bytes, members: dict[str, Any]) -> bytes:
    """A JSON object on a line with more members; its own bytes stay."""
    start = line.rstrip()[:-1]
    separator = b"" if start.rstrip().endswith(b"{") else b", "
    return start + separator + as_json(members)[1:].encode() + b"\n"


def field_of(value: Any) -> Any:
    """A value for a CSV field: JSON unless it is a text, number or date."""
    if isinstance(value, list | dict | bool):
        return as_json(value)
    return as_text(value) if isinstance(value, bytes) else value


def as_json(value: Any) -> str:
    """A value as JSON; dates, times, decimals and bytes become strings."""
    return json.dumps(value, ensure_ascii=False, default=as_text)


def as_text(value: Any) -> str:
    """A value that JSON cannot represent, as a string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def finite(value: Any) -> Any:
    """A value with NaN and infinities replaced by null, since JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
