# SPDX-License-Identifier: Apache-2.0
"""Output for people: in a terminal of its width and with a live line, in a file as plain lines of 80 columns.

Control characters in labels, texts, paths and options are escaped as in JSON, ``\\u001b``, before they are printed, so
printed JSON keeps its values. :func:`public` removes passwords and tokens of addresses from all that is printed or
recorded. ``TERM=dumb`` has its usual effect, ``COLUMNS`` only in a terminal.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 except newline and tab, DEL, C1, line separators, direction overrides, surrogates."""
ADDRESS = re.compile(
    r"""([a-z][a-z0-9+.-]*://)                              # the protocol
    ([^\s/?\#"]*@ | [^\s/?\#@":]+:(?!\d+[/?\#\s])[^\s"]*@)?  # a name, and a password, which may hold a slash
    ([^\s?\#"]*) ([?\#][^\s"]*)?""",
    re.IGNORECASE | re.VERBOSE,
)


def printable(text: str) -> str:
    """``text`` with control characters escaped; newlines and tabs stay."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def plain_line(text: str) -> str:
    """``text`` with control characters, newlines and tabs escaped."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def public(text: str) -> str:
    """``text`` without the secrets of its addresses: user, password, and all from ``?`` or ``#`` on.

    A ``?`` of a pattern stays if the protocol has no queries.
    """
    return ADDRESS.sub(address_without_secrets, text)


def address_without_secrets(match: re.Match[str]) -> str:
    """An ``ADDRESS`` without user, password and query."""
    protocol, host_and_path, query = match[1], match[3], match[4] or ""
    if protocol.lower().startswith("http") or "=" in query:
        query = query[len(query.rstrip(".,:;)]}'")) :]  # of the sentence around it
    return f"{protocol}{host_and_path}{query}"


def public_sentence(text: str) -> str:
    """:func:`public`, also where the sentence repeats the password of one of its addresses, as errors of drivers do."""
    sentence = public(text)
    for address in ADDRESS.finditer(text):
        credentials = (address[2] or "").removesuffix("@")
        for secret in filter(None, (credentials, *re.split("[/@]", credentials.partition(":")[2]))):
            sentence = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", sentence)
    return sentence


def public_values(value: Any) -> Any:
    """:func:`public` applied to all texts in nested lists and dicts."""
    if isinstance(value, dict):
        return {key: public_values(part) for key, part in value.items()}
    if isinstance(value, list):
        return [public_values(part) for part in value]
    return public(value) if isinstance(value, str) else value


def print_stderr(sentence: str) -> None:
    """Print one line on stderr, in a terminal broken between words."""
    Screen(errors=True).print_lines(plain_line(public_sentence(sentence)))


class Guarded:
    """A text stream that escapes control characters and characters that its encoding lacks.

    Files and pipes get the same text as a terminal, since people read logs in one. JSON keeps its meaning; for another
    format, write to the ``unguarded`` stream.
    """

    def __init__(self, stream: TextIO) -> None:
        """``stream`` receives the escaped text."""
        self.guarded = stream

    def write(self, text: str) -> int:
        """Write; returns the number of characters in ``text``."""
        wipe()
        self.guarded.write(escape_for_stream(text, self.guarded))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)


def escape_for_stream(text: str, stream: TextIO) -> str:
    """``text`` with control characters, and characters that the stream's encoding lacks, escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def unguarded(stream: TextIO) -> TextIO:
    """The stream without ``Guarded``, for code that escapes by itself and moves the cursor, or writes binary."""
    return stream.guarded if isinstance(stream, Guarded) else stream


def duration(seconds: float) -> str:
    """``1h02m``, ``3m05s`` or ``12s``."""
    num_seconds = round(seconds)
    if num_seconds >= 3600:
        return f"{num_seconds // 3600}h{num_seconds % 3600 // 60:02d}m"
    return f"{num_seconds // 60}m{num_seconds % 60:02d}s" if num_seconds >= 60 else f"{num_seconds}s"


def size(number: int) -> str:
    """Bytes as ``7 kB``, ``12 MB`` or ``3.4 GB``."""
    if number < 1e6:
        return f"{number / 1e3:.0f} kB"
    return f"{number / 1e6:,.0f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"


def percent(share: float) -> str:
    """A share as ``12%``; below 10 % with two significant digits, as ``1.2%`` or ``0.012%``."""
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"


def count_noun(number: int, noun: str) -> str:
    """``1 window``, ``12 windows``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


WIDTH = 80
"""Columns of a file, and of a terminal of unknown width."""
MAX_WIDTH = 100
"""Most columns that are used in a terminal: longer lines are hard to read."""
FACT_INDENT = 11
"""Column where the text of a fact begins."""
MIN_EXCERPT = 20
"""Least columns of a text that is shown in part, behind whatever head."""
GAP = "  "
"""Between two columns of a table."""
REDRAW_EVERY_S = 0.5
LINE_EVERY_S = 10.0
"""Least time between two lines on work in progress in a file or a pipe."""


def shorten_line(text: str, max_cells: int) -> str:
    """``text`` on one line with single blanks, cut to ``max_cells`` with an ellipsis."""
    from rich.text import Text

    line = Text(plain_line(" ".join(text.split())))
    line.truncate(max_cells, overflow="ellipsis")
    return line.plain


def wrap_text(text: str, width: int, indent: int = 2, head: str = "") -> list[str]:
    """``head`` and ``text`` as lines of at most ``width`` characters, broken between words; all but the first have an
    ``indent``. A word longer than a line, such as a path, is not broken.
    """
    wrapper = textwrap.TextWrapper(width, head, " " * indent, break_long_words=False, break_on_hyphens=False)
    wrapper.expand_tabs = wrapper.replace_whitespace = False
    lines: list[str] = []
    for paragraph in printable(text).split("\n"):
        lines += wrapper.wrap(paragraph) or [wrapper.initial_indent.rstrip()]
        wrapper.initial_indent = " " * indent if head else ""
    return lines


def table(rows: Sequence[Mapping[str, str]], left: Collection[str] = ()) -> list[str]:
    """The keys of ``rows`` as titles, then a line for each row; columns are right-aligned, except those in ``left``."""
    from rich.console import Console
    from rich.table import Table

    titles = list(dict.fromkeys(title for row in rows for title in row))
    grid = Table(box=None, padding=(0, len(GAP), 0, 0), pad_edge=False)
    for title in titles:
        grid.add_column(plain_line(title), justify="left" if title in left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*(plain_line(row.get(title, "")) for title in titles))
    console = Console(width=1 << 16, color_system=None, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(grid)
    text = capture.get()  # cannot hang: rich's text
    return [line.rstrip() for line in text.splitlines()]


WIPE = "\r\x1b[J"
live_streams: list[TextIO] = []
"""The stream with live lines, while there are any."""


def wipe() -> None:
    """Erase the live lines, if there are any, so that the next output replaces them."""
    with suppress(IndexError):
        print(WIPE, end="", file=live_streams.pop(), flush=True)


@dataclass
class Screen:
    """Prints lines on stdout or stderr and flushes each; nothing if ``quiet``.

    In a terminal each begins by erasing the line of the cursor, where another process may have a live line.
    """

    quiet: bool = False
    errors: bool = False
    """Print on stderr."""

    @property
    def stream(self) -> TextIO:
        """The stream for output."""
        return unguarded(sys.stderr if self.errors else sys.stdout)

    @property
    def is_live(self) -> bool:
        """Whether output goes to a terminal that can move its cursor."""
        return not self.quiet and self.stream.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def width(self) -> int:
        """Most columns of a line."""
        return min(shutil.get_terminal_size((WIDTH, 24)).columns, MAX_WIDTH) if self.is_live else WIDTH

    def print_text(self, text: str) -> None:
        """Print a sentence, wrapped."""
        self.write(wrap_text(text, self.width))

    def print_lines(self, text: str) -> None:
        """Print lines, which are broken between words in a terminal; in a file or a pipe each stays whole."""
        self.write(wrap_text(text, self.width) if self.is_live else text.split("\n"))

    def fact(self, name: str, text: str) -> None:
        """Print ``name       text`` with a hanging indent."""
        self.write(wrap_text(text, self.width, FACT_INDENT, f"{name} ".ljust(FACT_INDENT)))

    def print_excerpt(self, head: str, text: str) -> None:
        """Print a ``head``, then as much of a text as the rest of the line has room for."""
        from rich.cells import cell_len

        self.write([head + shorten_line(text, max(self.width - cell_len(head), MIN_EXCERPT))])

    def write(self, lines: Sequence[str]) -> None:
        """Print lines."""
        if self.quiet or not lines:
            return
        text = escape_for_stream("\n".join(lines), self.stream)
        wipe()
        # at once: other processes write here too
        print(f"{WIPE if self.is_live else ''}{text}\n", end="", file=self.stream, flush=True)

    def show_work(self, work: str) -> None:
        """Name work without a measure on the live line of a terminal, until the next output."""
        if self.is_live:
            self.draw(f"{work} …")

    def draw(self, *lines: str) -> None:
        """Replace the live lines of a terminal; the cursor stays on the first one."""
        wipe()
        live_streams.append(self.stream)
        text = "\n".join(escape_for_stream(plain_line(line)[: self.width - 1], self.stream) for line in lines)
        above = f"\r\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        print(text + above, end="", file=self.stream, flush=True)


def progress_line(share: float, first: str, *details: str) -> str:
    """A line on work of which a share from 0 to 1 is done; it follows the first text, unless it is 0."""
    percentage = [f"{share:.0%}"] if share else []  # none while the total is not known
    return GAP.join([first, *percentage, *details])


class Live:
    """Lines on work in progress: in a terminal a thread redraws them twice a second; in a file or a pipe those that
    have changed are printed every ten seconds.

    ``compose`` returns the lines. It is called in the thread.
    """

    def __init__(self, compose: Callable[[], Sequence[str]], screen: Screen) -> None:
        """Start the thread, unless ``screen`` is quiet."""
        self.compose, self.screen = compose, screen
        self.printed_lines, self.printed_at = set[str](), time.monotonic()
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._redraw, name="padless-live")
        if not screen.quiet:
            self.thread.start()

    def _redraw(self) -> None:
        with suppress(OSError, ValueError):  # a closed terminal, a full disk
            # a thread that prints while the interpreter ends would abort it
            while threading.main_thread().is_alive() and not self.closed.wait(REDRAW_EVERY_S):
                self.show()

    def show(self) -> None:
        """Draw the lines now; print them where there is no terminal, if that is due."""
        lines, now_s = self.compose(), time.monotonic()
        if self.screen.is_live:
            self.screen.draw(*lines)
        elif now_s - self.printed_at >= LINE_EVERY_S:
            self.screen.write([line for line in lines if line not in self.printed_lines])
            self.printed_lines, self.printed_at = {*lines}, now_s

    def close(self) -> None:
        """End the thread and erase the line."""
        self.closed.set()
        if self.thread.is_alive():
            self.thread.join(LINE_EVERY_S)  # at once, unless the terminal is held
        wipe()
