# SPDX-License-Identifier: Apache-2.0
"""What a terminal is told: letters of labels, texts, paths and options, never a command to it.

Escape sequences, other control characters and those that turn the direction of writing are spelt as JSON spells them,
``\u001b``. So a person sees them, and what a program reads as JSON keeps its values.

Names, passwords and tokens of an address are cut (:func:`public`) from all that is said or written down.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

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
    """A name as code of Markdown, whatever is in it."""
    line = _one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if line.startswith("`") or line.endswith("`") else f"{fence}{line}{fence}"


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
        encoding = getattr(self.guarded, "encoding", None) or "utf-8"
        self.guarded.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.guarded, name)


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
