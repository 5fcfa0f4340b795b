# SPDX-License-Identifier: Apache-2.0
"""Tables of any kind, by the ending of their names: read, and written with more columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from harness.inference.csv_table import CsvTable
from harness.inference.folder_table import FolderTable
from harness.inference.json_table import JsonTable, TextTable
from harness.inference.outputs import FORMS, Output, SameLines, Written, WrittenParquet
from harness.inference.parquet_table import ParquetTable
from harness.inference.pieces import Source, Table, Wanted
from preprocessing.base.errors import ConfigError, DataError

Kind = Literal["csv", "tsv", "jsonl", "parquet", "txt"]
KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".txt": "txt",
}


def kind_of_output(target: str) -> Kind:
    """The kind of the file to write. Raises ``ConfigError`` for an ending that says none."""
    kind = KINDS.get(Path(target).suffix.lower())
    if kind is None or kind == "txt":
        raise ConfigError(f"--output {target}: unknown ending; use .parquet, .csv, .tsv or .jsonl, or DIRECTORY/")
    return kind


def kind_of_input(source: Source, kind: str) -> str:
    """The kind of a file to read; ``kind`` is ``auto`` or a ``Kind``. Raises ``ConfigError`` for an unknown ending."""
    found = KINDS.get(source.suffix) if kind == "auto" else kind
    if found is None:
        what = f"--input {source.name}: unknown ending; use .csv, .tsv, .jsonl, .parquet or .txt, or set --format"
        raise ConfigError(what)
    return found


def open_table(source: Source, kind: str, wanted: Wanted, facts: dict[str, Any] | None = None) -> Table:
    """A table whose texts stand in the first of the ``wanted`` columns that it has.

    ``kind`` is a ``Kind``, or ``folder``. ``facts`` are those of the whole table where ``source`` is a part of it.
    Raises ``DataError`` for a bad file.
    """
    if kind == "parquet":
        return ParquetTable(source, wanted, facts)
    if kind == "jsonl":
        return JsonTable(source, wanted, facts)
    if kind == "txt":
        return TextTable(source, wanted.columns[-1])
    if kind == "folder":
        assert facts is not None
        return FolderTable(source, wanted, facts)
    return CsvTable(source, wanted, kind, facts)


def open_output(path: Path, kind: str, table: Table, names: list[str], *, same: bool) -> Output:
    """A new file of ``kind`` for the rows of ``table`` with more columns of these ``names``.

    ``same`` keeps the bytes of CSV and JSON lines that are written as what they were read as.
    """
    if same and isinstance(table, CsvTable | JsonTable) and kind == table.kind:
        return SameLines(path, table, names)
    if kind == "parquet":
        return WrittenParquet(path, table, names)
    return Written(path, table, names, FORMS[kind])


def check_free(source: Source, table: Table, names: list[str]) -> None:
    """Raise ``DataError`` if the table has one of the columns already that are to be added."""
    for name in names:
        if name in table.names:
            raise DataError(
                f"{source.name}: already has a column {name!r}; rename it, or set --prefix, which stands before the "
                "names of the new columns"
            )
