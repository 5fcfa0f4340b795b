# SPDX-License-Identifier: Apache-2.0
"""Reads a sheet of an Excel file (.xlsx) as CSV, row by row, with the values as Excel shows them.

openpyxl reads it: others hold a whole rectangle of cells in memory, which one cell far away makes as large as it likes.
"""

from __future__ import annotations

import datetime
import itertools
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.untrusted import check_unpacked, listed, one_line
from preprocessing.corpus import addresses
from preprocessing.corpus.records import SAMPLE_BYTES, runs

MOST_ROWS, MOST_CELLS = 1 << 20, 1 << 26
"""Most rows of a sheet, as in Excel, and most cells, with the empty ones left of others."""
FIRST_ROWS = 20
"""The header is one of so many rows."""
BETWEEN = '","'


def read_sheet(address: str, name: str, wanted: str | None, has_header: bool) -> tuple[dict[str, Any], Iterator[bytes]]:
    """A sheet, the first unless one is ``wanted`` by name: what is unusual (its name, if there are others; the row of
    the header), and its rows as CSV, in pieces. Empty rows and those above the header are left out.

    The header reaches more than half as far to the right as the longest of the first rows: titles are short. Raises
    ``DataError`` for a file that is damaged or hostile.
    """
    rows = rows_of(address, name, wanted)
    _, titles = next(rows)
    first = list(itertools.islice(rows, FIRST_ROWS))
    width = max((len(cells) for _, cells in first), default=0)
    skipped = next((place for place, (_, cells) in enumerate(first) if has_header and 2 * len(cells) > width), 0)
    unusual: dict[str, Any] = {"sheet": titles[0]} if len(titles) > 1 else {}
    for number, cells in first[skipped : skipped + has_header]:
        unusual |= {"header": number} if number > 1 else {}
        cells.extend([""] * (width - len(cells)))
        cells[:] = [cell or f"column_{place}" for place, cell in enumerate(cells, 1)]
    lines = (csv_line(cells, width) for _, cells in itertools.chain(first[skipped:], rows))
    return unusual, map(b"".join, runs(lines, len, SAMPLE_BYTES + 1))


def csv_line(cells: list[str], width: int) -> bytes:
    """A row of at least ``width`` fields as CSV."""
    fields = [cell.replace('"', '""') for cell in cells] + [""] * (width - len(cells))
    return f'"{BETWEEN.join(fields)}"\n'.encode("utf-8", "replace")


def rows_of(address: str, name: str, wanted: str | None) -> Iterator[tuple[int, list[str]]]:
    """The names of the sheets, the chosen one first, as row 0; then the rows that are not empty, with their numbers."""
    try:
        import openpyxl
    except ImportError:
        raise ConfigError(f"{name}: Excel files need openpyxl; pip install 'padless[excel]'") from None
    warnings.filterwarnings("ignore", module="openpyxl")
    with addresses.open_file(address) as opened:
        try:
            with zipfile.ZipFile(opened) as packed:
                check_unpacked(name, sum(member.file_size for member in packed.infolist()), opened.size())
            book = openpyxl.load_workbook(opened, read_only=True, data_only=True, keep_links=False)
            titles = [sheet.title for sheet in book.worksheets]
            if not titles or wanted not in (None, *titles):
                raise DataError(f"{name}: has no sheet {wanted!r}; it has {listed(titles)}; set source.sheet")
            sheet = book.worksheets[titles.index(wanted or titles[0])]
            yield 0, [sheet.title, *(title for title in titles if title != sheet.title)]
            sheet.reset_dimensions()
            seen = 0
            for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
                seen += len(cells)
                if number > MOST_ROWS or seen > MOST_CELLS:
                    raise DataError(f"{name}: row {number}: more rows or cells than a sheet has; save it as CSV")
                texts = [shown(cell) for cell in cells]
                while texts and not texts[-1].strip():
                    texts.pop()
                if texts:
                    yield number, texts
        except UserError:
            raise
        except Exception as error:  # openpyxl raises errors of every kind for a damaged file
            what = f"not a readable Excel file ({one_line(error.__cause__ or error)})"
            raise DataError(f"{name}: {what}; save it again, or as CSV") from None


def shown(value: object) -> str:
    """The value of a cell as Excel shows it without a format: whole numbers without a point, dates without midnight."""
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return str(value).removesuffix(" 00:00:00")
    return str(value).upper() if isinstance(value, bool) else "" if value is None else str(value)
