# SPDX-License-Identifier: Apache-2.0
"""What each word of a text adds to the logit of a class: an object to look at, to print and to compute with."""

from __future__ import annotations

import difflib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.inference.word_marks import STYLE, Piece, as_html, as_plain, named, pieces_of, shown, strongest
from preprocessing.base.errors import ConfigError
from preprocessing.text.spans import Span
from preprocessing.text.vocabulary import RESERVED, UNK

if TYPE_CHECKING:
    import pandas as pd

NOTHING_LEFT = "no word of the text was left; the model has read <unk>"
UNKNOWN = RESERVED[UNK]
LISTED = 20
"""Classes that a sentence names."""


@dataclass(frozen=True, kw_only=True)
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
    """What the model says of as many tokens that mean nothing, with which the scores begin to count."""
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
    def verdict(self) -> str:
        """The class and its probability."""
        other = f" (predicted: {shown(self.predicted)})" if self.predicted != self.label else ""
        return f"{shown(self.label)} {self.probability:.4f}{other}"

    @property
    def total(self) -> str:
        """What the words add together."""
        words = f"{self.logit - self.baseline:+.2f} by words"
        return f"logit {self.logit:+.2f} = {self.baseline:+.2f} without words {words}"

    @property
    def head(self) -> str:
        """Both, on one line."""
        return f"{self.verdict}  {self.total}"

    @property
    def notes(self) -> list[str]:
        """What should be known of it beside its words."""
        notes = []
        unknown = self.tokens.count(UNKNOWN)
        if not self.num_tokens:
            notes.append(NOTHING_LEFT)
        elif unknown:
            notes.append(f"unknown to the model: {unknown:,} of {len(self.tokens):,} words")
        if self.num_tokens > len(self.tokens):
            notes.append(f"the model has read {len(self.tokens):,} of {self.num_tokens:,} words")
        if self.missed > max(1e-3 * abs(self.logit - self.baseline), 1e-4):
            notes.append(f"the scores miss the logit by {self.missed:.2g}, after {self.points:,} steps")
        return notes

    def to_html(self) -> str:
        """The marked text with what is said of it, as an element without style."""
        above, below = strongest(self.pieces)
        words = f"<p>for {html.escape(shown(self.label))}: {html.escape(named(above))}</p>"
        words += f"<p>against: {html.escape(named(below))}</p>"
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return (
            f'<p class="padless-head"><b>{html.escape(self.verdict)}</b> <small>{html.escape(self.total)}</small></p>'
            f'<p class="padless-words" dir="auto">{as_html(self.pieces)}</p>'
            f'<div class="padless-named">{words}{notes}</div>'
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<style>{STYLE}</style><div>{self.to_html()}</div>"

    def __str__(self) -> str:
        above, below = strongest(self.pieces)
        words = [f"for {shown(self.label)}: {named(above)}", f"against: {named(below)}"]
        return "\n".join([self.head, *as_plain(self.pieces).splitlines(), *words, *self.notes])

    def __repr__(self) -> str:
        what = f"{len(self.tokens)} token{'s' * (len(self.tokens) != 1)}, {self.label} {self.probability:.4f}"
        return f"<padless explanation of {shown(self.text[:40])!r}: {what}>"


def check_label(label: object, labels: Sequence[str]) -> None:
    """Raise ``ConfigError`` that names the classes there are, the nearest first, for one that is none of them."""
    if label in labels:
        return
    near = difflib.get_close_matches(str(label), labels, 1, 0.6)
    meant = f", did you mean {near[0]!r}" if near else ""
    more = f", and {len(labels) - LISTED:,} more" if len(labels) > LISTED else ""
    raise ConfigError(f"label: the model has no class {str(label)!r}{meant}; it has {', '.join(labels[:LISTED])}{more}")
