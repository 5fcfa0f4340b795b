# SPDX-License-Identifier: Apache-2.0
"""Lemmatizers: a function from one token to its lemma, and the fingerprint of the data behind it.

WordNet's rules are those of ``nltk.stem.WordNetLemmatizer`` (Morphy: exception lists, then suffix rules, then the
shortest form that WordNet lists), read from NLTK's own data files without its lazy loader, which is slow and has no
lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.text import nltk_data

_SUFFIXES = {
    "noun": [
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    ],
    "verb": [
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ],
    "adj": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "adv": [],
}  # fmt: skip
_FILES = [*(f"index.{part}" for part in _SUFFIXES), *(f"{part}.exc" for part in _SUFFIXES)]


class WordNet:
    """Morphy over the index and exception files of NLTK's ``corpora/wordnet``."""

    def __init__(self, pos: Literal["noun", "first"]) -> None:
        """Read the files; raises :class:`DataError` when the data is not installed.

        ``pos``: "noun" treats every token as a noun, "first" takes the first of noun, verb, adjective and adverb whose
        lemma differs from the token.
        """
        self._parts = ["noun"] if pos == "noun" else list(_SUFFIXES)
        folder = nltk_data.find_folder("corpora/wordnet", "wordnet")
        self._known: dict[str, set[str]] = {}
        self._exceptions: dict[str, dict[str, list[str]]] = {}
        for part in self._parts:
            lines = nltk_data.read_file(folder, f"index.{part}").decode().split("\n")
            self._known[part] = {line.partition(" ")[0] for line in lines if line and line[0] != " "}
            rows = (line.split() for line in nltk_data.read_file(folder, f"{part}.exc").decode().split("\n"))
            self._exceptions[part] = {row[0]: row[1:] for row in rows if row}

    def __call__(self, token: str) -> str:
        """The lemma of ``token``, or ``token`` itself when WordNet does not know it."""
        for part in self._parts:
            lemma = self._lemma(token, part)
            if lemma != token:
                return lemma
        return token

    def _lemma(self, token: str, part: str) -> str:
        forms = self._exceptions[part].get(token)
        if forms is None:
            forms = [token[: -len(old)] + new for old, new in _SUFFIXES[part] if token.endswith(old)]
        known = self._known[part]
        return min((form for form in (token, *forms) if form in known), key=len, default=token)


def wordnet_fingerprint() -> str:
    """``sha256:…`` over the WordNet files that lemmas depend on; raises :class:`DataError` when they are missing."""
    return nltk_data.fingerprint(nltk_data.find_folder("corpora/wordnet", "wordnet"), _FILES)


def simplemma_version() -> str:
    """The installed version of simplemma, whose wheel holds its data; raises :class:`DataError` without it."""
    try:
        from simplemma import __version__
    except ModuleNotFoundError as error:
        raise DataError("the package simplemma is not installed; run `pip install simplemma`") from error
    return str(__version__)


def simplemma_lemmatizer(language: str) -> Callable[[str], str]:
    """simplemma's lemma in one language; raises :class:`ConfigError` for a language it does not have."""
    simplemma_version()
    from simplemma import Lemmatizer

    lemmatizer = Lemmatizer()
    try:
        lemmatizer.lemmatize("word", lang=language)
    except ValueError as error:
        raise ConfigError(f"simplemma has no language {language!r}; see its list of language codes") from error
    return lambda token: lemmatizer.lemmatize(token, lang=language)
