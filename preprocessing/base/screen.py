# SPDX-License-Identifier: Apache-2.0
"""Where a command speaks to people: a terminal, with colour and a live line, or a file, with plain lines of 80 columns.

rich draws, and is imported at the first line that goes to a terminal. ``NO_COLOR`` and ``TERM=dumb`` are heeded, and
``COLUMNS`` where the output is a terminal.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal, TextIO

from preprocessing.base import terminal
from preprocessing.base.installed import is_importable
from preprocessing.base.printable import bare, guarded, plain_line, printable

Tone = Literal["", "head", "good", "warn", "bad"]
STYLES: dict[str, str] = {"head": "bold", "good": "green", "warn": "yellow", "bad": "red"}
REDRAW_EVERY_S = 0.25
BAR_CELLS = 30
"""A bar is at most this wide."""


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
        """rich's live line, while there is one."""
        self.drawn_at = 0.0

    @property
    def stream(self) -> TextIO:
        """Where lines go now."""
        return bare(self.given or (sys.stderr if self.errors else sys.stdout))

    @property
    def is_live(self) -> bool:
        """Whether somebody watches, and there is rich to draw with."""
        return not self.quiet and is_terminal(self.stream) and is_importable("rich")

    @property
    def width(self) -> int:
        """Columns of a table."""
        return shutil.get_terminal_size((terminal.WIDTH, 24)).columns if self.is_live else terminal.WIDTH

    def say(self, text: str, tone: Tone = "", indent: int = 2) -> None:
        """A sentence, wrapped at words."""
        self.write(terminal.wrapped(text, min(self.width, terminal.LONGEST), indent), tone)

    def fact(self, name: str, text: str, tone: Tone = "", indent: int = terminal.FACT_INDENT) -> None:
        """A name, and what is said of it."""
        lines = terminal.fact(name, text, min(self.width, terminal.LONGEST), indent)
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
            print(spelt("\n".join(lines), self.stream), file=self.stream, flush=True)
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

    def live(self, before: str, share: float | None, after: str, *, now: bool = False) -> None:
        """Draw ``before ━━━━── after`` at the foot of a terminal, a few times a second, or at once if ``now``.

        ``share`` of the bar is done, from 0 to 1; None: there is no bar.
        """
        if not self.is_live:
            return
        moment = time.monotonic()
        if not now and moment - self.drawn_at < REDRAW_EVERY_S:
            return
        self.drawn_at = moment
        if self.drawn is None:
            self.drawn = self.begin()
        self.drawn.update(foot(before, share, after, self.width), refresh=True)

    def begin(self) -> Any:
        """rich's live line. What others print meanwhile comes to stand above it; the cursor stays visible, since a
        process that is killed could not bring it back. What an error leaves behind is wiped away at the exit."""
        from rich.live import Live

        atexit.register(self.end)
        drawn = Live(
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


def spelt(text: str, stream: TextIO) -> str:
    """``text`` that does nothing to a terminal, a question mark for each letter that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(text).encode(encoding, "replace").decode(encoding)


def foot(before: str, share: float | None, after: str, width: int) -> Any:
    """A live line of at most ``width`` cells: the bar gives way first, then the text after it."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    before, after = plain_line(before), plain_line(after)
    free = width - 1 - terminal.cells(before)
    room = free - terminal.cells(after) - 2 * terminal.GAP
    parts: list[Any] = [Text(before)]
    if share is not None and room >= terminal.GAP:
        parts.append(ProgressBar(total=1.0, completed=share, width=min(BAR_CELLS, room)))
    parts.append(Text(terminal.cut(after, max(free - terminal.GAP, 0))))
    line = Table.grid(padding=(0, terminal.GAP, 0, 0))
    line.add_row(*parts)
    return line
