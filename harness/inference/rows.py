# SPDX-License-Identifier: Apache-2.0
"""Rows of new files: finds the files of an input and their text column, and writes each row with its prediction.

``preprocessing.corpus`` reads them, like the training corpus unless the user sets ``source``.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from harness.inference.config import STDIN
from harness.rundir.bundle_files import reading_of
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import tell
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses, parquet
from preprocessing.corpus.columns import resolve_unlabelled
from preprocessing.corpus.convert import read_part
from preprocessing.corpus.readers import BYTE_ORDER_MARK, is_header, open_reader, parse_object, table_of_json
from preprocessing.corpus.sources import File, list_files
from preprocessing.job.parts import Source
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

TEXT = "text"
AVAILABLE_BYTES = 1 << 16
"""Maximum bytes of one read from standard input."""
FOLDER_POSITIONS = (3, 0)
"""The file and the text of a folder's row among the columns that the reader gives."""
BLOCK_ROWS = 2048
"""Maximum rows that are encoded and scored, or written, at once."""
GROUP_ROWS = 1 << 16
"""Maximum rows of a Parquet row group."""


def find_files(
    names: Sequence[str], kind: str, given: SourceConfig, known: Mapping[str, Any], work: Path
) -> list[File]:
    """Every file of the given names, in their order; standard input is copied into ``work``.

    ``kind`` is ``auto`` or a format. Files are read as ``given``, and where that is unset, like the training corpus,
    whose ``known`` options are in the bundle. Their texts are in the column that is given, else in that of the corpus,
    else in the one that is found as in preprocessing. Raises ``DataError`` for a missing or unreadable file,
    ``ConfigError`` for a file of unknown kind.
    """
    copy = work / "input.txt"
    if STDIN in names:
        with open(copy, "wb") as output:  # so that it can be read twice
            shutil.copyfileobj(sys.stdin.buffer, output, addresses.READ_BYTES)
    trained = reading_of(given, known)
    paths = [str(copy) if name == STDIN else name for name in names]
    options: dict[str, Any] = {"path": [], "unlabelled_path": paths, "format": kind}
    options |= {"missing_text": "keep", "where": {}}  # every row is in the output, or refused by --missing
    files = [
        with_source(file, text_column=given.text_column) for file in list_new_files(replace(trained, **options), given)
    ]
    files = [replace(file, name="standard input") if file.address == str(copy) else file for file in files]
    if given.text_column != AUTO:
        return files
    lines, resolved = list[str](), list[File]()
    text_column = TEXT if files[0].format in ("folder", "txt") else trained.text_column
    chosen = {"text_column": text_column, "label_column": trained.label_column}
    for file in files:
        chosen["columns"] = file.source.columns
        resolved += resolve_unlabelled([file], chosen, [] if resolved else lines)
    for line in lines:
        tell(line)
    return resolved


def list_new_files(source: SourceConfig, given: SourceConfig) -> list[File]:
    """The files of new rows; those with a header are read by it, unless the columns are ``given``. Raises ``DataError``
    for a missing one.
    """
    for name, _ in source.addresses:
        if addresses.kind(addresses.find(name)[0]) == fs.FileType.NotFound:
            raise DataError(f"{name}: no such file; check --input")
    files = list(list_files(source, SplitConfig(column=None)))
    return [file if given.columns or not has_own_header(file) else with_source(file, columns=[]) for file in files]


def with_source(file: File, **options: Any) -> File:
    """A file that is read by other options."""
    return replace(file, source=replace(file.source, **options))


def has_own_header(file: File) -> bool:
    """Whether a table has a header, although the training corpus, whose columns are ``source.columns``, had none."""
    if not file.source.columns or file.format not in ("csv", "xlsx"):
        return False
    first_row = open_reader(with_source(file, columns=[])).columns
    return len(first_row) != len(file.source.columns) or is_header(first_row, file.source)


def find_text_column(files: list[File], given: SourceConfig) -> list[File]:
    """Labelled files; their text column is found anew if none is ``given`` and the first lacks that of the training."""
    columns = {*open_reader(files[0]).columns}
    names = [name.partition(".")[0] for name in files[0].source.text_columns if name not in columns]
    if given.text_column != AUTO or columns.issuperset(names):
        return files
    return [with_source(file, text_column=AUTO) for file in files]


def refuse_input(output: Path, files: Iterable[File]) -> None:
    """Raise ``ConfigError`` if the output is one of the inputs, links included."""
    here = [addresses.local_path(file.address) for file in files if not addresses.is_remote(file.address)]
    if output.exists() and any(output.samefile(path) for path in here):
        raise ConfigError(f"--output {output}: is the input; name another --output")


def lines_of_stdin() -> Iterator[list[str]]:
    """Lists of the texts on standard input, one per line, as they arrive. Raises ``DataError`` if there are none."""
    if sys.stdin.isatty():
        print("one text a line; Ctrl-D ends", file=sys.stderr)
    stdin: Any = sys.stdin.buffer
    rest, number = b"", 0
    while piece := stdin.read1(AVAILABLE_BYTES):
        *lines, rest = (rest + piece).split(b"\n")
        if lines:
            yield [text_of(line, at) for at, line in enumerate(lines, number + 1)]
            number += len(lines)
    if rest:
        yield [text_of(rest, number + 1)]
    elif not number:
        raise DataError("standard input: holds no text; give one a line")


def text_of(line: bytes, number: int) -> str:
    """The text of a line of standard input."""
    try:
        return line.removeprefix(BYTE_ORDER_MARK if number == 1 else b"").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8"
        raise DataError(f"standard input: line {number}: {byte}; convert it with iconv -t utf-8") from None


def iter_texts(files: Sequence[File]) -> Iterator[str]:
    """All texts of some files; a row without one is an empty text. Raises ``DataError`` if there are no rows."""
    num_rows = 0
    for file in files:
        for batch in open_reader(file).batches():
            num_rows += len(batch)
            yield from (text or "" for text in batch.texts().to_pylist())
    if not num_rows:
        raise DataError(f"{files[0].name}: holds no rows")


@dataclass(frozen=True)
class Layout:
    """How rows are written with their predictions."""

    kind: str
    """csv, tsv, jsonl or parquet."""
    names: list[str]
    """The new columns."""
    sources: Sequence[Source]
    """Converted with all columns."""
    schema: pa.Schema
    """Of the columns of all sources."""

    @classmethod
    def choose(cls, kind: str, names: list[str], sources: Sequence[Source]) -> Layout:
        """Raises ``DataError`` for files with other columns than the first file, and for columns named like the new
        ones.
        """
        file, expected = sources[0].file, describe_columns(sources[0])
        for source in sources:
            if (described := describe_columns(source)) != expected:
                problem = f"its columns ({described}) are not those of {file.name} ({expected})"
                raise DataError(f"{source.file.name}: {problem}; predict them in two commands")
        schema = read_schema(sources)
        if taken := next((name for name in names if name in schema.names), None):
            problem = f"already has a column {taken!r}; rename it, or set --prefix, which is put before the names"
            raise DataError(f"{file.name}: {problem} of the new columns")
        return cls(kind, names, sources, schema)

    def write(self, output: BinaryIO, predictions: Iterator[pa.Table]) -> None:
        """Write all rows, with the new columns of each part."""
        parts = zip(iter_parts(self.sources), predictions, strict=True)
        if self.kind == self.sources[0].file.format == "jsonl":
            for (_, rows), added in parts:
                members = map(as_json, added.rename_columns(self.names).to_pylist())
                output.writelines(map(extend_object, rows["line"].to_pylist(), members))
            return
        tables = (
            join_columns(original_columns(source.file, rows, self.schema), added, self.names)
            for (source, rows), added in parts
        )
        if self.kind == "parquet":
            first = next(tables)
            with pq.ParquetWriter(output, first.schema) as writer:
                for table in itertools.chain([first], tables):
                    writer.write_table(table, GROUP_ROWS)
            return
        rows = itertools.chain.from_iterable(map(iter_rows, tables))
        names = [*self.schema.names, *self.names]
        if self.kind == "jsonl":
            objects = (as_json(dict(zip(names, map(finite, row), strict=True))) for row in rows)
            output.writelines(encode(f"{line}\n") for line in objects)
            return
        converted = self.sources[0].converted
        output.write(BYTE_ORDER_MARK if converted.has_mark else b"")
        delimiter = "\t" if self.kind == "tsv" else converted.delimiter.replace("\t", ",")
        writer = csv.writer(CsvLines(output), delimiter=delimiter)
        writer.writerows(itertools.chain([names], (map(field_of, row) for row in rows)))


class CsvLines:
    """A file for ``csv.writer``, whose records end at newlines; a carriage return is quoted like its ends."""

    def __init__(self, output: BinaryIO) -> None:
        self.output = output

    def write(self, record: str) -> None:
        """Write a record."""
        self.output.write(encode(f"{record[:-2]}\n"))


def iter_parts(sources: Iterable[Source]) -> Iterator[tuple[Source, pa.Table]]:
    """The converted parts of some files, each with its file."""
    for source in sources:
        for part in source.converted.parts:
            yield source, read_part(source.folder, part)
            pa.default_memory_pool().release_unused()  # or it grows with the number of parts


def read_schema(sources: Sequence[Source]) -> pa.Schema:
    """The columns of some files of one format: with the types of the first file from Parquet, with types for all values
    from JSON, else texts.
    """
    file, columns = sources[0].file, sources[0].converted.columns
    if file.format == "parquet":
        return parquet.read_footer(file.address, file.name)[1]
    if file.format != "jsonl":
        columns = ["file", *file.source.text_columns] if file.format == "folder" else columns
        return pa.schema([(name, pa.string()) for name in columns])
    types = dict[str, pa.DataType]()
    for source, rows in iter_parts(sources):
        records, texts = parse_rows(source.file, rows), source.file.source.text_columns
        names = dict.fromkeys([*(key for record in records for key in record), *texts])
        parquet.check_width(file.name, len(names))
        for column in table_of_json(records, names).schema:
            types[column.name] = widen_type(types.get(column.name, column.type), column.type)
    return pa.schema(types)


def parse_rows(file: File, rows: pa.Table) -> list[dict[str, Any]]:
    """The objects of a converted part of JSON."""
    lines = zip(rows["line"].to_pylist(), rows["row"].to_pylist(), strict=True)
    return [parse_object(line, file, number) for line, number in lines]


def widen_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type of a column of JSON for the values of two types."""
    types = {one, other} - {pa.null()}
    if types == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.large_string() if len(types) > 1 else types.pop() if types else pa.null()


def describe_columns(source: Source) -> str:
    """The format, and the columns that all files must have: with types for Parquet, none for JSON and texts."""
    file, columns = source.file, source.converted.columns
    if file.format == "parquet":
        columns = [f"{column.name} {column.type}" for column in read_schema([source])]
    return f"{file.format}: {', '.join(columns if file.format in ('csv', 'xlsx', 'parquet') else [])}"


def original_columns(file: File, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of the file of some rows of a converted part."""
    if file.format == "jsonl":
        return table_of_json(parse_rows(file, rows), schema.names).cast(schema, safe=False)
    positions = FOLDER_POSITIONS if file.format == "folder" else range(len(schema))
    columns = [rows[f"column_{position}"] for position in positions]
    table = pa.table(columns, names=schema.names)
    return table.replace_schema_metadata(schema.metadata) if file.format == "parquet" else table.cast(schema)


def join_columns(table: pa.Table, added: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns of two tables, those of the second by these names."""
    for name, column in zip(names, added.columns, strict=True):
        table = table.append_column(name, column)
    return table


def iter_rows(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows of a table as values of Python."""
    for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
        yield from zip(*map(parquet.values_of, batch.columns), strict=True)


def extend_object(line: bytes, members: str) -> bytes:
    """A JSON object on a line with the members of another; its own bytes stay."""
    opened = line.rstrip()[:-1]
    return opened + (b"" if opened.rstrip().endswith(b"{") else b", ") + members[1:].encode() + b"\n"


def field_of(value: Any) -> Any:
    """A value for a CSV field: JSON unless it is a text, number or date."""
    if isinstance(value, list | dict | bool):
        return as_json(value)
    return plain_text(value) if isinstance(value, bytes) else value


def as_json(value: Any) -> str:
    """A value as JSON; dates, times, decimals and bytes become strings."""
    return json.dumps(value, ensure_ascii=False, default=plain_text)


def finite(value: Any) -> Any:
    """A value with NaN and infinities replaced by null, since JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plain_text(value: Any) -> str:
    """A value that JSON cannot represent, as a string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
