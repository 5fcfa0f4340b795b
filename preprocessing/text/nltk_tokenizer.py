# SPDX-License-Identifier: Apache-2.0
"""The ``nltk`` tokenizers: what :func:`nltk.tokenize.word_tokenize` returns for the cleaned text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.text import resources as data
from preprocessing.text.tokenizer import PerText

if TYPE_CHECKING:
    from preprocessing.text.spec import TextSpec

_PUNKT_FILES = ["abbrev_types.txt", "collocations.tab", "ortho_context.tab", "sent_starters.txt"]


def resources(spec: TextSpec) -> dict[str, str]:
    """What decides the tokens: NLTK's version and, for sentences, a hash of the Punkt model of the language."""
    import nltk

    versions = {"nltk": str(nltk.__version__)}
    if spec.tokenizer == "nltk":
        resource = f"tokenizers/punkt_tab/{data.language_name(spec.language)}"
        versions["punkt_tab"] = data.fingerprint(data.find_folder(resource), _PUNKT_FILES)
    return versions


def rules(spec: TextSpec) -> PerText:
    """Gives each text to NLTK; ``nltk_line`` does not cut it into sentences."""
    from nltk.tokenize import word_tokenize

    language, is_line = data.language_name(spec.language), spec.tokenizer == "nltk_line"
    return PerText(spec, lambda text: word_tokenize(text, language, is_line))
