# SPDX-License-Identifier: Apache-2.0
"""Opens the reader of each format; those of sheets of Excel and of folders of texts are here."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from padless.core.errors import DataError, UserError
from padless.core.installed import require_package
from padless.core.untrusted import check_unpacked, one_line
from preprocessing.labels import AUTO
from preprocessing.sources import addresses
from preprocessing.sources.batches import BYTES, FOLDER_SPLIT, PATH, TEXT, Reader, SourceBatch
from preprocessing.sources.json_records import JsonReader
from preprocessing.sources.parquet import ParquetReader
from preprocessing.sources.sources import File, FolderText, list_texts
from preprocessing.sources.text_files import (
    EMPTY,
    FIRST_ROWS,
    MAX_ROW_BYTES,
    CsvReader,
    LineReader,
    convert_to_utf8,
    detect_encoding,
    name_columns,
)
from preprocessing.text.characters import encode

MAX_SHEET_ROWS = 1 << 20
"""Rows of Excel; a damaged or hostile file may name others."""
BATCH_TEXTS = 256
"""Texts of a folder in a batch."""
MAX_SHEET_CELLS = 1 << 26
"""Of rows and columns that are not empty."""


def open_reader(file: File) -> Reader:
    """The reader for a file, which has looked at its beginning.

    Raises ``DataError`` for an unknown encoding, a file without columns, and a damaged one.
    """
    if file.format in ("folder", "txt") and len(file.source.text_columns) > 1:
        raise DataError(f"{file.name}: holds texts without columns; leave out source.text_column")
    if file.format == "parquet":
        return ParquetReader(file)
    if file.format in ("folder", "xlsx"):
        return open_folder(file) if file.format == "folder" else open_sheet(file)
    line_reader = {"csv": CsvReader, "jsonl": JsonReader, "txt": LineReader}[file.format]
    return line_reader(file, addresses.iter_bytes(file.address))


class TableReader(Reader):
    """Tables of texts, of a sheet or a folder."""

    def __init__(self, file: File, columns: Sequence[str], tables: Iterable[pa.Table]) -> None:
        super().__init__(file, columns)
        self.tables = tables

    def batches(self, keep_columns: bool = False) -> Iterator[SourceBatch]:
        """All columns."""
        start = 1
        for table in self.tables:
            yield SourceBatch(self.file, np.arange(start, start + len(table)), table)
            start += len(table)


def open_sheet(file: File) -> TableReader:
    """The reader of an Excel file. Raises ``DataError`` as ``read_sheet`` does, and for an empty one."""
    rows = read_sheet(file)
    if not rows:
        raise DataError(f"{file.name}: {EMPTY}")
    columns, has_header = name_columns(rows[:FIRST_ROWS], file)
    cells = [pa.array([row[at] for row in rows[has_header:]], TEXT) for at in range(len(columns))]
    return TableReader(file, columns, [pa.table(cells, names=columns)])


def read_sheet(file: File) -> list[list[str]]:
    """The rows of the first sheet of an Excel file, without empty rows and columns; dates and numbers without their
    format. Raises ``DataError`` for a file that is damaged or hostile.
    """
    require_package("openpyxl", file.name, "excel")
    import openpyxl

    rows = list[dict[int, str]]()
    with addresses.open_file(file.address) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what openpyxl does not read
        try:
            with zipfile.ZipFile(opened) as archive:
                check_unpacked(file.name, sum(member.file_size for member in archive.infolist()), opened.size())
            book = openpyxl.load_workbook(opened, read_only=True, data_only=True)
            sheet = next(iter(book.worksheets), None)  # not one of charts
            if sheet is not None:
                sheet.reset_dimensions()  # or each row has as many cells as the widest
            for row in sheet.iter_rows(max_row=MAX_SHEET_ROWS) if sheet is not None else ():
                cells = {cell.column: text for cell in row if (text := text_of_cell(cell))}
                rows += [cells] if cells else []
        except UserError:
            raise
        except Exception as error:  # openpyxl raises errors of every kind for a damaged file
            problem = one_line(error.__cause__ or error)
            raise DataError(f"{file.name}: not a readable Excel file ({problem}); save it again, or as CSV") from None
    columns = sorted({column for cells in rows for column in cells})
    if len(rows) * len(columns) > MAX_SHEET_CELLS:
        raise DataError(f"{file.name}: its cells lie too far apart; keep the table alone, or save it as CSV")
    return [[cells.get(column, "") for column in columns] for cells in rows]


def text_of_cell(cell: Any) -> str:
    """The value of a cell of Excel; empty for none, and for an error."""
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    is_whole = isinstance(value, float) and value.is_integer()
    return encode(str(int(value) if is_whole else value)).decode()


def open_folder(file: File) -> TableReader:
    """The reader of a folder: columns of text, label, split and path."""
    text, label = file.source.text_columns[0].replace(AUTO, "text"), file.source.label_column.replace(AUTO, "label")
    columns = [text, label, FOLDER_SPLIT, PATH]
    return TableReader(file, columns, iter_folder(file, pa.schema(dict.fromkeys(columns, BYTES))))


def iter_folder(file: File, schema: pa.Schema) -> Iterator[pa.Table]:
    """The texts of a folder. Raises ``DataError`` for one in another encoding, and a long one."""
    texts = list_texts(file)
    for start in range(0, len(texts), BATCH_TEXTS):
        rows = [
            (read_text(file, text), text.label, file.split or text.split or "", text.path)
            for text in texts[start : start + BATCH_TEXTS]
        ]
        yield pa.table([*zip(*rows, strict=True)], schema=schema)


def read_text(file: File, text: FolderText) -> bytes:
    """A text of a folder as UTF-8. Raises ``DataError`` for one in another encoding, and a long one."""
    if text.info.bytes > MAX_ROW_BYTES:
        raise DataError(f"{text.address}: has more than {MAX_ROW_BYTES >> 20} MiB; shorten it")
    content, encoding = addresses.read_address(text.address, text.info.bytes), file.source.encoding
    if encoding == AUTO:
        encoding = detect_encoding(content, text.address)
    return b"".join(convert_to_utf8([content], encoding, text.address))
