# SPDX-License-Identifier: Apache-2.0
"""A mistake as people read it: the original text, with the words marked that spoke for the wrong answer or against it.

The weights belong to tokens, which the text pipeline has made of the text. To find their places, each piece of the
text between two spaces goes through the same pipeline, and the tokens of all pieces are laid beside those of the model
(difflib, after Ratcliff and Metzener, 1988). What the model did not see, such as a truncated end, stays unmarked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.originals import Originals
from preprocessing.base.errors import UserError
from preprocessing.dataset.shards import Manifest
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import RESERVED, UNK

LONGEST = 4_000
"""Characters of a text that are shown."""
FAINTEST = 0.08
"""Words of less weight than this share of the text's largest are not marked."""
PIECES = re.compile(r"<[^<>]{1,200}>|\s+|[^\s<]+|<")
UNKNOWN = RESERVED[UNK]

Piece = tuple[str, float]
"""A part of a text, and its weight from -1 to 1: for the wrong answer above 0, against it below."""


@dataclass(frozen=True)
class Mistake:
    """One wrong answer, ready to be shown."""

    row: int
    label: str
    predicted: str
    probability: float
    text: str | None
    """The original text, as much of it as is shown; None where it is not to be had."""
    left_out: int
    """Characters of it that are not shown."""
    pieces: list[Piece]
    """The original text, in pieces that give it when they are joined; empty where it is not to be had."""
    words: list[Piece]
    """What the model saw."""


def mistakes_of(figures: Mapping[str, Any], originals: Originals, manifest: Manifest | None) -> list[Mistake]:
    """The mistakes of an evaluation with their original texts, the most confident first."""
    tokenizer = tokenizer_of(manifest) if manifest is not None and originals.texts else None
    result = []
    for entry in figures["mistakes"]:
        whole = originals.texts.get(entry["row"])
        text = None if whole is None else shown_part(whole, manifest)
        words = weighed(entry["tokens"], entry["weights"])
        pieces = [] if text is None else placed(text, words, tokenizer)
        left_out = 0 if whole is None or text is None else len(whole) - len(text)
        facts = (entry["row"], entry["label"], entry["predicted"], entry["probability"])
        result.append(Mistake(*facts, text, left_out, joined(pieces), without_faint(words)))
    return result


def tokenizer_of(manifest: Manifest) -> Tokenizer | None:
    """The dataset's tokenizer; None where what it needs is not installed."""
    try:
        return Tokenizer(TextPipeline.from_json(manifest.text))
    except UserError:
        return None


def shown_part(text: str, manifest: Manifest | None) -> str:
    """As much of a text as is shown: its beginning, or its end if that is what the model reads."""
    truncate = manifest.text.get("spec", {}).get("truncate") if manifest is not None else None
    return text[-LONGEST:] if truncate == "tail" else text[:LONGEST]


def weighed(tokens: Sequence[str], weights: Sequence[float]) -> list[Piece]:
    """Each token with its weight as a share of the text's largest, from -1 to 1."""
    largest = max((abs(weight) for weight in weights), default=0.0) or 1.0
    return [(token, weight / largest) for token, weight in zip(tokens, weights, strict=True)]


def placed(text: str, words: Sequence[Piece], tokenizer: Tokenizer | None) -> list[Piece]:
    """The text in pieces; those whose tokens are found among ``words`` have the largest weight of theirs."""
    pieces = PIECES.findall(text)
    if tokenizer is None:
        return [(text, 0.0)]
    known = {word for word, _ in words}
    tokens, owners = [], []
    for number, found in enumerate(tokenizer(pieces).to_lists()):
        if len(pieces[number]) > 2 and pieces[number][0] == "<" and pieces[number][-1] == ">":
            continue  # markup: the pipeline removes it from a whole text, and if it does not, nothing is lost
        tokens += [token if token in known else UNKNOWN for token in found]
        owners += [number] * len(found)
    weights = [0.0] * len(pieces)
    matcher = difflib.SequenceMatcher(None, tokens, [word for word, _ in words], autojunk=False)
    for block in matcher.get_matching_blocks():
        for step in range(block.size):
            owner, weight = owners[block.a + step], words[block.b + step][1]
            weights[owner] = max(weights[owner], weight, key=abs)
    return list(zip(pieces, weights, strict=True))


def without_faint(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces; what hardly weighs anything weighs nothing."""
    return [(text, weight if abs(weight) > FAINTEST else 0.0) for text, weight in pieces]


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same text, faint weights left out, with neighbours that are not marked in one piece."""
    result: list[Piece] = []
    for text, weight in without_faint(pieces):
        if result and weight == result[-1][1] == 0.0:
            result[-1] = (result[-1][0] + text, 0.0)
        else:
            result.append((text, weight))
    return result
