# SPDX-License-Identifier: Apache-2.0
"""``padless explain``: how much each word of a text adds to the calibrated log-odds of a class. The results
are objects, text, JSON, or HTML for notebooks and reports.

In HTML, orange marks words for a class and blue words against it; colour-blind readers can tell them apart. A solid or
dotted underline shows the same.
"""

from __future__ import annotations

import html
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from harness.distributed.devices import check_device
from harness.inference.config import ExplainConfig, check_inputs
from harness.inference.rows import find_texts, iter_texts
from harness.rundir.bundle_files import bundle_directory, read_classifier
from harness.rundir.results import label_texts
from padless.core.atomic import temporary_folder
from padless.core.errors import ConfigError
from padless.core.terminal import Screen, printable, shorten_line
from preprocessing.text.characters import encode
from preprocessing.text.encoder import Span, spans_of
from preprocessing.text.vocabulary import RESERVED, UNK

if TYPE_CHECKING:
    from harness.inference.bundle import Bundle

NO_KNOWN_WORD = "no known word: these are the shares of the classes among the training rows"
MAX_LIST_WIDTH = 400
"""Maximum width of a list of classes in a message."""
Segment = tuple[str, float]
"""A part of a text, and its score; 0 for text that the model has not read."""
SHOWN_ERROR = 0.005
"""Scores have two decimals."""
MIN_MARKED_SHARE = 0.1
"""Words below this share of the text's largest score are not marked."""
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
    def segments(self) -> list[Segment]:
        """The text in segments with their scores; 0 for text that the model has not read."""
        return split_text(self.text, self.spans, self.scores)

    @property
    def head(self) -> str:
        """The class and its probability, and what the words add together."""
        predicted = f" (predicted: {escape_controls(self.predicted)})" if self.predicted != self.label else ""
        words = f"base {self.baseline:+.2f} + words {self.logit - self.baseline:+.2f}"
        return f"{escape_controls(self.label)} {self.probability:.4f}{predicted}  score {self.logit:+.2f} = {words}"

    @property
    def summary(self) -> list[str]:
        """Lines below the text: what the model has not read, and whether the scores miss the logit."""
        lines, num_unknown = list[str](), self.tokens.count(RESERVED[UNK])
        if num_unknown == len(self.tokens):
            lines.append(NO_KNOWN_WORD)
        elif num_unknown:
            lines.append(f"unknown to the model: {num_unknown:,} of {len(self.tokens):,} words")
        if self.num_tokens > len(self.tokens):
            lines.append(f"the model has read {len(self.tokens):,} of {self.num_tokens:,} words")
        error = abs(sum(self.scores) - (self.logit - self.baseline))
        if error >= SHOWN_ERROR:
            lines.append(f"the scores of all words miss the score by {error:.2f}")
        return lines

    def _repr_html_(self) -> str:
        """For notebooks: the marked text and its summary."""
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in self.summary)
        return (
            f"<style>{STYLE}</style><div>"
            f'<p class="padless-head"><b>{html.escape(self.head)}</b></p>'
            f'<p class="padless-words" dir="auto">{as_html(self.segments)}</p>'
            f'<div class="padless-notes">{notes}</div></div>'
        )

    def __str__(self) -> str:
        return "\n".join([self.head, *as_plain(self.segments).splitlines(), *self.summary])

    __repr__ = __str__


def main(config: ExplainConfig) -> None:
    """Explain the texts given, or the rows of the input file, with the best weights of a run."""
    check_inputs(config)
    check_device(config.device)
    directory = bundle_directory(config.run)
    trained, texts = read_classifier(directory).source, config.texts[: config.rows]
    if config.inputs:
        with temporary_folder() as folder:
            batches = iter_texts(find_texts(config.inputs, config.source, trained, folder))
            texts = list(itertools.islice(itertools.chain.from_iterable(batches), config.rows))
    from harness.inference.bundle import Bundle

    bundle, screen = Bundle(directory, device=config.device), Screen()
    for row, text in enumerate(texts, 1):
        explanation = explain(bundle, text, config.label)
        if config.json:
            values = ({"row": row} if config.inputs else {}) | asdict(explanation)
            print(encode(json.dumps(values, ensure_ascii=False)).decode())
        else:
            screen.print_lines(f"row {row:,}: {explanation}\n" if config.inputs else f"{explanation}\n")
        sys.stdout.flush()


def explain(bundle: Bundle, text: str, label: str | None) -> Explanation:
    """Explain a text for ``label``, or for its predicted class (of several, the most probable one), on the model's
    device.

    Raises ``ConfigError`` for a class that the model does not have.
    """
    labels, temperature = bundle.labels, bundle.decision.temperature
    if label not in (None, *labels):
        names = shorten_line(", ".join(labels), MAX_LIST_WIDTH)
        raise ConfigError(f"label: the model has no class {str(label)!r}; it has {names}")
    encoded = bundle.encoder([text])
    predicted, chances = bundle.decision.predictions(bundle.score([encoded.ids]))
    most_probable = int(chances[0].argmax() if bundle.info.has_label_sets else predicted[0])
    number = most_probable if label is None else labels.index(label)
    attribution = bundle.attribute(encoded.ids, number)
    tokens = bundle.vocabulary.tokens.take(encoded.ids).to_pylist()
    return Explanation(
        text=text,
        label=labels[number],
        predicted=label_texts(predicted, labels)[0],
        probability=float(chances[0, number]),
        tokens=tuple(tokens),
        spans=tuple(spans_of(text, tokens, bundle.encoder.tokenizer)),
        num_tokens=int(encoded.num_tokens[0]),
        scores=tuple((attribution.scores / temperature).tolist()),
        logit=attribution.logit / temperature,
        baseline=attribution.baseline / temperature,
    )


def escape_controls(text: str) -> str:
    """A text with unified line ends and escaped control characters."""
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def split_text(text: str, spans: Sequence[Span | None], scores: Sequence[float]) -> list[Segment]:
    """Split the text into segments; overlapping tokens become one, with the sum of their scores."""
    tokens = sorted((*span, score) for span, score in zip(spans, scores, strict=True) if span is not None)
    segments: list[Segment] = []
    position = 0
    for start, end, score in tokens:
        if start < position:
            last_text, last_score = segments.pop()
            segments.append((last_text + text[position:end], last_score + score))
        else:
            segments += [(text[position:start], 0.0), (text[start:end], score)]
        position = max(position, end)
    segments.append((text[position:], 0.0))
    return [segment for segment in segments if segment[0]]


def mark_segments(segments: Sequence[Segment]) -> Iterator[tuple[str, float, float]]:
    """Printable text, score, and share of the largest score, from -1 to 1, of each segment; both are 0 for unmarked
    text.
    """
    largest = max((abs(score) for _, score in segments), default=0.0) or 1.0
    for text, score in segments:
        is_marked = abs(score) > MIN_MARKED_SHARE * largest
        shown_score = score if is_marked else 0.0
        yield escape_controls(text), shown_score, shown_score / largest


def as_html(segments: Sequence[Segment]) -> str:
    """The marked text as the content of an element of the class ``padless-words``; see ``STYLE``."""
    elements = []
    for text, score, share in mark_segments(segments):
        element = html.escape(text)
        if score:
            kind, strength = "for" if score > 0 else "against", 0.1 + 0.5 * abs(share)
            element = f'<mark class="{kind}" style="--a: {strength:.2f}" title="{score:+.3f}">{element}</mark>'
        elements.append(element)
    return "".join(elements)


def as_plain(segments: Sequence[Segment]) -> str:
    """The text with scores after its stronger words: ``a wonderful[+1.24] film``."""
    words = []
    for word, score, _ in mark_segments(segments):
        words.append(f"{word}[{score:+.2f}]" if score else word)
    return "\n".join(" ".join(line.split()) for line in "".join(words).split("\n") if line.strip())
