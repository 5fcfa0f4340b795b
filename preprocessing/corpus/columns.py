# SPDX-License-Identifier: Apache-2.0
"""Which column of a file holds the text, and which the label, where nobody has named them.

A column called ``text`` or ``label`` is it. Else columns are judged by some of their values; of those that would do,
the ones with a usual name go before the rest, and names of other things (titles, ids, dates) come last. If more than
one is left, nobody guesses: the sentence names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from preprocessing.labels import MAX_CLASSES, NUMBER, as_found, whole

TEXT_NAME = re.compile(
    r"(.+_)?(text|review|sentence|content|comment|message|body|tweet|document|utterance|post|question|query|sms|article|"
    r"abstract|description|statement|transcript|feedback)s?(_(text|body|content|cleaned|clean|raw))?"
)
LABEL_NAME = re.compile(
    r"(.+_)?(label|class|target|sentiment|category|categories|stars?|rating|polarity|emotion|intent|topic|genre|stance|"
    r"toxic|spam|gold|y)s?(_(id|name|text|index|label))?|department|score|v1"
)
OTHER_TEXT = re.compile(r"(.+_)?(title|headline|subject|summary|name|author|user|url|link|path|file)s?(_.+)?")
"""Columns that may read like texts and rarely are what is classified."""
OTHER_LABEL = re.compile(r"(.+_)?(lang|language|author|writer|speaker|source|country|region|year|brand|type|kind)s?|")
"""Columns that may have few values and are the label only where no other column could be."""
NO_LABEL = re.compile(
    r"(.+_)?(id|ids|uuid|index|idx|split|subset|fold|partition|date|time|timestamp|month|day|user|username|film|movie|"
    r"product|item|length|len|count|num|number|unnamed_0)"
)
"""Columns that may have few values and are never taken for the label unless they are named."""
MANY_CLASSES = 200
"""Most different values of a label whose name tells nothing."""
WORDS, LETTERS = 3, 12
"""What the values of a text have on average, one of the two at least; letters are those of scripts without spaces."""
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*|\d{1,2}:\d{2}.*")
WIDE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True)
class Column:
    """What some values of a column tell."""

    name: str
    filled: int
    """Values that are there."""
    is_full: bool
    """Whether at least half of them are."""
    distinct: int
    few: tuple[str, ...]
    """Some of the different values."""
    words: float
    """Words per value."""
    letters: float
    """Letters of scripts without spaces per value."""
    longest: int
    """Characters of the longest value."""
    is_text: bool
    """Whether the values are texts, and no numbers, dates or addresses."""
    is_fractional: bool
    """Whether they are numbers, some of them not whole."""

    @property
    def key(self) -> str:
        """The name as the patterns above spell it: ``reviewText`` and ``Review Text`` are ``review_text``."""
        return re.sub(r"[\W_]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).casefold()).strip("_")

    @property
    def reads_like_text(self) -> bool:
        """Whether the values are sentences, and different from row to row."""
        long = self.words >= WORDS or self.letters >= LETTERS
        return self.is_text and self.is_full and long and self.distinct > max(1, self.filled // 5)

    @property
    def repeats_like_label(self) -> bool:
        """Whether there are few different values, each of them short."""
        named = LABEL_NAME.fullmatch(self.key) is not None
        if not named and NO_LABEL.fullmatch(self.key):
            return False
        most = min(MAX_CLASSES, self.filled - 1) if named else min(MANY_CLASSES, self.filled // 2)
        few = (1 if named else 2) <= self.distinct <= most and self.longest <= 100
        return few and self.is_full and (named or not self.is_fractional)


def looked_at(name: str, values: Sequence[Any]) -> Column:
    """Judge a column by some of its values."""
    there = [value for value in values if value is not None and value == value and value != ""]
    plain = [value for value in there if isinstance(value, (str, bool, int, float)) or not hasattr(value, "__len__")]
    texts = [whole(as_found(value) or "") for value in plain]
    count = max(len(texts), 1)
    number = [NUMBER.fullmatch(text.strip()) is not None for text in texts]
    other = [DATE.fullmatch(text) is not None or "://" in text[:12] for text in texts]
    is_text = (
        len(plain) == len(there)
        and all(isinstance(value, str) for value in plain)
        and 2 * sum(map(any, zip(number, other, strict=True))) < count
    )
    seen = dict.fromkeys(texts)
    return Column(
        name=name,
        filled=len(texts),
        is_full=0 < len(values) <= 2 * len(there),
        distinct=len(seen) if len(plain) == len(there) else 0,
        few=tuple(list(seen)[:4]),
        words=sum(len(text.split()) for text in texts) / count,
        letters=sum(len(WIDE.findall(text[:200])) for text in texts) / count,
        longest=max(map(len, texts), default=0),
        is_text=bool(texts) and is_text,
        is_fractional=bool(texts) and all(number) and any("." in text or "e" in text.casefold() for text in texts),
    )


def text_candidates(columns: Sequence[Column]) -> list[Column]:
    """The columns that may hold the text: one, or those between which the user must choose, or none."""
    if exact := [column for column in columns if column.name == "text"]:
        return exact
    if exact := [column for column in columns if column.key == "text"]:
        return exact
    reading = [column for column in columns if column.reads_like_text]
    best = best_of(reading, TEXT_NAME, OTHER_TEXT)
    if best:
        return best
    short = [
        column
        for column in columns
        if column.is_text and column.is_full and column.distinct > max(2, column.filled // 4)
    ]
    return best_of(short, TEXT_NAME, OTHER_TEXT)


def label_candidates(columns: Sequence[Column]) -> list[Column]:
    """The columns that may hold the label, as ``text_candidates``; the text is not among ``columns``."""
    if exact := [column for column in columns if column.name == "label"]:
        return exact
    if exact := [column for column in columns if column.key == "label"]:
        return exact
    found = [column for column in columns if column.repeats_like_label]
    return best_of(found, LABEL_NAME, OTHER_LABEL)


def best_of(columns: Sequence[Column], usual: re.Pattern[str], other: re.Pattern[str]) -> list[Column]:
    """Those with a usual name; if there are none, those whose name tells nothing; and if there are none, the rest."""
    tiers: list[list[Column]] = [[], [], []]
    for column in columns:
        tiers[0 if usual.fullmatch(column.key) else 2 if other.fullmatch(column.key) else 1].append(column)
    return next((tier for tier in tiers if tier), [])
