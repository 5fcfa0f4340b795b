# SPDX-License-Identifier: Apache-2.0
"""The one place where a text pipeline meets the language data of this machine.

:func:`resolve` writes down which stop words and which versions a :class:`TextSpec` means here. :func:`verify` checks,
perhaps on another machine and much later, that a pipeline would still give the same tokens.
"""

from __future__ import annotations

from preprocessing.base.errors import DataError
from preprocessing.base.installed import load
from preprocessing.text import lemmas, stopwords
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokenizers import TOKENIZERS


def resolve(spec: TextSpec) -> TextPipeline:
    """Look up the stop words of ``spec`` and the versions of all else that decides its tokens on this machine.

    Raises :class:`DataError` when something is missing: what, where it was looked for, and the command that fetches it.
    """
    removed = stopwords.load(spec.stop_words, spec.language, spec.lowercase, spec.keep_negations)
    if spec.lemmatizer == "simplemma":
        lemmas.simplemma_lemmatizer(spec.language)  # raises for a language that it does not have
    return TextPipeline(spec, removed, installed_resources(spec))


def installed_resources(spec: TextSpec) -> dict[str, str]:
    """Name -> version or hash of everything installed here that decides the tokens of ``spec``, stop words apart.

    Raises :class:`DataError` when something is missing.
    """
    found: dict[str, str] = {}
    resources = TOKENIZERS[spec.tokenizer].resources
    if resources is not None:
        found |= load(resources)(spec)
    if spec.lemmatizer == "wordnet":
        found["wordnet"] = lemmas.wordnet_fingerprint()
    if spec.lemmatizer == "simplemma":
        found["simplemma"] = lemmas.simplemma_version()
    return found


def verify(pipeline: TextPipeline) -> None:
    """Raise :class:`DataError` naming the first resource that is not the one the pipeline was resolved with."""
    here = installed_resources(pipeline.spec)
    for name in sorted({*here, *pipeline.resources}):
        then, now = pipeline.resources.get(name), here.get(name)
        if then != now:
            raise DataError(
                f"the text pipeline was made with {name} {then}, but {now} is installed here and would give other ids; "
                "install the former or run preprocessing again"
            )
