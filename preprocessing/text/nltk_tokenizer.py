# SPDX-License-Identifier: Apache-2.0
"""The ``nltk`` tokenizers: token for token what :func:`nltk.tokenize.word_tokenize` returns for the cleaned text.

NLTK applies some thirty substitutions to each sentence. Looked at one by one, they see no further than one whitespace
character on either side of a *chunk* (a run without whitespace), but for these:

- the first chunk of a sentence, when it begins with ``""``, ``"'`` or ``''`` (opening quotes need a space before them);
- the last chunk, when it ends in ``'``, ``:`` or ``,``; a final period, followed by closing brackets and quotes only;
- a quote that follows, or an apostrophe that precedes, whitespace other than a space.

So a text becomes a list of chunks; NLTK's rules run once per distinct chunk, on thousands of them joined by a mark that
no rule touches. ``X.`` at the end is the chunk ``X`` and a period. In the cases above NLTK sees the whole sentence.
Two cases are left to NLTK as they are: rules other than those studied, and texts with U+001C–U+001F. Python and NLTK's
regular expressions disagree whether those four are whitespace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from preprocessing.text import resources as data
from preprocessing.text.cleaning import prepare

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

_PUNKT_FILES = ["abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"]
_STUDIED = {
    "63896af1b8d51289da8581a9d55874ed46ea794920e4a53bcce2ee88c632b7d9",  # NLTK 3.10
    "5055eb46d37a58c52bfc8d53ae00f7ec4f9d6018e1107a5cd432593396ea3f87",  # NLTK 3.9.3 and 3.9.4: dashes as in 3.10
    "f71f075d67f9da4bbc2d4176287a3517b90c7f0d2f4849542893cf085f3e6435",  # NLTK 3.9 to 3.9.2
}
_MARK, _IN_PLACE, _FINISHED = "\ue000", "\ue001", "\ue002"
_ODD = re.compile("[\x1c-\x1f\ue000-\ue002]")
_CLOSERS = "])}>\"'»”’"
_CONTRACTIONS = {"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"}
_SIMPLE = re.compile(r"""([("])?([A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)('[sSmMdD]|'(?:ll|LL|re|RE|ve|VE))?([.,:;!?)])?(")?""")
_JOINED_CHARS = 1 << 16
_BLANK_BESIDE_QUOTE = re.compile(r"""[^\S ]["']|'[^\S ]""")


def resources(spec: TextSpec) -> dict[str, str]:
    """What decides the tokens: NLTK's version and, for sentences, a hash of the Punkt model of the language."""
    import nltk

    found = {"nltk": str(nltk.__version__)}
    if spec.tokenizer == "nltk":
        resource = f"tokenizers/punkt_tab/{data.language_name(spec.language)}"
        found["punkt_tab"] = data.fingerprint(data.find_folder(resource, "punkt_tab"), _PUNKT_FILES)
    return found


class NLTKTokenizer:
    """``split`` cuts texts into surfaces; ``words`` says, once per distinct surface, which tokens it holds.

    A surface is a chunk, or a whole sentence (after :data:`_IN_PLACE`), or a finished token (after
    :data:`_FINISHED`). For every text, the tokens of its surfaces together are what ``word_tokenize`` returns.
    """

    def __init__(self, spec: TextSpec) -> None:
        """Load the rules and, for ``nltk``, the Punkt model; raises :class:`DataError` when it is missing."""
        resources(spec)
        from nltk.tokenize import word_tokenize
        from nltk.tokenize.destructive import NLTKWordTokenizer
        from nltk.tokenize.punkt import PunktTokenizer

        sentences = spec.tokenizer == "nltk"
        name = data.language_name(spec.language)
        self._rules: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
        self._whole: Callable[[str], list[str]] = lambda text: word_tokenize(text, name, not sentences)
        self._sentences = Sentences(PunktTokenizer(name)) if sentences else None
        self._spec = spec
        self._studied = rules_hash(NLTKWordTokenizer) in _STUDIED
        self._closing = lru_cache(4096)(
            lambda closers: [_FINISHED + token for token in self._rules("x." + closers)[1:]]
        )

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Surfaces of all texts in order (large_string), and int64 [texts + 1] offsets."""
        surfaces: list[str] = []
        offsets = [0]
        for text in texts.to_pylist():
            self._cut(prepare(text, self._spec.html, self._spec.lowercase), surfaces)
            offsets.append(len(surfaces))
        return pa.array(surfaces, pa.large_string()), np.array(offsets, np.int64)

    def _cut(self, text: str, surfaces: list[str]) -> None:
        plain = text.isascii() and text.isprintable()  # then the only whitespace is the space
        if not self._studied or (not plain and _ODD.search(text)):
            surfaces += [_FINISHED + token for token in self._whole(text)]
            return
        for sentence in self._sentences(text) if self._sentences else [text]:
            self._cut_sentence(sentence, surfaces, plain)

    def _cut_sentence(self, sentence: str, surfaces: list[str], plain: bool) -> None:
        chunks = sentence.split()
        if not chunks:
            return
        base = chunks[-1].rstrip(_CLOSERS)
        full_stop = len(base) > 1 and base[-1] == "." and base[-2] != "."
        opens = chunks[0].startswith(('""', "\"'", "''")) and not sentence[0].isspace()
        unclear = not full_stop and (base in ("", ".") or chunks[-1][-1] in "':,")
        if opens or unclear or (not plain and _BLANK_BESIDE_QUOTE.search(sentence)):
            surfaces.append(_IN_PLACE + sentence)
            return
        if full_stop:
            closers = chunks[-1][len(base) :]
            chunks[-1] = base[:-1]
            chunks += self._closing(closers) if closers else (".",)
        surfaces += chunks

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """The tokens of each surface; the rules run on many surfaces at a time."""
        return self._tokens_of([surface.decode() for surface in surfaces])

    def _tokens_of(self, surfaces: list[str]) -> list[list[str]]:
        found: list[list[str]] = [[] for _ in surfaces]
        rows: list[int] = []
        size = 0
        for row, surface in enumerate(surfaces):
            kind = surface[:1]
            if kind == _FINISHED:
                found[row] = [surface[1:]]
            elif kind == _IN_PLACE:
                found[row] = self._rules(surface[1:])
            elif (simple := _simple(surface)) is not None:
                found[row] = simple
            else:
                rows.append(row)
                size += len(surface) + 3
                if size >= _JOINED_CHARS:
                    self._apply(surfaces, rows, found)
                    rows, size = [], 0
        if rows:
            self._apply(surfaces, rows, found)
        return found

    def _apply(self, surfaces: list[str], rows: list[int], found: list[list[str]]) -> None:
        tokens = iter(self._rules("".join(f" {_MARK} {surfaces[row]}" for row in rows) + f" {_MARK}"))
        next(tokens)
        for row in rows:
            found[row] = list(iter(tokens.__next__, _MARK))


def _simple(chunk: str) -> list[str] | None:
    """The tokens of a word of ASCII letters, digits and hyphens with the usual punctuation; None for all else.

    The rules part an opening quote or parenthesis, a clitic, one of ``,:;!?)`` and a closing quote from such a word; a
    period stays with it. Left to the rules: a clitic before a period, and contractions such as ``cannot``.
    """
    match = _SIMPLE.fullmatch(chunk)
    if match is None:
        return None
    opening, word, clitic, closing, quote = match.groups("")
    if (clitic and closing == ".") or not _CONTRACTIONS.isdisjoint(word.lower().split("-")):
        return None
    opening = "``" if opening == '"' else opening
    parts = (opening, word + closing) if closing == "." else (opening, word, clitic, closing)
    return [part for part in (*parts, "''" if quote else "") if part]


def rules_hash(tokenizer: Any) -> str:
    """A hash of the substitutions of NLTKWordTokenizer, to know whether they are those this module reasons about."""
    rules = [
        *tokenizer.STARTING_QUOTES, *tokenizer.PUNCTUATION, tokenizer.PARENS_BRACKETS, tokenizer.DOUBLE_DASHES,
        *tokenizer.ENDING_QUOTES, *((rule, "") for rule in (*tokenizer.CONTRACTIONS2, *tokenizer.CONTRACTIONS3)),
    ]  # fmt: skip
    written = repr([(rule.pattern, replacement) for rule, replacement in rules])
    return hashlib.sha256(written.replace("*+", "*").encode()).hexdigest()


_PLAIN = re.compile(r"[(\[\"]*([A-Za-z]{2,})")
_MEMORY = 1 << 18
_WHITESPACE = " \t\n\r\x0b\x0c"


class Sentences:
    """Where NLTK's Punkt ends sentences, found without building a token object per word.

    ``Sentences(punkt)(text)`` equals ``punkt.tokenize(text)`` for texts without U+001C–U+001F. The algorithm is that of
    :class:`nltk.tokenize.punkt.PunktSentenceTokenizer`, with its model and its regular expressions. Two facts make it
    fast. A ``?`` or ``!`` that Punkt considers always ends a sentence: it is a token of its own, marked as a break in
    the first pass, and the second pass looks at words that end in a period only. A period after a plain word ends one
    too, unless the word is an abbreviation, a single letter, or begins a collocation, whatever comes next. All other
    periods are put to Punkt itself, once per distinct context.
    """

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
