# SPDX-License-Identifier: Apache-2.0
"""The ``nltk`` tokenizers: token for token what :func:`nltk.tokenize.word_tokenize` returns for the cleaned text.

NLTK applies some thirty substitutions to each sentence. None of them looks further than one whitespace character on
either side of a *chunk* (a run without whitespace), with these exceptions:

- the first chunk of a sentence, when it begins with ``""``, ``"'`` or ``''`` (opening quotes need a space before them);
- the last chunk, when it ends in ``'``, ``:`` or ``,``; a final period, followed by closing brackets and quotes only;
- a quote that follows, or an apostrophe that precedes, whitespace other than a space.

So a text becomes a list of chunks; NLTK's rules run once per distinct chunk, on thousands of them joined by a mark that
no rule touches. ``X.`` at the end is the chunk ``X`` and a period. In the cases above NLTK gets the whole sentence.
NLTK tokenizes the whole text if its rules are not among those studied, or if the text has U+001C–U+001F: Python and
NLTK's regular expressions disagree whether these are whitespace.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from preprocessing.text import resources as data
from preprocessing.text.tokenizer import PerText

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

_PUNKT_FILES = ["abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"]
_STUDIED = {
    "63896af1b8d51289da8581a9d55874ed46ea794920e4a53bcce2ee88c632b7d9",  # NLTK 3.10
    "5055eb46d37a58c52bfc8d53ae00f7ec4f9d6018e1107a5cd432593396ea3f87",  # NLTK 3.9.3 and 3.9.4: dashes as in 3.10
}
_MARK, _IN_PLACE, _FINISHED = "\ue000", "\ue001", "\ue002"
_ODD = re.compile("[\x1c-\x1f\ue000-\ue002]")
_CLOSERS = "])}>\"'»”’"
_BLANK_BESIDE_QUOTE = re.compile(r"""[^\S ]["']|'[^\S ]""")


def resources(spec: TextSpec) -> dict[str, str]:
    """What decides the tokens: NLTK's version and, for sentences, a hash of the Punkt model of the language."""
    import nltk

    found = {"nltk": str(nltk.__version__)}
    if spec.tokenizer == "nltk":
        resource = f"tokenizers/punkt_tab/{data.language_name(spec.language)}"
        found["punkt_tab"] = data.fingerprint(data.find_folder(resource, "punkt_tab"), _PUNKT_FILES)
    return found


class NLTKTokenizer(PerText):
    """``split`` cuts texts into surfaces; ``words`` says, once per distinct surface, which tokens it holds.

    A surface is a chunk, or a whole sentence (after :data:`_IN_PLACE`), or a finished token (after
    :data:`_FINISHED`). For every text, the tokens of its surfaces together are what ``word_tokenize`` returns.
    """

    def __init__(self, spec: TextSpec) -> None:
        """Load the rules and, for ``nltk``, the Punkt model; raises :class:`DataError` when it is missing."""
        super().__init__(spec, self._surfaces)
        resources(spec)
        from nltk.tokenize import word_tokenize
        from nltk.tokenize.destructive import NLTKWordTokenizer

        name, is_line = data.language_name(spec.language), spec.tokenizer == "nltk_line"
        self._rules: Callable[[str], list[str]] = NLTKWordTokenizer().tokenize
        self._whole: Callable[[str], list[str]] = lambda text: word_tokenize(text, name, is_line)
        self._sentences = (lambda text: [text]) if is_line else sentences_of(name)
        self._is_studied = rules_hash(NLTKWordTokenizer) in _STUDIED
        self._closing = lru_cache(4096)(
            lambda closers: [_FINISHED + token for token in self._rules("x." + closers)[1:]]
        )

    def _surfaces(self, text: str) -> list[str]:
        plain = text.isascii() and text.isprintable()  # then the only whitespace is the space
        if not self._is_studied or (not plain and _ODD.search(text)):
            return [_FINISHED + token for token in self._whole(text)]
        surfaces: list[str] = []
        for sentence in self._sentences(text):
            self._cut_sentence(sentence, surfaces, plain)
        return surfaces

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
        """The tokens of each surface; the rules run on all chunks at once."""
        texts = [surface.decode() for surface in surfaces]
        chunks = [text for text in texts if text[:1] not in (_IN_PLACE, _FINISHED)]
        tokens = iter(self._rules(f" {_MARK} ".join(["", *chunks, ""])))
        next(tokens)
        return [self._tokens_of(text, tokens) for text in texts]

    def _tokens_of(self, surface: str, tokens: Iterator[str]) -> list[str]:
        """``tokens`` are those of all chunks from here on."""
        if surface[:1] == _FINISHED:
            return [surface[1:]]
        return self._rules(surface[1:]) if surface[:1] == _IN_PLACE else list(iter(tokens.__next__, _MARK))


def rules_hash(tokenizer: Any) -> str:
    """A hash of the substitutions of NLTKWordTokenizer, to check that they are among those studied."""
    rules = [
        *tokenizer.STARTING_QUOTES, *tokenizer.PUNCTUATION, tokenizer.PARENS_BRACKETS, tokenizer.DOUBLE_DASHES,
        *tokenizer.ENDING_QUOTES, *((rule, "") for rule in (*tokenizer.CONTRACTIONS2, *tokenizer.CONTRACTIONS3)),
    ]  # fmt: skip
    written = repr([(rule.pattern, replacement) for rule, replacement in rules])
    return hashlib.sha256(written.replace("*+", "*").encode()).hexdigest()


_CLEAR = re.compile(r"""\S*[?!](?:\s+\S+|\W)|[(\["]*([A-Za-z]{2,})\.(?:\s+\S+|\W)""")
_MEMORY = 1 << 18


def sentences_of(language: str) -> Callable[[str], list[str]]:
    """NLTK's Punkt, called once per distinct context of a possible sentence end.

    Two facts save most calls. A ``?`` or ``!`` that Punkt considers always ends a sentence. So does a period after a
    plain word, unless the word is an abbreviation, a single letter, or begins a collocation, whatever comes next.
    """
    from nltk.tokenize.punkt import PunktLanguageVars, PunktTokenizer

    class Rules(PunktLanguageVars):
        """NLTK's, with Python's regular expressions, which are faster than NLTK's with their time limit."""

        re_boundary_realignment = re.compile(PunktLanguageVars.re_boundary_realignment.pattern, re.MULTILINE)

    punkt: Any = PunktTokenizer(language)
    punkt._lang_vars = rules = Rules()
    rules._re_period_context = re.compile(rules.period_context_re().pattern, re.VERBOSE)
    unsure = punkt._params.abbrev_types | {first for first, _ in punkt._params.collocations}
    ask = punkt.text_contains_sentbreak

    def is_end(context: str) -> bool:
        clear = _CLEAR.fullmatch(context)
        return bool(clear and (clear[1] is None or clear[1].lower() not in unsure)) or ask(context)

    punkt.text_contains_sentbreak = lru_cache(_MEMORY)(is_end)
    return punkt.tokenize
