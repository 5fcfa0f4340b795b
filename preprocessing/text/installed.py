# SPDX-License-Identifier: Apache-2.0
"""Whether the language data installed here is the data a text pipeline was resolved with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.base.errors import DataError
from preprocessing.text import lemmas, nltk_tokenizer

if TYPE_CHECKING:
    from preprocessing.text.spec import TextPipeline, TextSpec


def resources(spec: TextSpec) -> dict[str, str]:
    """Version or hash of everything installed here that changes what ``spec`` gives, stop words apart.

    Raises :class:`DataError` when something is missing.
    """
    found: dict[str, str] = {}
    if spec.tokenizer != "word":
        found |= nltk_tokenizer.versions(spec.language, sentences=spec.tokenizer == "nltk")
    if spec.lemmatizer == "wordnet":
        found["wordnet"] = lemmas.wordnet_fingerprint()
    if spec.lemmatizer == "simplemma":
        found["simplemma"] = lemmas.simplemma_version()
    return found


def verify(pipeline: TextPipeline) -> None:
    """Raise :class:`DataError` naming the first resource that is not the one the pipeline was resolved with."""
    here = resources(pipeline.spec)
    for name in sorted({*here, *pipeline.resources}):
        then, now = pipeline.resources.get(name), here.get(name)
        if then != now:
            raise DataError(
                f"the text pipeline was made with {name} {then}, but {now} is installed here and would give other ids; "
                "install the former or run preprocessing again"
            )
