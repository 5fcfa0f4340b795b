# SPDX-License-Identifier: Apache-2.0
"""Reads a sheet of an Excel file (.xlsx), with the values as Excel shows them.

openpyxl reads it: others hold a whole rectangle of cells in memory, which one cell far away makes as large as it likes.
"""

from __future__ import annotations

import datetime
import itertools
import zipfile
from collections.abc import Iterator
from typing import Any

from preprocessing.base.errors import DataError, UserError
from preprocessing.base.installed import needed
from preprocessing.base.untrusted import check_unpacked, listed, one_line
from preprocessing.corpus import addresses

ROW_BYTES = 256
"""Least memory of a row, so that a cell far below is refused soon."""
NUM_FIRST_ROWS = 20
"""The header is one of so many rows."""


def iter_rows(address: str, name: str, title: str | None) -> Iterator[list[str]]:
    """The title of a sheet, empty if the file has no other; then its header and rows, each as wide as the first rows.

    ``title`` names the sheet; None: the first. Empty rows and those above the header are left out. The header reaches
    more than half as far to the right as the longest of the first rows: what is above it is short. Raises ``DataError``
    for a file that is damaged or hostile.
    """
    needed("openpyxl", name, "excel")
    import openpyxl

    with addresses.open_file(address) as opened:
        try:
            with zipfile.ZipFile(opened) as archive:
                check_unpacked(name, sum(member.file_size for member in archive.infolist()), opened.size())
            book = openpyxl.load_workbook(opened, read_only=True, data_only=True, keep_links=False)
            titles = [sheet.title for sheet in book.worksheets]
            if not titles or title not in (None, *titles):
                raise DataError(f"{name}: has no sheet {title!r}; it has {listed(titles)}; set source.sheet")
            sheet = book[title or titles[0]]
            sheet.reset_dimensions()
            rows = filter(None, iter_texts(sheet, name, opened.size()))
            first = list(itertools.islice(rows, NUM_FIRST_ROWS))
            if not first and len(titles) > 1:
                raise DataError(f"{name}: sheet {sheet.title!r} is empty; it has {listed(titles)}; set source.sheet")
            width = max(map(len, first), default=0)
            yield [sheet.title if len(titles) > 1 else ""]
            is_above = True
            for row in itertools.chain(first, rows):
                is_above = is_above and 2 * len(row) <= width
                if not is_above:
                    yield row + [""] * (width - len(row))
        except UserError:
            raise
        except Exception as error:  # openpyxl raises errors of every kind for a damaged file
            raise DataError(
                f"{name}: not a readable Excel file ({one_line(error.__cause__ or error)}); save it again, or as CSV"
            ) from None


def iter_texts(sheet: Any, name: str, packed_bytes: int) -> Iterator[list[str]]:
    """The cells of each row as texts, without the empty ones at its end."""
    unpacked_bytes = 0
    for cells in sheet.iter_rows(values_only=True):
        texts = [text_of_cell(cell) for cell in cells]
        unpacked_bytes += ROW_BYTES + len(texts) + sum(map(len, texts))
        check_unpacked(name, unpacked_bytes, packed_bytes)
        while texts and not texts[-1].strip():
            texts.pop()
        yield texts


def text_of_cell(value: object) -> str:
    """The value of a cell as Excel shows it without a format: whole numbers without a point, dates without midnight."""
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return str(value).removesuffix(" 00:00:00")
    if isinstance(value, bool):
        return str(value).upper()
    return "" if value is None else str(value)
