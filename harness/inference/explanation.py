# SPDX-License-Identifier: Apache-2.0
"""``padless explain``: how much each word of a text adds to the calibrated log-odds of a class. The results
are objects, text, JSON or one HTML page.

In HTML, orange marks words for a class and blue words against it; colour-blind readers can tell them apart. A solid or
dotted underline shows the same.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from harness.inference.config import ExplainConfig, Form
from harness.inference.rows import find_files, iter_texts, refuse_input
from harness.ranks.devices import check_device
from harness.rundir.bundle_files import bundle_directory, read_classifier
from preprocessing.base import atomic
from preprocessing.base.atomic import check_replaced, storing, temporary_folder
from preprocessing.base.errors import ConfigError
from preprocessing.base.terminal import Screen, bare, counted, plain_line, printable, public, shortened
from preprocessing.corpus.sources import File
from preprocessing.text.cleaning import encode
from preprocessing.text.encoder import Span, spans_of
from preprocessing.text.vocabulary import RESERVED, UNK

if TYPE_CHECKING:
    import pandas as pd

    from harness.inference.bundle import Bundle

NO_KNOWN_WORD = "no known word: these are the shares of the classes among the training rows"
UNKNOWN = RESERVED[UNK]
LISTED = 400
"""Maximum width of a list of classes in a message."""
GENERATOR = "padless explain"
"""``generator`` of a page of explanations."""
WRITTEN_BY_US: dict[Form, str] = {"html": f'content="{GENERATOR}"', "json": '"baseline": ', "text": " = base "}
"""What an existing file of each form is recognised by."""
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
.row:empty { display: none; }
@media print { * { print-color-adjust: exact; } article { break-inside: avoid; } }
"""

Piece = tuple[str, float]
"""A part of a text, and its score; 0 for text that the model has not read."""
FAINTEST = 0.1
"""Words below this share of the text's largest score are not marked."""
LONGEST, KEPT = 1200, 300
"""Unmarked text of more than ``LONGEST`` characters is shortened to its first and last ``KEPT``."""
STYLE = """
.padless-words { overflow-wrap: anywhere; white-space: pre-line; unicode-bidi: isolate; }
.padless-words mark { color: inherit; padding: 0 2px; border-radius: 3px; unicode-bidi: isolate; }
.padless-words mark.for { background: rgba(232, 89, 12, var(--a)); border-bottom: 2px solid rgb(232, 89, 12); }
.padless-words mark.against { background: rgba(28, 126, 214, var(--a)); border-bottom: 2px dotted rgb(28, 126, 214); }
.padless-notes { opacity: .75; font-size: .85em; }
.padless-notes p { margin: 0; }
"""


@dataclass(frozen=True, kw_only=True, repr=False)
class Explanation:
    """Integrated gradients of one text: ``sum(scores)`` is ``logit - baseline``.

    Logits are the calibrated ones of ``label``: its log-odds for two classes, so ``probability`` is their sigmoid; the
    input of the softmax for more. A positive score is evidence for the label, a negative one against it.
    """

    text: str
    label: str
    """The explained class: the predicted one unless another was requested."""
    predicted: str
    probability: float
    """Of ``label``."""
    tokens: tuple[str, ...]
    """The tokens that the model has read, ``<unk>`` for unknown ones."""
    spans: tuple[Span | None, ...]
    """Position of each token: ``text[start:end]``; None if it is not in the text."""
    scores: tuple[float, ...]
    """How much each token adds."""
    logit: float
    baseline: float
    """Logit of a blank text with as many tokens; scores add up to the difference from it."""
    num_tokens: int
    """Tokens of the whole text before truncation; 0 if preprocessing left none."""

    @property
    def missed(self) -> float:
        """Difference between the sum of the scores and ``logit - baseline``: usually at most a thousandth."""
        return abs(sum(self.scores) - (self.logit - self.baseline))

    @cached_property
    def pieces(self) -> list[Piece]:
        """The text in pieces with their scores; 0 for text that the model has not read."""
        return pieces_of(self.text, self.spans, self.scores)

    def to_frame(self) -> pd.DataFrame:
        """A row for each token: ``token``, ``score``, and its position ``start``, ``end`` in the text."""
        import pandas as pd

        starts, ends = zip(*(span or (None, None) for span in self.spans), strict=True)
        frame = pd.DataFrame({"token": self.tokens, "score": self.scores, "start": starts, "end": ends})
        return frame.astype({"start": "Int64", "end": "Int64"})

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the same as in the JSON of the command ``explain``."""
        return asdict(self)

    @property
    def head(self) -> str:
        """The class and its probability, and what the words add together."""
        other = f" (predicted: {shown(self.predicted)})" if self.predicted != self.label else ""
        words = f"base {self.baseline:+.2f} + words {self.logit - self.baseline:+.2f}"
        return f"{shown(self.label)} {self.probability:.4f}{other}  score {self.logit:+.2f} = {words}"

    @property
    def summary(self) -> list[str]:
        """Lines below the text: what the model has not read, and whether the scores miss the logit."""
        lines, unknown = list[str](), self.tokens.count(UNKNOWN)
        if unknown == len(self.tokens):
            lines.append(NO_KNOWN_WORD)
        elif unknown:
            lines.append(f"unknown to the model: {unknown:,} of {len(self.tokens):,} words")
        if self.num_tokens > len(self.tokens):
            lines.append(f"the model has read {len(self.tokens):,} of {self.num_tokens:,} words")
        if self.missed > max(1e-3 * abs(self.logit - self.baseline), 1e-4):
            lines.append(f"the scores miss the logit by {self.missed:.2g}")
        return lines

    def to_html(self) -> str:
        """The marked text and its summary as an HTML element, without style sheet."""
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in self.summary)
        return (
            f'<p class="padless-head"><b>{html.escape(self.head)}</b></p>'
            f'<p class="padless-words" dir="auto">{as_html(self.pieces)}</p>'
            f'<div class="padless-notes">{notes}</div>'
        )

    def _repr_html_(self) -> str:
        """For notebooks."""
        return f"<style>{STYLE}</style><div>{self.to_html()}</div>"

    def __str__(self) -> str:
        return "\n".join([self.head, *as_plain(self.pieces).splitlines(), *self.summary])

    def __repr__(self) -> str:
        return f"<padless explanation of {shown(self.text[:40])!r}: {self.head}>"


def main(config: ExplainConfig) -> None:
    """Explain the texts given, or the rows of the input file, with the best weights of a run."""
    check_device(config.device)
    form, directory = config.form, bundle_directory(config.run)
    info, size = read_classifier(directory), config.batch
    with ExitStack() as stack:
        texts, files = config.texts, list[File]()
        if config.inputs:
            work = stack.enter_context(temporary_folder())
            files = find_files(config.inputs, config.input_format, config.given, info.source, work)
            texts = list(itertools.islice(iter_texts(files), config.rows))
        stream = bare(sys.stdout) if form == "html" else sys.stdout
        if config.output is not None:
            path = Path(config.output)
            refuse_input(path, files)
            check_replaced(path, config.overwrite, [WRITTEN_BY_US[form]])
            stack.enter_context(storing(path, otherwise="name another --output"))
            atomic.sweep(path)
            temporary = stack.enter_context(atomic.replacing(path))
            stream = stack.enter_context(open(temporary, "w", encoding="utf-8"))
        from harness.inference.bundle import Bundle

        bundle = Bundle(directory, device=config.device)
        some = (explain(bundle, texts[at : at + size], config.label) for at in range(0, len(texts), size))
        write_all(stream, form, config.run, itertools.chain.from_iterable(some), numbered=bool(files))
    if config.output is not None:
        Screen(quiet=config.quiet).say(f"{counted(len(texts), 'explanation')} written to {config.output}")


def explain(bundle: Bundle, texts: list[str], label: str | None) -> list[Explanation]:
    """Explain each text for ``label``, or for its predicted class, on the model's device.

    Raises ``ConfigError`` for a class that the model does not have.
    """
    from harness.model.attribution import attributions

    labels, temperature = bundle.labels, bundle.decision.temperature
    if label not in (None, *labels):
        known = shortened(", ".join(labels), LISTED)
        raise ConfigError(f"label: the model has no class {str(label)!r}; it has {known}")
    encoded = bundle.encoder(texts)
    ids = np.split(encoded.ids, encoded.offsets[1:-1])
    predicted, chances = bundle.decision.predictions(bundle.score(ids))
    classes = predicted if label is None else np.full(len(texts), labels.index(label))
    result = []
    for row, (text, found) in enumerate(zip(texts, attributions(bundle.model, ids, classes.tolist()), strict=True)):
        tokens = bundle.vocabulary.tokens.take(ids[row]).to_pylist()
        one = Explanation(
            text=text,
            label=labels[classes[row]],
            predicted=labels[predicted[row]],
            probability=float(chances[row, classes[row]]),
            tokens=tuple(tokens),
            spans=tuple(spans_of(text, tokens, bundle.encoder.tokenizer)),
            num_tokens=int(encoded.num_tokens[row]),
            scores=tuple((found.scores / temperature).tolist()),
            logit=found.logit / temperature,
            baseline=found.baseline / temperature,
        )
        result.append(one)
    return result


def write_all(stream: TextIO, form: str, run: str, explanations: Iterable[Explanation], *, numbered: bool) -> None:
    """Write explanations as ``text``, ``json`` (an object a line) or ``html`` (one page without script or other files),
    each as soon as it is ready, with its row's number if ``numbered``.
    """
    stream.write(page_start(run) if form == "html" else "")
    for number, one in enumerate(explanations, 1):
        row = f"row {number:,}" if numbered else ""
        if form == "html":
            stream.write(f'<article><p class="row">{row}</p>{one.to_html()}</article>\n')
        elif form == "json":
            values = ({"row": number} if numbered else {}) | one.to_dict()
            stream.write(encode(json.dumps(values, ensure_ascii=False)).decode() + "\n")
        else:
            stream.write(f"{row}: {one}\n\n" if row else f"{one}\n\n")
        stream.flush()
    stream.write("</body></html>\n" if form == "html" else "")


def page_start(run: str) -> str:
    """The start of a page of explanations: head and legend."""
    title = plain_line(public(f"What words add: {run}"))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{page_head(title, GENERATOR, PAGE_STYLE + STYLE)}</head>\n'
        f"<body><h1>{html.escape(title)}</h1>\n"
        '<p class="note"><span class="padless-words"><mark class="for" style="--a: 0.6">These words</mark> support '
        'the class, <mark class="against" style="--a: 0.6">these</mark> oppose it; </span>the stronger the colour, the '
        "more, within one text. Integrated gradients: the scores of all words add up to the logit of the class, "
        "relative to a blank text of the same length. Without colour: words that the model has not read, or that add "
        "almost nothing.</p>\n"
    )


def page_head(title: str, generator: str, style: str) -> str:
    """The ``head`` of every page: title, style sheet, and a policy that forbids scripts and loading.

    The policy allows the style sheet by its hash, and style attributes, which charts and marks need; padless writes
    every value in them. ``generator`` names the program.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; style-src-attr 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="generator" content="{generator}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n"
    )


def shown(text: str) -> str:
    """A text with unified line ends and escaped control characters."""
    return printable(unix_lines(text))


def unix_lines(text: str) -> str:
    """``text`` with every line end replaced by a newline."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def pieces_of(text: str, spans: Sequence[Span | None], scores: Sequence[float]) -> list[Piece]:
    """Split the text into pieces; overlapping tokens become one piece, with the sum of their scores."""
    placed = sorted((*span, score) for span, score in zip(spans, scores, strict=True) if span is not None)
    result: list[Piece] = []
    position = 0
    for start, end, score in placed:
        if start < position:
            before, total = result.pop()
            result.append((before + text[position:end], total + score))
        else:
            result += [(text[position:start], 0.0), (text[start:end], score)]
        position = max(position, end)
    return [piece for piece in (*result, (text[position:], 0.0)) if piece[0]]


def marked(pieces: Sequence[Piece]) -> list[tuple[str, float, float]]:
    """Printable text, score, and share of the largest score, from -1 to 1, of each piece. Both are 0 for unmarked text,
    which is shortened if long.
    """
    largest = max((abs(score) for _, score in pieces), default=0.0) or 1.0
    result: list[tuple[str, float, float]] = []
    for text, score in pieces:
        if abs(score) > FAINTEST * largest:
            result.append((shown(text), score, score / largest))
        elif len(text) > LONGEST:
            result.append((shown(f"{text[:KEPT]} … {len(text) - 2 * KEPT:,} characters … {text[-KEPT:]}"), 0.0, 0.0))
        else:
            result.append((shown(text), 0.0, 0.0))
    return result


def as_html(pieces: Sequence[Piece]) -> str:
    """The marked text as the content of an element of the class ``padless-words``; see ``STYLE``."""
    parts = []
    for text, score, share in marked(pieces):
        part = html.escape(text)
        if score:
            kind, strength = "for" if score > 0 else "against", 0.1 + 0.5 * abs(share)
            part = f'<mark class="{kind}" style="--a: {strength:.2f}" title="{score:+.3f}">{part}</mark>'
        parts.append(part)
    return "".join(parts)


def as_plain(pieces: Sequence[Piece]) -> str:
    """The text with scores after its stronger words: ``a wonderful[+1.24] film``."""
    text = "".join(f"{text}[{score:+.2f}]" if score else text for text, score, _ in marked(pieces))
    return "\n".join(" ".join(line.split()) for line in text.split("\n") if line.strip())
