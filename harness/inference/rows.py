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
from preprocessing.base.untrusted import listed
from preprocessing.config import SourceConfig, SplitConfig
from preprocessing.corpus import addresses, sources, tables
from preprocessing.corpus.records import BYTE_ORDER_MARK, Dialect
from preprocessing.corpus.sources import File, Part
from preprocessing.corpus.tables import Rows
from preprocessing.labels import AUTO

TEXT = "text"
AVAILABLE_BYTES = 1 << 16
"""Maximum bytes of one read from standard input."""
USUAL = {"csv": Dialect(",", '"'), "tsv": Dialect("\t", '"')}
Cells = dict[str, list[Any]]
"""Name -> values of the new columns."""


def find(names: Sequence[str], kind: str, given: SourceConfig, known: Mapping[str, Any], work: Path) -> list[File]:
    """Every file of the given names, in their order; standard input is copied into ``work``.

    ``kind`` is ``auto`` or a format. Files are read as ``given``, and where that is unset, like the training corpus,
    whose ``known`` options are in the bundle. Raises ``DataError`` for a missing or unreadable file, ``ConfigError``
    for a file of unknown kind.
    """
    copy = work / "input.txt"
    if STDIN in names:
        with open(copy, "wb") as file:  # so that it can be read twice
            shutil.copyfileobj(sys.stdin.buffer, file, addresses.READ_BYTES)
    source = reading_of(given, known)
    wanted = [one for one in (source.text_column, TEXT) if one != AUTO]
    columns = wanted if given.text_column == AUTO else [given.text_column]
    places = [str(copy) if name == STDIN else name for name in names]
    its: dict[str, Any] = {"path": [], "unlabelled_path": places, "format": kind, "text_column": columns[-1]}
    return [
        opened(replace(file, name="standard input") if file.address == str(copy) else file, columns)
        for file in files_of(replace(source, **its))
    ]


def files_of(source: SourceConfig) -> list[File]:
    """The files of new rows. Raises ``DataError`` for a missing one."""
    for name, _ in source.addresses:
        if addresses.kind(addresses.find(name)[0]) == fs.FileType.NotFound:
            raise DataError(f"{name}: no such file; check --input")
    return list(sources.files(source, SplitConfig(column=None)))


def opened(file: File, columns: Sequence[str | list[str]]) -> File:
    """A file whose texts are in the first of ``columns`` (each one or several) that it has; print its format if it was
    detected. Raises ``DataError``.
    """
    if file.format == "folder":
        return file
    seen, names = tables.sample(replace(file, source=replace(file.source, columns=[]))), file.source.columns
    if file.format == "csv" and len(seen.columns) == len(names) and set(seen.columns) != set(names):
        seen = tables.sample(file)  # a file without header
    if seen.file.form.recorded:
        tell(f"input: {file.name}: {seen.file.form}")
    sources = [replace(seen.file.source, text_column=its) for its in columns]
    chosen = next((one for one in sources if all(map(seen.has, one.text_columns))), None)
    if chosen is None and (seen.columns or file.format != "jsonl"):  # a file without rows is refused later
        lacks = next(name for name in sources[0].text_columns if not seen.has(name))
        raise DataError(f"{file.name}: no column {lacks!r}; it has {listed(seen.columns)}; use --column")
    return replace(seen.file, source=chosen or sources[-1])


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


def texts_of(rows: Rows, missing: bool) -> list[str]:
    """The texts of some rows. Raises ``DataError`` for a row without one, unless ``missing`` makes it an empty text."""
    texts, part = rows.texts().to_pylist(), rows.part
    if not missing and part.file.format != "txt" and not all(texts):
        empty = next(at for at, text in enumerate(texts) if not text)
        columns = listed(part.file.source.text_columns)
        raise rows.fail(empty, f"column {columns} holds no text; fill or remove the row, or set --missing keep")
    return [text or "" for text in texts]


def texts_in(files: Sequence[File], stage: Path) -> Iterator[list[str]]:
    """Lists of all texts of some files; a row without one is an empty text."""
    for file in files:
        for part in sources.scan(file, stage).parts:
            for rows in tables.iter_rows(part, file.source.text_columns):
                yield texts_of(rows, missing=True)


@dataclass(frozen=True)
class Layout:
    """How rows are written with their predictions, the same for all parts."""

    kind: str
    """csv, tsv, jsonl or parquet."""
    names: list[str]
    """The new columns."""
    missing: bool
    """Whether rows without a text are predicted as an empty text."""
    top: bytes | None = None
    """The bytes before the first row, if input and output are both CSV or both JSON lines: then rows keep their bytes.
    None: rows are written from their values.
    """
    schema: pa.Schema | None = None
    """For JSON lines: all keys, and the types of their values."""

    def header(self, part: Part) -> bytes:
        """The bytes to write before the first row."""
        if self.kind == "jsonl" or (self.top is not None and part.file.source.columns):
            return self.top or b""
        before = columns_of(part, self.schema) if self.top is None else []
        (names,) = self.records(part, [], [[*before, *self.names]])
        return f"{names}\n".encode() if self.top is None else self.extended(part, self.top, names)

    def lines(self, part: Part, rows: Rows, added: Cells) -> bytes:
        """Rows of a text file with their predictions."""
        if self.top is None:
            whole = values_of(rows)
            every = zip(*(column.to_pylist() for column in whole.columns), *added.values(), strict=True)
            records = self.records(part, [*whole.column_names, *added], every)
            return "".join(f"{record}\n" for record in records).encode()
        more = self.records(part, list(added), zip(*added.values(), strict=True))
        return b"".join(self.extended(part, line, one) for line, one in zip(rows.lines, more, strict=True))

    def extended(self, part: Part, line: bytes, more: str) -> bytes:
        """A record with more fields or members appended; its own bytes stay unchanged."""
        bare = line.rstrip(b"\r\n")
        end = line[len(bare) :] or (b"\r\n" if (self.top or b"").endswith(b"\r\n") else b"\n")
        if self.kind != "jsonl":
            return bare + f"{part.file.form.dialect.delimiter}{more}".encode() + end
        bare = bare.rstrip()[:-1]
        return bare + (b"" if bare.rstrip().endswith(b"{") else b", ") + more[1:].encode() + end

    def records(self, part: Part, names: list[str], rows: Iterable[Iterable[Any]]) -> list[str]:
        """Rows as CSV, in the dialect of the file or the default one, or as JSON objects with these ``names``; without
        line ends. Raises ``DataError`` if the dialect cannot represent a value.
        """
        if self.kind == "jsonl":
            return [as_json(dict(zip(names, map(finite, row), strict=True))) for row in rows]
        dialect, records = USUAL[self.kind] if self.top is None else part.file.form.dialect, Records()
        writer = csv.writer(
            records,
            delimiter=dialect.delimiter,
            quotechar=dialect.quote or None,
            escapechar=dialect.escape,
            quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
            lineterminator="\r\n",
        )
        try:
            writer.writerows(map(field_of, row) for row in rows)
        except csv.Error as error:
            what = f"its fields are not quoted, and a prediction needs quotes ({error})"
            raise DataError(f"{part.file.name}: {what}; name an --output that ends in .parquet or .jsonl") from None
        return [record[:-2] for record in records]

    def table(self, part: Part, rows: Rows, added: Cells) -> pa.Table:
        """Rows with their predictions, for Parquet; columns from Parquet keep their types."""
        whole = values_of(rows)
        for name, values in added.items():
            whole = whole.append_column(name, pa.array(values, pa.string() if isinstance(values[0], str) else None))
        return whole


class Records(list[str]):
    """A file for ``csv.writer`` that collects its records."""

    write = list.append


def columns_of(part: Part, schema: pa.Schema | None) -> list[str]:
    """The columns of a file; for JSON lines those in ``schema``."""
    texts = part.file.source.text_columns
    others = {"folder": [sources.FILE, *texts], "jsonl": schema.names if schema else []}
    return list(part.columns) or others.get(part.file.format, [])


def values_of(rows: Rows) -> pa.Table:
    """Rows as typed values; strings for CSV and text files. Raises ``DataError`` for bytes that are not UTF-8."""
    names = rows.table.column_names
    if rows.part.file.format in ("parquet", "jsonl"):
        return rows.table
    return pa.table([rows.text(place).cast(pa.string()) for place in range(len(names))], names=names)


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
