# SPDX-License-Identifier: Apache-2.0
"""Output for people: a terminal, with colour and a live line, or a file, with plain lines of 80 columns.

Control characters in labels, texts, paths and options are spelt as JSON spells them, ``\\u001b``, before they are
printed: a person sees them, and what a program reads as JSON keeps its values. Passwords and tokens of an address
are cut (:func:`public`) from all that is said or written down. rich draws, and is imported at the first line that goes
to a terminal. ``NO_COLOR`` and ``TERM=dumb`` are heeded, and ``COLUMNS`` where the output is a terminal.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TextIO, cast

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but for newline and tab, DEL, C1, separators of lines, overrides of direction, halves of surrogate pairs."""
BREAK = re.compile("[\n\t]")
ADDRESS = re.compile(
    r"""([a-z][a-z0-9+.-]*://)                              # the protocol
    (?:[^\s/?\#"]*@ | [^\s/?\#@":]+:(?!\d+[/?\#\s])[^\s"]*@)?  # a name, and a password, which may hold a slash
    ([^\s?\#"]*) ([?\#][^\s"]*)?""",
    re.IGNORECASE | re.VERBOSE,
)
MARKUP = re.compile(r"([\\`*_\[\]~|#!<>&])")
"""Letters that begin something in Markdown."""
SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def printable(text: str) -> str:
    """``text`` that does nothing to a terminal; newlines and tabs are left."""
    return text if text.isascii() and text.isprintable() else CONTROL.sub(_spelt, text)


def plain_line(text: str, *, strict: bool = False) -> str:
    """``text`` that does nothing to a terminal and stays on its line; ``strict``: and has no invisible letter."""
    if text.isprintable():
        return text
    if strict:
        return "".join(letter if letter.isprintable() else _named(letter) for letter in text)
    return BREAK.sub(_spelt, printable(text))


def public(text: str) -> str:
    """``text`` with every address in it as anybody may read it: without user, password, and what ``?`` or ``#`` begins.

    A ``?`` of a pattern stays where the protocol has no queries.
    """
    return ADDRESS.sub(_without_secrets, text) if "://" in text else text


def public_values(value: Any) -> Any:
    """Plain values with every address in them as :func:`public` gives it."""
    if isinstance(value, dict):
        return {key: public_values(each) for key, each in value.items()}
    if isinstance(value, list):
        return [public_values(each) for each in value]
    return public(value) if isinstance(value, str) else value


def _without_secrets(found: re.Match[str]) -> str:
    protocol, place, query = found[1], found[2], found[3] or ""
    if protocol.lower().startswith("http") or "=" in query:
        query = query[len(query.rstrip(".,:;)'")) :]  # of the sentence around it
    return f"{protocol}{place}{query}"


def markdown(text: str) -> str:
    """A name as words of Markdown, none of which is markup, on one line."""
    return MARKUP.sub(r"\\\1", _one_line(text))


def markdown_code(text: str) -> str:
    """A name as code of Markdown; a backtick becomes an apostrophe."""
    code = _one_line(text).replace("`", "'")
    return f"`{code}`"


def _one_line(text: str) -> str:
    return " ".join(plain_line(public(text), strict=True).split())


def _spelt(found: re.Match[str]) -> str:
    return _named(found[0])


def _named(letter: str) -> str:
    return SHORT.get(letter) or (f"\\u{ord(letter):04x}" if ord(letter) < 0x10000 else f"\\U{ord(letter):08x}")


def tell(sentence: str) -> None:
    """One line on stderr."""
    print(plain_line(public(sentence)), file=sys.stderr, flush=True)


class Guarded:
    """A text stream through which no control character goes; and no letter is lost that the encoding lacks.

    Files and pipes get the same as a terminal: logs are read in one. JSON means what it meant; whoever writes another
    format for programs takes the stream's ``bare`` self.
    """

    def __init__(self, stream: TextIO) -> None:
        """``stream`` is where the text goes."""
        self.guarded = stream

    def write(self, text: str) -> int:
        """Write; returns how many characters were given."""
        self.guarded.write(spelt(text, self.guarded))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)


def spelt(text: str, stream: TextIO) -> str:
    """``text`` that does nothing to a terminal, in letters that the stream's encoding has."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def guarded(stream: TextIO) -> TextIO:
    """The stream behind a guard; one that has a guard keeps it."""
    return stream if isinstance(stream, Guarded) else cast(TextIO, Guarded(stream))


def bare(stream: TextIO) -> TextIO:
    """The stream without its guard, for whoever escapes what is foreign and moves the cursor, or writes no text."""
    return stream.guarded if isinstance(stream, Guarded) else stream


@contextmanager
def guards() -> Iterator[None]:
    """Guard stdout and stderr for as long as a command lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(guarded, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def duration(seconds: float) -> str:
    """``1h02m``, ``3m05s`` or ``12s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def size(number: int) -> str:
    """Bytes as ``7 kB``, ``12 MB`` or ``3.4 GB``."""
    if number < 1e6:
        return f"{number / 1e3:.0f} kB"
    return f"{number / 1e6:,.0f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"


def percent(share: float) -> str:
    """A share as ``12%``; a small one with two digits that count, as ``1.2%`` or ``0.012%``."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"


def counted(number: int, noun: str) -> str:
    """``1 window``, ``12 windows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


WIDTH = 80
"""Columns of a file, and of a terminal that does not say."""
LONGEST = 100
"""Columns of a sentence in a terminal that has more: longer lines are hard to read."""
FACT_INDENT = 11
"""Where the text of a fact begins, after its name."""
GAP = 2
"""Cells between two columns of a table."""
LEAST_SHRUNK = 12
"""Cells to which a column of a table may shrink."""
REDRAW_EVERY_S = 0.25
BAR_CELLS = 30


def cells(text: str) -> int:
    """How many cells of a terminal ``text`` takes that is ``printable``."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in ("Mn", "Me", "Cf") for letter in text)


def shortened(text: str, most: int) -> str:
    """``text`` on one line with single blanks, cut to ``most`` cells with an ellipsis where it is longer."""
    text = plain_line(" ".join(text.split()))
    if cells(text) <= most:
        return text
    while text and cells(text) > most - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


def wrapped(text: str, width: int, indent: int = 2, *, first: str = "") -> list[str]:
    """``text`` as lines of at most ``width`` letters, cut at words; all but the first begin with ``indent`` blanks.

    ``first`` begins the first line. Each line of ``text`` is wrapped by itself. A word that is longer than a line, such
    as a path, stays whole.
    """
    result: list[str] = []
    for number, line in enumerate(printable(text).split("\n")):
        start = first if number == 0 else " " * (indent if first else 0)
        below = " " * (indent + len(line) - len(line.lstrip(" ")))
        result += textwrap.wrap(
            line,
            width,
            initial_indent=start,
            subsequent_indent=below,
            expand_tabs=False,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [start.rstrip()]
    return result


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    key: str
    title: str
    weight: int = 0
    """Where not all columns fit, those of the largest weight go first; those of 0 stay."""
    right: bool = True
    """Numbers stand at the right, words at the left."""
    shrinks: bool = False
    """Its texts are shortened before a column goes."""


def laid_out(columns: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int) -> list[tuple[Column, int]]:
    """The columns that fit into ``width`` cells, each with the cells that it takes. Empty columns are left out."""
    found: list[tuple[Column, int]] = []
    for column in columns:
        texts = [plain_line(row.get(column.key, "")) for row in rows]
        if not rows or any(texts):
            found.append((column, max(cells(plain_line(column.title)), *map(cells, texts), 0)))

    def excess() -> int:
        return sum(taken for _, taken in found) + GAP * (len(found) - 1) - width

    for place, (column, taken) in enumerate(found):
        if column.shrinks and excess() > 0:
            found[place] = column, min(taken, max(LEAST_SHRUNK, taken - excess()))
    while excess() > 0 and any(column.weight for column, _ in found):
        found.remove(max(found, key=lambda one: one[0].weight))
    return found


def row_line(layout: Iterable[tuple[Column, int]], row: Mapping[str, str]) -> str:
    """One row of a table that was laid out."""
    texts = []
    for column, width in layout:
        text = plain_line(row.get(column.key, ""))
        text = shortened(text, width) if column.shrinks else text
        blank = " " * (width - cells(text))
        texts.append(blank + text if column.right else text + blank)
    return (" " * GAP).join(texts).rstrip()


def head_line(layout: Sequence[tuple[Column, int]]) -> str:
    """The titles of a table that was laid out."""
    return row_line(layout, {column.key: column.title for column, _ in layout})


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, str]], width: int = WIDTH) -> list[str]:
    """Titles, then a line for each row, none wider than ``width`` as far as columns can give way."""
    layout = laid_out(columns, rows, width)
    return [head_line(layout), *(row_line(layout, row) for row in rows)]


Tone = Literal["", "head", "good", "warn", "bad"]
STYLES: dict[str, str] = {"head": "bold", "good": "green", "warn": "yellow", "bad": "red"}


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody watches: a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Screen:
    """Prints lines on stdout, or on stderr, each at once. A quiet one prints nothing.

    ``live`` draws a line at the foot of a terminal, below what is printed; in a file it does nothing.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None, errors: bool = False) -> None:
        """``stream`` replaces stdout; ``errors``: stderr does."""
        self.quiet, self.given, self.errors = quiet, stream, errors
        self.rich: Any = None
        self.drawn: Any = None
        """rich's progress display, while there is one."""
        self.drawn_at = 0.0

    @property
    def stream(self) -> TextIO:
        """Where lines go now."""
        return bare(self.given or (sys.stderr if self.errors else sys.stdout))

    @property
    def is_live(self) -> bool:
        """Whether somebody watches, and there is rich to draw with."""
        return not self.quiet and is_terminal(self.stream) and find_spec("rich") is not None

    @property
    def width(self) -> int:
        """Columns of a table."""
        return shutil.get_terminal_size((WIDTH, 24)).columns if self.is_live else WIDTH

    def say(self, text: str, tone: Tone = "", indent: int = 2) -> None:
        """A sentence, wrapped at words."""
        self.write(wrapped(text, min(self.width, LONGEST), indent), tone)

    def fact(self, name: str, text: str, tone: Tone = "", indent: int = FACT_INDENT) -> None:
        """``name       text``: a name, and what is said of it with a hanging indent."""
        lines = wrapped(text, min(self.width, LONGEST), indent, first=f"{name} ".ljust(indent))
        self.write(lines, tone, head=0 if tone else len(name))

    def table(self, lines: Sequence[str]) -> None:
        """Lines as they are, the first of them titles."""
        self.write(lines[:1], "head")
        self.write(lines[1:])

    def write(self, lines: Sequence[str], tone: Tone = "", head: int = 0) -> None:
        """Lines as they are, all in one tone; or the first ``head`` letters of the first one as a head."""
        if self.quiet or not lines:
            return
        if not self.is_live:
            print("\n".join(lines), file=guarded(self.stream), flush=True)
            return
        from rich.text import Text

        text = Text(spelt("\n".join(lines), self.stream))
        if not os.environ.get("NO_COLOR"):
            text.stylize(STYLES.get(tone, ""))
            text.stylize(STYLES["head"] if head else "", 0, head)
        self.console().print(text, soft_wrap=True)

    def console(self) -> Any:
        """rich's view of the stream; the same one for as long as a line is drawn."""
        if self.rich is None:
            from rich.console import Console

            self.rich = Console(file=self.stream, highlight=False, markup=False, emoji=False)
        return self.rich

    def live(self, before: str, share: float, after: str, *, now: bool = False) -> None:
        """Draw ``before ━━━━── after`` at the foot of a terminal, a few times a second, or at once if ``now``.

        ``share`` of the bar is done, from 0 to 1.
        """
        moment = time.monotonic()
        if not self.is_live or (not now and moment - self.drawn_at < REDRAW_EVERY_S):
            return
        self.drawn_at = moment
        self.drawn = self.drawn or self.begin()
        before = plain_line(before)
        texts = {"description": before, "after": shortened(after, max(self.width - cells(before) - BAR_CELLS - 4, 8))}
        if not self.drawn.task_ids:
            self.drawn.add_task(total=1.0, **texts)
        self.drawn.update(self.drawn.task_ids[0], completed=share, refresh=True, **texts)

    def begin(self) -> Any:
        """rich's bar. What others print meanwhile comes to stand above it; the cursor stays visible, since a process
        that is killed could not bring it back. What an error leaves behind is wiped away at the exit."""
        from rich.progress import BarColumn, Progress, TextColumn

        atexit.register(self.end)
        drawn = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_CELLS),
            TextColumn("{task.fields[after]}", markup=False),
            console=self.console(),
            auto_refresh=False,
            transient=True,
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        )
        before = sys.stdout, sys.stderr
        drawn.start()
        if (sys.stdout, sys.stderr) != before:  # rich takes what is printed, and gives back what was there
            sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr)
        drawn.console.show_cursor(True)
        return drawn

    def end(self) -> None:
        """Wipe the live line away, if there is one."""
        if self.drawn is not None:
            atexit.unregister(self.end)
            self.drawn.stop()
            self.drawn = None
