# SPDX-License-Identifier: Apache-2.0
"""Where NLTK's Punkt ends sentences, found without building a token object per word.

The algorithm is :class:`nltk.tokenize.punkt.PunktSentenceTokenizer`'s own, with its model and its regular expressions.
Two facts make it fast. A ``?`` or ``!`` that Punkt considers always ends a sentence: it is a token of its own, marked
as a break in the first pass, and the second pass looks at words that end in a period only. A period after a plain word
ends one too, unless the word is an abbreviation, a single letter, or begins a collocation, whatever comes next. All
other periods are put to Punkt itself, once per distinct context.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_PLAIN = re.compile(r"[(\[\"]*([A-Za-z]{2,})")
_MEMORY = 1 << 18
_WHITESPACE = " \t\n\r\x0b\x0c"


class Sentences:
    """``Sentences(punkt)(text)`` equals ``punkt.tokenize(text)`` for texts without U+001C–U+001F."""

    def __init__(self, punkt: Any) -> None:
        """``punkt``: a PunktSentenceTokenizer with its parameters loaded."""
        self._punkt = punkt
        rules, model = punkt._lang_vars, punkt._params
        self._candidates = re.compile(rules.period_context_re().pattern, re.UNICODE | re.VERBOSE)
        self._realignment = re.compile(rules.re_boundary_realignment.pattern, re.MULTILINE)
        self._unsure = model.abbrev_types | {first for first, _ in model.collocations}
        self._decided: dict[str, bool] = {}

    def __call__(self, text: str) -> list[str]:
        """The sentences of ``text``."""
        return [text[start:end] for start, end in self._realigned(text) if end > start]

    def _contexts(self, text: str) -> Iterator[tuple[re.Match[str], int]]:
        """Candidate ends with the start of the word before each; of candidates in one word only the last."""
        blanks = [blank for blank in _WHITESPACE if blank in text]
        start = stop = 0
        previous: re.Match[str] | None = None
        for match in self._candidates.finditer(text):
            at = match.start()
            blank = max((text.rfind(blank, stop, at) for blank in blanks), default=-1)
            # Punkt takes a blank at the very place where its search begins for none.
            word = blank + 1 if blank > stop else start
            if previous is not None and stop <= word:
                yield previous, start
            previous, start, stop = match, word, at
        if previous is not None:
            yield previous, start

    def _is_end(self, text: str, match: re.Match[str], word: int) -> bool:
        at = match.start()
        if text[at] != ".":
            return True
        plain = _PLAIN.fullmatch(text, word, at)
        if plain is not None and plain[1].lower() not in self._unsure:
            return True
        context = text[word:at] + match[0] + match["after_tok"]
        decision = self._decided.get(context)
        if decision is None:
            if len(self._decided) >= _MEMORY:
                self._decided.clear()
            decision = self._decided[context] = self._punkt.text_contains_sentbreak(context)
        return decision

    def _slices(self, text: str) -> Iterator[tuple[int, int]]:
        start = 0
        for match, word in self._contexts(text):
            if self._is_end(text, match, word):
                yield start, match.end()
                start = match.start("next_tok") if match["next_tok"] else match.end()
        yield start, len(text.rstrip())

    def _realigned(self, text: str) -> Iterator[tuple[int, int]]:
        """Closing punctuation that follows an end goes with the sentence before it."""
        moved = 0
        slices = self._slices(text)
        start, end = next(slices)
        for next_start, next_end in slices:
            start += moved
            closing = self._realignment.match(text[next_start:next_end])
            if closing is not None:
                yield start, next_start + len(closing[0].rstrip())
                moved = closing.end()
            else:
                yield start, end
                moved = 0
            start, end = next_start, next_end
        yield start + moved, end
