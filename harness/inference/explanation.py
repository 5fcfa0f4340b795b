# SPDX-License-Identifier: Apache-2.0
"""A text whose words are marked by how much each adds to a class: as data, text, a terminal's colours, JSON and HTML.

Orange speaks for a class and blue against it, which colour-blind readers can tell apart. Where there is no colour, a
solid or a dotted line below the word says the same, or its score behind it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import Screen, plain_line, printable, public
from preprocessing.text.cleaning import encode
from preprocessing.text.encoder import Span
from preprocessing.text.vocabulary import RESERVED, UNK

if TYPE_CHECKING:
    import pandas as pd

NOTHING_LEFT = "no word of the text was left; the model has read <unk>"
UNKNOWN = RESERVED[UNK]
LISTED = 20
"""Classes that a sentence names."""
Explained = tuple[int | None, "Explanation"]
"""A text's row in its file, if it has one, and the text explained."""
GENERATOR = "padless explain"
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

Piece = tuple[str, float]
"""A part of a text, and how much it adds; 0 for what is no word of the model."""
FAINTEST = 0.1
"""Words of less than this share of the text's largest score have no mark."""
LONGEST, KEPT = 1200, 300
"""A longer stretch without any mark is shown by this many letters of either end."""
NAMED = 5
"""So many of the strongest words are named, for and against."""
STYLE = """
.padless-words { overflow-wrap: anywhere; white-space: pre-line; unicode-bidi: isolate; }
.padless-words mark { color: inherit; padding: 0 2px; border-radius: 3px; unicode-bidi: isolate; }
.padless-words mark.for { background: rgba(232, 89, 12, var(--a)); border-bottom: 2px solid rgb(232, 89, 12); }
.padless-words mark.against { background: rgba(28, 126, 214, var(--a)); border-bottom: 2px dotted rgb(28, 126, 214); }
.padless-named { opacity: .75; font-size: .85em; }
.padless-named p { margin: 0; }
"""
SHADES = {
    True: ("black on #fde0cc", "black on #f9b27f", "bold black on #f2862f"),
    False: ("black on #d3e6fa", "black on #94c4f2", "bold black on #5aa2e6"),
}
"""Styles of rich for words for a class and against it, from faint to strong."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Explanation:
    """Integrated gradients of one text: ``sum(scores)`` is ``logit - baseline``.

    Logits are calibrated ones of ``label``: for two classes its log-odds against the other, so ``probability`` is their
    sigmoid; for more the one that goes into the softmax. Above zero a score speaks for the label, below against it.
    """

    text: str
    label: str
    """The class that is explained: the predicted one, unless another was asked for."""
    predicted: str
    probability: float
    """Of ``label``."""
    tokens: tuple[str, ...]
    """What the model has read, ``<unk>`` for what is not in its vocabulary."""
    spans: tuple[Span | None, ...]
    """Where each token stands: ``text[start:end]``; None for one that stands nowhere."""
    scores: tuple[float, ...]
    """How much each token adds."""
    logit: float
    baseline: float
    """Logit of a blank text with as many tokens; scores add up to the difference from it."""
    num_tokens: int
    """Tokens of the whole text, of which a long one's middle or end is not read; 0 where nothing was left of it."""
    points: int
    """How often the network was read for it."""

    @property
    def missed(self) -> float:
        """By how much the sum of the scores misses what it explains: no more than a thousandth, but in odd cases."""
        return abs(sum(self.scores) - (self.logit - self.baseline))

    @cached_property
    def pieces(self) -> list[Piece]:
        """The text in pieces with their scores; what the model has not read has 0."""
        return pieces_of(self.text, self.spans, self.scores)

    def to_frame(self) -> pd.DataFrame:
        """A row for each token: ``token``, ``score``, and its place ``start``, ``end`` in the text."""
        import pandas as pd

        frame = pd.DataFrame({"token": self.tokens, "score": self.scores})
        for place, name in enumerate(("start", "end")):
            values = [None if span is None else span[place] for span in self.spans]
            frame[name] = pd.array(values, dtype="Int64")
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the command ``explain`` writes them as JSON."""
        return {
            "text": self.text,
            "label": self.label,
            "predicted": self.predicted,
            "probability": self.probability,
            "logit": self.logit,
            "baseline": self.baseline,
            "tokens": list(self.tokens),
            "spans": [None if span is None else list(span) for span in self.spans],
            "scores": list(self.scores),
        }

    @property
    def head(self) -> str:
        """The class and its probability, and what the words add together."""
        other = f" (predicted: {shown(self.predicted)})" if self.predicted != self.label else ""
        words = f"base {self.baseline:+.2f} + words {self.logit - self.baseline:+.2f}"
        return f"{shown(self.label)} {self.probability:.4f}{other}  score {self.logit:+.2f} = {words}"

    @property
    def summary(self) -> list[str]:
        """Sentences below the text: the strongest words, and what else should be known."""
        lines = [f"for {shown(self.label)}: {strongest(self.pieces, 1)}", f"against: {strongest(self.pieces, -1)}"]
        unknown = self.tokens.count(UNKNOWN)
        if not self.num_tokens:
            lines.append(NOTHING_LEFT)
        elif unknown:
            lines.append(f"unknown to the model: {unknown:,} of {len(self.tokens):,} words")
        if self.num_tokens > len(self.tokens):
            lines.append(f"the model has read {len(self.tokens):,} of {self.num_tokens:,} words")
        if self.missed > max(1e-3 * abs(self.logit - self.baseline), 1e-4):
            lines.append(f"the scores miss the logit by {self.missed:.2g}, after {self.points:,} steps")
        return lines

    def to_html(self) -> str:
        """The marked text with what is said of it, as an element without style."""
        summary = "".join(f"<p>{html.escape(line)}</p>" for line in self.summary)
        return (
            f'<p class="padless-head"><b>{html.escape(self.head)}</b></p>'
            f'<p class="padless-words" dir="auto">{as_html(self.pieces)}</p>'
            f'<div class="padless-named">{summary}</div>'
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<style>{STYLE}</style><div>{self.to_html()}</div>"

    def __str__(self) -> str:
        return "\n".join([self.head, *as_plain(self.pieces).splitlines(), *self.summary])

    def __repr__(self) -> str:
        return f"<padless explanation of {shown(self.text[:40])!r}: {self.head}>"


def check_label(label: object, labels: Sequence[str]) -> None:
    """Raise ``ConfigError`` that names the classes there are for one that is none of them."""
    if label not in labels:
        more = f", and {len(labels) - LISTED:,} more" if len(labels) > LISTED else ""
        raise ConfigError(f"label: the model has no class {str(label)!r}; it has {', '.join(labels[:LISTED])}{more}")


def write_all(stream: TextIO, form: str, run: str, explanations: Iterable[Explained]) -> int:
    """Write explanations as ``text``, ``json`` (an object a line) or ``html`` (one page without script or other files),
    each as soon as it is there; returns how many.
    """
    number = 0
    for row, one in explanations:
        if form == "html":
            stream.write("" if number else page_start(run))
            number_of_row = "" if row is None else f'<p class="row">row {row:,}</p>'
            stream.write(f"<article>{number_of_row}{one.to_html()}</article>\n")
        elif form == "json":
            values = ({} if row is None else {"row": row}) | one.to_dict()
            stream.write(encode(json.dumps(values, ensure_ascii=False)).decode() + "\n")
        else:
            write_text(Screen(stream=stream), row, one)
        stream.flush()
        number += 1
    if form == "html" and number:
        stream.write(f'<p class="note">{number:,} {"text" if number == 1 else "texts"}.</p>\n</body></html>\n')
    return number


def write_text(screen: Screen, row: int | None, one: Explanation) -> None:
    """For people: colours in a terminal, scores behind words elsewhere."""
    screen.say((f"row {row:,}: " if row is not None else "") + one.head, "head")
    if screen.is_live and not os.environ.get("NO_COLOR"):
        from rich.console import Console

        Console(file=screen.stream).print(as_rich(one.pieces))
    else:
        for line in as_plain(one.pieces).splitlines():
            screen.say(line, indent=0)
    for line in one.summary:
        screen.say(line)
    screen.write([""])


def page_start(run: str) -> str:
    """The head of a page of explanations, and the legend."""
    title = plain_line(public(f"What words add: {run}"))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{page_head(title, GENERATOR, PAGE_STYLE + STYLE)}</head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n"
        f'<p class="note"><span class="padless-words">{as_html(LEGEND)}</span>the stronger the colour, the more, '
        "within one text. Integrated gradients: the scores of all words add up to the logit of the class, relative to "
        "a blank text of the same length. Without colour: words that the model has not read, or that add almost "
        "nothing.</p>\n"
    )


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


def shown(text: str) -> str:
    """A text with newlines as line ends, and control characters spelled out, which do nothing to a terminal then."""
    return printable(unix_lines(text))


def unix_lines(text: str) -> str:
    """``text`` whose lines all end with a newline, as a page ends them."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


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


def marked(pieces: Sequence[Piece]) -> list[tuple[str, float, float]]:
    """Text to be shown, score, and share of the largest score, from -1 to 1; both are 0 for a stretch without a mark,
    of which a long one is shown by its ends.
    """
    largest = max((abs(score) for _, score in pieces), default=0.0) or 1.0
    result: list[tuple[str, float, float]] = []
    for is_clear, some in itertools.groupby(pieces, lambda piece: abs(piece[1]) > FAINTEST * largest):
        if is_clear:
            result += [(shown(text), score, score / largest) for text, score in some]
            continue
        text = "".join(text for text, _ in some)
        if len(text) > LONGEST:
            text = f"{text[:KEPT]} … {len(text) - 2 * KEPT:,} characters … {text[-KEPT:]}"
        result.append((shown(text), 0.0, 0.0))
    return result


def as_html(pieces: Sequence[Piece]) -> str:
    """The marked text as the inside of an element of the class ``padless-words``; see ``STYLE``."""
    parts = []
    for text, score, share in marked(pieces):
        part = html.escape(text)
        if score:
            kind, strength = "for" if score > 0 else "against", 0.1 + 0.5 * abs(share)
            part = f'<mark class="{kind}" style="--a: {strength:.2f}" title="{score:+.3f}">{part}</mark>'
        parts.append(part)
    return "".join(parts)


def as_plain(pieces: Sequence[Piece]) -> str:
    """The text with scores behind its stronger words: ``a wonderful[+1.24] film``."""
    text = "".join(f"{text}[{score:+.2f}]" if score else text for text, score, _ in marked(pieces))
    return "\n".join(" ".join(line.split()) for line in text.split("\n") if line.strip())


def as_rich(pieces: Sequence[Piece]) -> Any:
    """The text in the colours of a terminal, as rich prints it."""
    from rich.text import Text

    result = Text()
    for text, score, share in marked(pieces):
        shades = SHADES[score > 0]
        result.append(text, shades[min(int(abs(share) * len(shades)), len(shades) - 1)] if score else None)
    return result


def strongest(pieces: Sequence[Piece], sign: int) -> str:
    """The words that add most, or take most away, the strongest first, for a sentence; equal words are one."""
    sums: defaultdict[str, float] = defaultdict(float)
    for text, score in pieces:
        if score:
            sums[" ".join(shown(text).split()).lower()] += score
    largest = max(map(abs, sums.values()), default=0.0)
    clear = [(word, score) for word, score in sums.items() if sign * score > FAINTEST * largest]
    ordered = sorted(clear, key=lambda one: -abs(one[1]))[:NAMED]
    return ", ".join(f"{word} {score:+.2f}" for word, score in ordered) or "no word"
