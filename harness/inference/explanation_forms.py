# SPDX-License-Identifier: Apache-2.0
"""Explanations as they are written, one after the other: for people, as JSON lines, as one page."""

from __future__ import annotations

import html
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TextIO

from harness.inference.explanation import Explanation
from harness.inference.word_marks import STYLE, as_html, as_plain, as_rich, named, page_head, shown, strongest
from preprocessing.base.printable import plain_line, public
from preprocessing.base.screen import Screen
from preprocessing.text.unicode import encode

Explained = tuple[int | None, Explanation]
"""A text's row in its file, if it has one, and the text explained."""
EXPLANATIONS = "padless explain"
"""What a page of explanations says that it was made by."""
LEGEND = [("These words", 1.0), (" speak for the class, ", 0.0), ("these", -1.0), (" against it; ", 0.0)]
PAGE_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1b2026; --quiet: #5a6572; --line: #d9dee5; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #111418; --card: #1a1f25; --ink: #e6e9ed; --quiet: #9aa6b2; --line: #36404b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 20px clamp(12px, 3vw, 28px) 40px; max-width: 1000px;
  background: var(--page); color: var(--ink); font: 16px/1.6 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 4px; font-size: 1.5rem; overflow-wrap: anywhere; }
.note { color: var(--quiet); font-size: .9rem; overflow-wrap: anywhere; }
article { margin: 16px 0; padding: 14px 18px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
article > p { margin: 0 0 8px; overflow-wrap: anywhere; }
.note .padless-words { color: var(--ink); }
.row { color: var(--quiet); font-size: .8rem; }
@media print { * { print-color-adjust: exact; } article { break-inside: avoid; } }
"""


class Written(ABC):
    """Explanations that go to a stream."""

    def __init__(self, stream: TextIO, run: str) -> None:
        """``run`` is named where there is room for it."""
        self.stream, self.run = stream, run

    def write_all(self, explanations: Iterable[Explained]) -> int:
        """Write all of them, each as soon as it is there, with their rows; returns how many."""
        number = 0
        for row, one in explanations:
            if not number:
                self.begin()
            self.write(row, one)
            self.stream.flush()
            number += 1
        self.end(number)
        return number

    def begin(self) -> None:  # noqa: B027 - most need nothing
        """What stands before the first one."""

    @abstractmethod
    def write(self, row: int | None, one: Explanation) -> None:
        """One of them."""

    def end(self, number: int) -> None:  # noqa: B027 - most need nothing
        """What stands behind the last."""


class WrittenText(Written):
    """For people: colours in a terminal, scores behind words elsewhere."""

    def write(self, row: int | None, one: Explanation) -> None:
        """The head, the marked text, the strongest words, and a blank line."""
        screen = Screen(stream=self.stream)
        screen.say((f"row {row:,}: " if row is not None else "") + one.head, "head")
        if screen.is_live and not os.environ.get("NO_COLOR"):
            screen.console().print(as_rich(one.pieces))
        else:
            for line in as_plain(one.pieces).splitlines():
                screen.say(line, indent=0)
        above, below = strongest(one.pieces)
        screen.say(f"for {shown(one.label)}: {named(above)}")
        screen.say(f"against: {named(below)}")
        for note in one.notes:
            screen.say(note)
        screen.write([""])


class WrittenJson(Written):
    """A JSON object a line."""

    def write(self, row: int | None, one: Explanation) -> None:
        """One line; a file's rows have their number."""
        values = ({} if row is None else {"row": row}) | one.to_dict()
        self.stream.write(encode(json.dumps(values, ensure_ascii=False)).decode() + "\n")


class WrittenPage(Written):
    """One page that needs no other file, and no script."""

    def begin(self) -> None:
        """The head of the page and the legend."""
        title = plain_line(public(f"What words add: {self.run}"))
        head = page_head(title, EXPLANATIONS, PAGE_STYLE + STYLE)
        self.stream.write(
            f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><h1>{html.escape(title)}</h1>\n'
            f'<p class="note"><span class="padless-words">{as_html(LEGEND)}</span>the stronger the colour, the more, '
            "within one text. Integrated gradients: the scores of all words together are the logit of the class less "
            "what the model says of as many words that mean nothing. Without colour: what the model has "
            "not read, or what hardly weighs anything.</p>\n"
        )

    def write(self, row: int | None, one: Explanation) -> None:
        """A card."""
        number = "" if row is None else f'<p class="row">row {row:,}</p>'
        self.stream.write(f"<article>{number}{one.to_html()}</article>\n")

    def end(self, number: int) -> None:
        """The foot of the page."""
        self.stream.write(f'<p class="note">{number:,} {"text" if number == 1 else "texts"}.</p>\n</body></html>\n')


FORMS: dict[str, type[Written]] = {"text": WrittenText, "json": WrittenJson, "html": WrittenPage}
