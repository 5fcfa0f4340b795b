# SPDX-License-Identifier: Apache-2.0
"""Opens the reader of each format. Sheets of Excel and folders of texts become CSV."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from padless.core.errors import DataError, UserError
from padless.core.installed import require_package
from padless.core.untrusted import check_unpacked, one_line
from preprocessing.labels import AUTO
from preprocessing.sources import addresses
from preprocessing.sources.batches import FOLDER_SPLIT, PATH, Reader
from preprocessing.sources.detection import UTF8, detect_encoding
from preprocessing.sources.json_records import JsonReader
from preprocessing.sources.parquet import ParquetReader
from preprocessing.sources.sources import File, list_texts
from preprocessing.sources.text_files import CsvReader, LineReader, convert_to_utf8
from preprocessing.text.cleaning import encode

MAX_SHEET_ROWS = 1 << 20
"""Rows of Excel; a damaged or hostile file may name others."""
MAX_SHEET_CELLS = 1 << 26
"""Between the first cell and the last one of each row, empty ones too."""


def open_reader(file: File) -> Reader:
    """The reader for a file, which has looked at its beginning.

    Raises ``DataError`` for an unknown encoding, a file without columns, and a damaged one.
    """
    if file.format in ("folder", "txt") and len(file.source.text_columns) > 1:
        raise DataError(f"{file.name}: holds texts without columns; leave out source.text_column")
    if file.format == "parquet":
        return ParquetReader(file)
    if file.format in ("folder", "xlsx"):
        chunks = iter_folder(file) if file.format == "folder" else iter_sheet(file)
        columns = file.source.columns if file.format == "xlsx" else []
        source = replace(file.source, encoding=UTF8, delimiter=None, quote='"', escape=None, columns=columns)
        return CsvReader(replace(file, source=source), chunks)
    reader = {"csv": CsvReader, "jsonl": JsonReader, "txt": LineReader}[file.format]
    return reader(file, addresses.iter_bytes(file.address))


def iter_sheet(file: File) -> Iterator[bytes]:
    """The first sheet of an Excel file as CSV, without empty rows and columns; dates and numbers without their format.
    Raises ``DataError`` for a file that is damaged or hostile.
    """
    require_package("openpyxl", file.name, "excel")
    import openpyxl

    rows, num_cells = list[dict[int, str]](), 0
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
                num_cells += len(row)
                check_sheet(file.name, num_cells)
        except UserError:
            raise
        except Exception as error:  # openpyxl raises errors of every kind for a damaged file
            problem = one_line(error.__cause__ or error)
            raise DataError(f"{file.name}: not a readable Excel file ({problem}); save it again, or as CSV") from None
    columns = sorted({column for cells in rows for column in cells})
    check_sheet(file.name, len(rows) * len(columns))
    for cells in rows:
        yield line_of_csv(*(encode(cells.get(column, "")) for column in columns))


def check_sheet(name: str, num_cells: int) -> None:
    """Raise ``DataError`` for more than ``MAX_SHEET_CELLS``."""
    if num_cells > MAX_SHEET_CELLS:
        raise DataError(f"{name}: its cells lie too far apart; keep the table alone, or save it as CSV")


def text_of_cell(cell: Any) -> str:
    """The value of a cell of Excel; empty for none, and for an error."""
    value = cell.value
    if value is None or cell.data_type == "e":
        return ""
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def iter_folder(file: File) -> Iterator[bytes]:
    """The texts of a folder as CSV: text, label, split and path; the first line names the columns. Raises ``DataError``
    for a text in another encoding.
    """
    source = file.source
    names = (source.text_columns[0].replace(AUTO, "text"), source.label_column.replace(AUTO, "label"))
    yield line_of_csv(*map(str.encode, (*names, FOLDER_SPLIT, PATH)))
    for text in list_texts(file):
        content, encoding = addresses.read_bytes(text.address, text.info.bytes), source.encoding
        if encoding == AUTO:
            encoding = detect_encoding(content, text.address)
        content = b"".join(convert_to_utf8([content], encoding, text.address))
        yield line_of_csv(content, *map(str.encode, (text.label, file.split or text.split or "", text.path)))


def line_of_csv(*cells: bytes) -> bytes:
    """Cells as a line of CSV, all in quotes."""
    return b",".join(b'"' + cell.replace(b'"', b'""') + b'"' for cell in cells) + b"\n"
