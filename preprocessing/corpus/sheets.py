# SPDX-License-Identifier: Apache-2.0
"""Reads a sheet of an Excel file (.xlsx) as CSV, with the values as Excel shows them.

openpyxl reads it: others hold a whole rectangle of cells in memory, which one cell far away makes as large as it likes.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import itertools
import warnings
import zipfile
from collections.abc import Iterable, Iterator

from preprocessing.base.errors import DataError, UserError
from preprocessing.base.installed import needed
from preprocessing.base.untrusted import check_unpacked, listed, one_line
from preprocessing.corpus import addresses

ROW_BYTES = 256
"""Least memory of a row, so that a cell far below is refused soon."""
FIRST_ROWS = 20
"""The header is one of so many rows."""


@functools.lru_cache(maxsize=1)
def read_sheet(
    address: str, name: str, wanted: str | None, has_header: bool, identity: str
) -> tuple[dict[str, str], bytes]:
    """A sheet, the first unless one is ``wanted`` by name: ``{"sheet": its name}`` if there are others, and its rows as
    CSV. Empty rows and those above the header are left out. It is kept while the file's ``identity`` stays the same.

    The header reaches more than half as far to the right as the longest of the first rows: titles are short. Raises
    ``DataError`` for a file that is damaged or hostile.
    """
    needed("openpyxl", name, "excel")
    import openpyxl

    with addresses.open_file(address) as opened, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="openpyxl")
        try:
            with zipfile.ZipFile(opened) as packed:
                check_unpacked(name, sum(member.file_size for member in packed.infolist()), opened.size())
            book = openpyxl.load_workbook(opened, read_only=True, data_only=True, keep_links=False)
            titles = [sheet.title for sheet in book.worksheets]
            if not titles or wanted not in (None, *titles):
                raise DataError(f"{name}: has no sheet {wanted!r}; it has {listed(titles)}; set source.sheet")
            sheet = book[wanted or titles[0]]
            sheet.reset_dimensions()
            rows = filter(None, rows_of(sheet.iter_rows(values_only=True), name, opened.size()))
            first = list(itertools.islice(rows, FIRST_ROWS))
            if not first and len(titles) > 1:
                raise DataError(f"{name}: sheet {sheet.title!r} is empty; it has {listed(titles)}; set source.sheet")
            width = max(map(len, first), default=0)
            skipped = next((place for place, row in enumerate(first) if has_header and 2 * len(row) > width), 0)
            padded = (row + [""] * (width - len(row)) for row in itertools.chain(first[skipped:], rows))
            table = io.StringIO()
            csv.writer(table, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(padded)
        except UserError:
            raise
        except Exception as error:  # openpyxl raises errors of every kind for a damaged file
            raise DataError(
                f"{name}: not a readable Excel file ({one_line(error.__cause__ or error)}); save it again, or as CSV"
            ) from None
    return {"sheet": sheet.title} if len(titles) > 1 else {}, table.getvalue().encode("utf-8", "replace")


def rows_of(rows: Iterable[Iterable[object]], name: str, packed: int) -> Iterator[list[str]]:
    """The cells of each row as texts, without the empty ones at its end."""
    unpacked = 0
    for cells in rows:
        texts = [shown(cell) for cell in cells]
        unpacked += ROW_BYTES + len(texts) + sum(map(len, texts))
        check_unpacked(name, unpacked, packed)
        while texts and not texts[-1].strip():
            texts.pop()
        yield texts


def shown(value: object) -> str:
    """The value of a cell as Excel shows it without a format: whole numbers without a point, dates without midnight."""
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return str(value).removesuffix(" 00:00:00")
    return str(value).upper() if isinstance(value, bool) else "" if value is None else str(value)
