# SPDX-License-Identifier: Apache-2.0
"""A text in pieces with a score each, and the same with marks: as HTML, in the colours of a terminal, or in plain
letters.

Orange speaks for a class and blue against it: eyes that see no red or no green tell these apart. Where there is no
colour, a sign does it: a solid line or a dotted one below the word, or its score behind it.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import Any

from preprocessing.text.spans import Span

Piece = tuple[str, float]
"""A part of a text, and how much it adds; 0 for what is no word of the model."""
FAINTEST = 0.08
"""Words of less than this share of the text's largest score have no mark."""
FAINTEST_NUMBER = 0.15
"""The same where each mark is a number."""
LONGEST, KEPT = 1200, 300
"""A longer stretch without any mark is shown by this many letters of either end."""
NAMED = 5
"""So many of the strongest words are named, for and against."""
STYLE = """
.padless-words { overflow-wrap: anywhere; white-space: pre-line; unicode-bidi: isolate; }
.padless-words mark { color: inherit; padding: 0 2px; border-radius: 3px; unicode-bidi: isolate; }
.padless-words mark.for { background: rgba(232, 89, 12, var(--a)); border-bottom: 2px solid rgb(232, 89, 12); }
.padless-words mark.against { background: rgba(28, 126, 214, var(--a)); border-bottom: 2px dotted rgb(28, 126, 214); }
.padless-named, .padless-head small { opacity: .75; font-size: .85em; }
.padless-named p { margin: 0; }
.padless-words .cut { opacity: .65; font-style: italic; }
"""
SHADES = {
    True: ("black on #fde0cc", "black on #f9b27f", "bold black on #f2862f"),
    False: ("black on #d3e6fa", "black on #94c4f2", "bold black on #5aa2e6"),
}
"""Styles of rich for words for a class and against it, from faint to strong."""
_SHOWN: dict[int, str] = {
    **{point: chr(0x2400 + point) for point in range(0x20) if chr(point) not in "\t\n\r"},
    0x7F: "\u2421",
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\ufffd"),
    **dict.fromkeys(range(0xD800, 0xE000), "\ufffd"),
}


def shown(text: str) -> str:
    """A text that does nothing to whoever shows it: control characters as their pictures, letter for letter."""
    return text.translate(_SHOWN)


def unix_lines(text: str) -> str:
    """``text`` whose lines all end with a newline, as a page ends them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def page_head(title: str, generator: str, style: str) -> str:
    """What stands in the head of every page: its title and style sheet, and that nothing else may act or be loaded.

    The style sheet is known by its hash. Attributes of elements may hold styles, since charts and marks have them, and
    every value in them is ours. ``generator`` says what wrote the page.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src 'sha256-{digest}'",
            "style-src-attr 'unsafe-inline'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="generator" content="{generator}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n"
    )


def pieces_of(text: str, spans: Sequence[Span | None], scores: Sequence[float]) -> list[Piece]:
    """The text in pieces that give it when they are joined; tokens that share letters are one piece, with their sum."""
    merged: list[tuple[int, int, float]] = []
    placed = sorted((*span, score) for span, score in zip(spans, scores, strict=True) if span is not None)
    for start, end, score in placed:
        if merged and start < merged[-1][1]:
            first, last, before = merged[-1]
            merged[-1] = (first, max(end, last), before + score)
        else:
            merged.append((start, end, score))
    result: list[Piece] = []
    position = 0
    for start, end, score in merged:
        result += [(text[position:start], 0.0)] * (start > position)
        result.append((text[start:end], score))
        position = end
    return result + [(text[position:], 0.0)] * (position < len(text))


def largest_of(pieces: Iterable[Piece]) -> float:
    """The largest score, as an absolute value; 1 where all are 0."""
    return max((abs(score) for _, score in pieces), default=0.0) or 1.0


def without_faint(pieces: Sequence[Piece], faintest: float = FAINTEST) -> list[tuple[str, float, float]]:
    """Text, score and share of the largest score, from -1 to 1; neighbours without a mark are one piece."""
    largest = largest_of(pieces)
    result: list[tuple[str, float, float]] = []
    for text, score in pieces:
        marked = abs(score) > faintest * largest
        if not marked and result and not result[-1][1]:
            result[-1] = (result[-1][0] + text, 0.0, 0.0)
        else:
            result.append((text, score, score / largest) if marked else (text, 0.0, 0.0))
    return result


def shortened(text: str) -> tuple[str, str, str]:
    """A stretch without marks: its start, what is said of letters that are left out, and its end."""
    if len(text) <= LONGEST:
        return text, "", ""
    return text[:KEPT], f" … {len(text) - 2 * KEPT:,} characters … ", text[-KEPT:]


def calm(text: str) -> str:
    """A stretch without marks, in a terminal."""
    return "".join(map(shown, shortened(text)))


def as_html(pieces: Sequence[Piece]) -> str:
    """The marked text as the inside of an element of the class ``padless-words``; see ``STYLE``."""
    parts = []
    for text, score, share in without_faint(pieces):
        if score:
            kind, strength = "for" if score > 0 else "against", 0.1 + 0.5 * abs(share)
            written = html.escape(shown(unix_lines(text)))
            parts.append(f'<mark class="{kind}" style="--a: {strength:.2f}" title="{score:+.3f}">{written}</mark>')
            continue
        start, left_out, end = (html.escape(shown(unix_lines(part))) for part in shortened(text))
        parts.append(start + (f'<span class="cut">{left_out}</span>' if left_out else "") + end)
    return "".join(parts)


def as_plain(pieces: Sequence[Piece]) -> str:
    """The text with scores behind its stronger words: ``a wonderful[+1.24] film``."""
    marked = without_faint(pieces, FAINTEST_NUMBER)
    parts = [f"{shown(text)}[{score:+.2f}]" if score else calm(text) for text, score, _ in marked]
    return "\n".join(" ".join(line.split()) for line in "".join(parts).split("\n") if line.strip())


def as_rich(pieces: Sequence[Piece]) -> Any:
    """The text in the colours of a terminal, as rich prints it."""
    from rich.text import Text

    result = Text()
    for text, score, share in without_faint(pieces):
        if score:
            shades = SHADES[score > 0]
            result.append(shown(text), shades[min(int(abs(share) * len(shades)), len(shades) - 1)])
        else:
            result.append(calm(text))
    return result


def strongest(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """The words that add most, and those that take most away, the strongest first; equal words are one."""
    sums: dict[str, float] = {}
    for text, score in pieces:
        if score:
            word = " ".join(shown(text).split()).lower()
            sums[word] = sums.get(word, 0.0) + score
    largest = largest_of(sums.items())
    clear = [(word, score) for word, score in sums.items() if abs(score) > FAINTEST * largest]
    ordered = sorted(clear, key=lambda piece: -abs(piece[1]))
    above, below = ([one for one in ordered if (one[1] > 0) == positive][:NAMED] for positive in (True, False))
    return above, below


def named(words: Sequence[Piece]) -> str:
    """Words with their scores, for a sentence."""
    return ", ".join(f"{word} {score:+.2f}" for word, score in words) or "no word"
