# SPDX-License-Identifier: Apache-2.0
"""Rows of new files: finds the files of an input and their text column, and writes each row with its prediction.

``preprocessing.corpus`` reads them, like the training corpus unless the user sets ``source``.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from harness.inference.config import STDIN
from harness.rundir.bundle_files import reading_of
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import tell
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses, parquet
from preprocessing.corpus.columns import read_sample, resolve_unlabelled
from preprocessing.corpus.readers import BYTE_ORDER_MARK, is_header, open_reader, parse_object, table_of_json
from preprocessing.corpus.sources import File, list_files
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

TEXT = "text"
AVAILABLE_BYTES = 1 << 16
"""Maximum bytes of one read from standard input."""
POSITION_BY_COLUMN = {"file": 3, TEXT: 0}
"""The columns of a folder's rows -> their positions among those that the reader gives."""


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
    first = files[0]
    if given.text_column != AUTO or all(map(read_sample(first).has_column, first.source.text_columns)):
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
    """How rows are written with their predictions, the same for all parts."""

    kind: str
    """csv, tsv, jsonl or parquet."""
    names: list[str]
    """The new columns."""
    columns: Sequence[str]
    """Those of the input."""
    delimiter: str
    """Of CSV."""
    has_mark: bool
    """Whether CSV begins with the byte order mark of UTF-8, by which programs know it, as the input does."""
    schema: pa.Schema
    """Of Parquet, and of JSON lines: all keys, and the types of their values; else empty."""

    def header(self) -> bytes:
        """The bytes before the first row."""
        if self.kind == "jsonl":
            return b""
        header = self.write_csv([[*self.columns, *self.names]])
        return (BYTE_ORDER_MARK if self.has_mark else b"") + header

    def write_lines(self, file: File, rows: pa.Table, added: Sequence[list[Any]]) -> bytes:
        """Rows of a converted part with the ``added`` columns. In JSON lines, the bytes of JSON lines stay."""
        new_rows = list(zip(*added, strict=True))
        if self.kind == file.format == "jsonl":
            members = [as_json(dict(zip(self.names, row, strict=True))) for row in new_rows]
            return b"".join(map(extend_object, rows["line"].to_pylist(), members))
        originals = zip(*map(parquet.values_of, self.original_columns(file, rows).columns), strict=True)
        complete_rows = (old + new for old, new in zip(originals, new_rows, strict=True))
        if self.kind != "jsonl":
            return self.write_csv(complete_rows)
        names = [*self.columns, *self.names]
        objects = (as_json(dict(zip(names, map(finite, row), strict=True))) for row in complete_rows)
        return encode("".join(f"{line}\n" for line in objects))

    def write_csv(self, rows: Iterable[Iterable[Any]]) -> bytes:
        """Rows as CSV."""
        records = Records()
        csv.writer(records, delimiter=self.delimiter).writerows(map(field_of, row) for row in rows)
        return encode("".join(f"{record[:-2]}\n" for record in records))  # a carriage return is quoted like its ends

    def table(self, file: File, rows: pa.Table, added: Sequence[list[Any]]) -> pa.Table:
        """Rows of a converted part with the ``added`` columns, for Parquet; columns from Parquet keep their types."""
        table = self.original_columns(file, rows)
        for name, values in zip(self.names, added, strict=True):
            table = table.append_column(name, pa.array(values, pa.string() if isinstance(values[0], str) else None))
        return table

    def original_columns(self, file: File, rows: pa.Table) -> pa.Table:
        """The columns of the source of some rows of a converted part."""
        if file.format == "jsonl":
            lines = zip(rows["line"].to_pylist(), rows["row"].to_pylist(), strict=True)
            records = [parse_object(line, file, number) for line, number in lines]
            return table_of_json(records, self.schema.names).cast(self.schema, safe=False)
        positions = POSITION_BY_COLUMN.values() if file.format == "folder" else range(len(self.columns))
        columns = [rows[f"column_{position}"] for position in positions]
        if file.format == "parquet":
            return pa.table(columns, schema=self.schema)
        return pa.table([column.cast(pa.string()) for column in columns], names=self.columns)


class Records(list[str]):
    """A file for ``csv.writer`` that collects its records."""

    write = list.append


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
