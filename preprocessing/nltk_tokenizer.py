# SPDX-License-Identifier: Apache-2.0
"""The ``nltk`` tokenizers: token for token what :func:`nltk.tokenize.word_tokenize` returns for the cleaned text."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa

from preprocessing import html, resources

_PUNKT_FILES = ["abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"]


def versions(language: str, sentences: bool) -> dict[str, str]:
    """What decides the tokens: NLTK's version and, for sentences, a hash of the Punkt model of the language."""
    import nltk

    found = {"nltk": str(nltk.__version__)}
    if sentences:
        resource = f"tokenizers/punkt_tab/{resources.nltk_language(language)}"
        folder = resources.nltk_folder(resource, "punkt_tab")
        found["punkt_tab"] = resources.fingerprint(folder, _PUNKT_FILES)
    return found


def prepare(text: str, strip_html: bool, lowercase: bool) -> str:
    """The text that NLTK's rules see: without markup if asked, in NFC, in lower case if asked."""
    text = unicodedata.normalize("NFC", html.clean(text) if strip_html else text)
    return unicodedata.normalize("NFC", text.lower()) if lowercase else text


class NLTKTokenizer:
    """``split(texts)`` → surfaces and offsets, as :data:`preprocessing.tokens.Splitter` wants them."""

    def __init__(self, language: str, sentences: bool, strip_html: bool, lowercase: bool) -> None:
        """Load the rules and, for ``sentences``, the Punkt model; raises :class:`DataError` when it is missing."""
        versions(language, sentences)
        self._language = resources.nltk_language(language)
        self._sentences = sentences
        self._strip_html, self._lowercase = strip_html, lowercase

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Tokens of all texts in order (large_string), and int64 [texts + 1] offsets."""
        from nltk.tokenize import word_tokenize

        lists = [
            word_tokenize(prepare(text, self._strip_html, self._lowercase), self._language, not self._sentences)
            for text in texts.to_pylist()
        ]
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in lists], dtype=np.int64)])
        return pa.array([token for tokens in lists for token in tokens], pa.large_string()), offsets
