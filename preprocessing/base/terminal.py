# SPDX-License-Identifier: Apache-2.0
"""Text that fits a terminal: wrapped at words, facts with an indent, tables whose columns give way. Pure functions.

Widths are counted in the cells of a terminal: a Chinese character takes two, a combining accent none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from preprocessing.base.printable import plain_line, printable

WIDTH = 80
"""Columns of a file, and of a terminal that does not say."""
LONGEST = 100
"""Columns of a sentence in a terminal that has more: longer lines are hard to read."""
FACT_INDENT = 11
"""Where the text of a fact begins, after its name."""
TIE = "\u00a0"
"""A blank at which no line ends."""
GAP = 2
"""Cells between two columns of a table."""


def cells(text: str) -> int:
    """How many cells of a terminal ``text`` takes that is ``printable``."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me", "Cf") for letter in text)


def shortened(text: str, most: int) -> str:
    """``text`` on one line with single blanks, cut to ``most`` cells with an ellipsis where it is longer."""
    return cut(plain_line(" ".join(text.split())), most)


def cut(text: str, most: int) -> str:
    """A line as it is, cut to ``most`` cells with an ellipsis where it is longer."""
    if cells(text) <= most:
        return text
    while text and cells(text) > most - 1:
        text = text[:-1]
    return f"{text.rstrip()}…" if most > 0 else ""


def padded(text: str, width: int, *, right: bool = False) -> str:
    """``text`` filled up to ``width`` cells, on the left where it is to stand at the right."""
    blank = " " * (width - cells(text))
    return blank + text if right else text + blank


def wrapped(text: str, width: int, indent: int = 2, *, first: str = "") -> list[str]:
    """``text`` as lines of at most ``width`` cells, cut at words; all but the first begin with ``indent`` blanks.

    ``first`` begins the first line. Each line of ``text`` is wrapped by itself and keeps its blanks, but not where it
    is cut. A word that is longer than a line, such as a path, stays whole. No line ends at a ``TIE``.
    """
    result: list[str] = []
    for number, paragraph in enumerate(printable(text).split("\n")):
        start = first if number == 0 else " " * (indent if first else 0)
        if cells(start) + cells(paragraph) <= width:
            result.append(start + paragraph)
            continue
        lead = len(paragraph) - len(paragraph.lstrip(" "))
        line, empty = start + paragraph[:lead], True
        for word in re.findall("[^ ]+ *", paragraph):  # with the blanks after it
            if not empty and cells(line + word.rstrip(" ")) > width:
                result.append(line.rstrip(" "))
                line, empty = " " * (lead + indent), True
            line, empty = line + word, False
        result.append(line.rstrip(" "))
    return [line.replace(TIE, " ") for line in result]


def fact(name: str, text: str, width: int = WIDTH, indent: int = FACT_INDENT) -> list[str]:
    """``name       text``: a name, and what is said of it with a hanging indent."""
    return wrapped(text, width, indent, first=f"{name} ".ljust(indent))


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    key: str
    title: str
    weight: int = 0
    """Where not all columns fit, those of the largest weight go first; those of 0 stay."""
    right: bool = True
    """Numbers stand at the right, words at the left."""
    least: int = 0
    """Cells that it takes at least, so that rows which are printed one by one stand below each other."""
    shrinks: bool = False
    """Its texts are shortened before a column goes."""


LEAST_SHRUNK = 12
"""Cells to which a column may shrink before another one goes."""


def laid_out(columns: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int) -> list[tuple[Column, int]]:
    """The columns that fit into ``width`` cells, each with the cells that it takes. Empty columns are left out."""
    taken = {}
    for column in columns:
        texts = [plain_line(row.get(column.key, "")) for row in rows]
        if not rows or any(texts):
            taken[column.key] = max(column.least, cells(plain_line(column.title)), *map(cells, texts), 0)
    shown = [column for column in columns if column.key in taken]

    def excess() -> int:
        return sum(taken[column.key] for column in shown) + GAP * (len(shown) - 1) - width

    def shrink(least: int) -> None:
        for column in shown:
            if column.shrinks and excess() > 0:
                taken[column.key] = min(taken[column.key], max(least, taken[column.key] - excess()))

    shrink(LEAST_SHRUNK)
    while excess() > 0 and any(column.weight for column in shown):
        shown.remove(max(shown, key=lambda column: column.weight))
    shrink(1)
    return [(column, taken[column.key]) for column in shown]


def row_line(layout: Iterable[tuple[Column, int]], row: Mapping[str, str]) -> str:
    """One row of a table that was laid out."""
    texts = []
    for column, width in layout:
        text = plain_line(row.get(column.key, ""))
        texts.append(padded(shortened(text, width) if column.shrinks else text, width, right=column.right))
    return (" " * GAP).join(texts).rstrip()


def head_line(layout: Sequence[tuple[Column, int]]) -> str:
    """The titles of a table that was laid out."""
    return row_line(layout, {column.key: column.title for column, _ in layout})


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int = WIDTH) -> list[str]:
    """Titles, then a line for each row, none wider than ``width`` as far as columns can give way."""
    layout = laid_out(columns, rows, width)
    return [head_line(layout), *(row_line(layout, row) for row in rows)]


def fitted(parts: Sequence[tuple[str, int]], width: int = WIDTH) -> str:
    """``a  b  c``: texts side by side; where not all fit, those of the largest weight go first, never those of 0."""
    kept = list(parts)
    while sum(cells(text) for text, _ in kept) + GAP * (len(kept) - 1) > width and any(weight for _, weight in kept):
        kept.remove(max(kept, key=lambda part: part[1]))
    return (" " * GAP).join(text for text, _ in kept)
