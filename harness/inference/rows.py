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
from preprocessing.corpus import addresses, parquet, sources, tables
from preprocessing.corpus.columns import TEXT_NAME, looked_at, of_unlabelled
from preprocessing.corpus.records import BYTE_ORDER_MARK
from preprocessing.corpus.sources import File, Part
from preprocessing.corpus.tables import Rows
from preprocessing.labels import AUTO
from preprocessing.text.cleaning import encode

TEXT = "text"
AVAILABLE_BYTES = 1 << 16
"""Maximum bytes of one read from standard input."""
Cells = dict[str, list[Any]]
"""Name -> values of the new columns."""


def find(names: Sequence[str], kind: str, given: SourceConfig, known: Mapping[str, Any], work: Path) -> list[File]:
    """Every file of the given names, in their order; standard input is copied into ``work``.

    ``kind`` is ``auto`` or a format. Files are read as ``given``, and where that is unset, like the training corpus,
    whose ``known`` options are in the bundle. Their texts are in the column that is given, else in that of the corpus,
    else in the one that is found as in preprocessing. Raises ``DataError`` for a missing or unreadable file,
    ``ConfigError`` for a file of unknown kind.
    """
    copy = work / "input.txt"
    if STDIN in names:
        with open(copy, "wb") as file:  # so that it can be read twice
            shutil.copyfileobj(sys.stdin.buffer, file, addresses.READ_BYTES)
    source = reading_of(given, known)
    places = [str(copy) if name == STDIN else name for name in names]
    its: dict[str, Any] = {"path": [], "unlabelled_path": places, "format": kind, "text_column": given.text_column}
    found = [
        replace(file, name="standard input") if file.address == str(copy) else file
        for file in files_of(replace(source, **its), given)
    ]
    if given.text_column != AUTO:
        return found
    lines, files = list[str](), list[File]()
    text = TEXT if found[0].format in ("folder", "txt") else source.text_column
    trained = {"text_column": text, "label_column": source.label_column, "columns": source.columns}
    for one in found:
        files += of_unlabelled([one], trained, [] if files else lines)
    for line in lines:
        tell(line)
    return files


def has_header(file: File) -> bool:
    """Whether a CSV file has a header line although the training corpus, whose columns are ``source.columns``, had
    none: it has another number of columns, the same names, or names that no row repeats, one of them usual for texts.
    """
    if file.kind != "csv":
        return True
    names, seen = file.source.columns, tables.sample(replace(file, source=replace(file.source, columns=[])))
    if len(seen.columns) != len(names) or set(seen.columns) == set(names):
        return True
    is_usual = any(TEXT_NAME.fullmatch(looked_at(name, []).key) for name in seen.columns)
    return is_usual and not any(name in seen.values[name] for name in seen.columns)


def files_of(source: SourceConfig, given: SourceConfig) -> list[File]:
    """The files of new rows; those with a header are read by it, unless the columns are ``given``. Raises ``DataError``
    for a missing one.
    """
    for name, _ in source.addresses:
        if addresses.kind(addresses.find(name)[0]) == fs.FileType.NotFound:
            raise DataError(f"{name}: no such file; check --input")
    files = list(sources.files(source, SplitConfig(column=None)))
    if not source.columns or given.columns:
        return files
    return [replace(file, source=replace(file.source, columns=[])) if has_header(file) else file for file in files]


def with_text_column(files: list[File], given: SourceConfig) -> list[File]:
    """Labelled files; their text column is found anew if none is ``given`` and the first lacks that of the training."""
    first = files[0]
    if given.text_column != AUTO or all(map(tables.sample(first).has, first.source.text_columns)):
        return files
    return [replace(file, source=replace(file.source, text_column=AUTO)) for file in files]


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


def texts_of(rows: Rows, missing: bool) -> list[str]:
    """The texts of some rows. Raises ``DataError`` for a row without one, unless ``missing`` makes it an empty text."""
    texts, part = rows.texts().to_pylist(), rows.part
    if not missing and part.file.format != "txt" and not all(texts):
        empty = next(at for at, text in enumerate(texts) if not text)
        columns = listed(part.file.source.text_columns)
        raise rows.fail(empty, f"column {columns} holds no text; fill or remove the row, or set --missing keep")
    return [text or "" for text in texts]


def texts_in(files: Sequence[File], stage: Path) -> Iterator[str]:
    """All texts of some files; a row without one is an empty text. Raises ``DataError`` if there are no rows."""
    parts = [part for file in files for part in sources.scan(file, stage).parts]
    if not parts:
        raise DataError(f"{files[0].name}: holds no rows")
    for part in parts:
        for rows in tables.iter_rows(part, part.file.source.text_columns):
            yield from texts_of(rows, missing=True)


@dataclass(frozen=True)
class Layout:
    """How rows are written with their predictions, the same for all parts."""

    kind: str
    """csv, tsv, jsonl or parquet."""
    names: list[str]
    """The new columns."""
    missing: bool
    """Whether rows without a text are predicted as an empty text."""
    columns: Sequence[str] = ()
    """Those of the input."""
    delimiter: str = ","
    """Of CSV."""
    schema: pa.Schema | None = None
    """For JSON lines: all keys, and the types of their values."""

    def header(self, part: Part) -> bytes:
        """The bytes before the first row: the header, after the byte order mark of the input, by which programs know
        UTF-8.
        """
        if self.kind == "jsonl":
            return b""
        begins = addresses.read_range(part.data, 0, len(BYTE_ORDER_MARK))
        header = self.records([[*self.columns, *self.names]])
        return (BYTE_ORDER_MARK if begins == BYTE_ORDER_MARK else b"") + header

    def lines(self, part: Part, rows: Rows, added: Cells) -> bytes:
        """Rows of a text file with their predictions. The bytes of JSON lines stay as they are in JSON lines."""
        new = list(zip(*added.values(), strict=True))
        if self.kind == part.file.format == "jsonl":
            more = [as_json(dict(zip(added, row, strict=True))) for row in new]
            return b"".join(extended(line, one) for line, one in zip(rows.lines, more, strict=True))
        whole = values_of(rows)
        old = zip(*map(parquet.values_of, whole.columns), strict=True)
        every = (before + after for before, after in zip(old, new, strict=True))
        if self.kind != "jsonl":
            return self.records(every)
        names = [*whole.column_names, *added]
        return encode("".join(f"{as_json(dict(zip(names, map(finite, row), strict=True)))}\n" for row in every))

    def records(self, rows: Iterable[Iterable[Any]]) -> bytes:
        """Rows as CSV."""
        records = Records()
        csv.writer(records, delimiter=self.delimiter).writerows(map(field_of, row) for row in rows)
        return encode("".join(f"{record[:-2]}\n" for record in records))  # a carriage return is quoted like its ends

    def table(self, part: Part, rows: Rows, added: Cells) -> pa.Table:
        """Rows with their predictions, for Parquet; columns from Parquet keep their types."""
        whole = values_of(rows)
        for name, values in added.items():
            whole = whole.append_column(name, pa.array(values, pa.string() if isinstance(values[0], str) else None))
        return whole


class Records(list[str]):
    """A file for ``csv.writer`` that collects its records."""

    write = list.append


def extended(line: bytes, more: str) -> bytes:
    """A JSON object on a line with the members of another; its own bytes stay."""
    bare = line.rstrip()[:-1]
    return bare + (b"" if bare.rstrip().endswith(b"{") else b", ") + more[1:].encode() + b"\n"


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
