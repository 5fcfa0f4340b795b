# SPDX-License-Identifier: Apache-2.0
"""The registry of tokenizers: what ``text.tokenizer`` may be, and where its code is.

Adding one is a line here and a file of its own; docs/extending.md shows it. A name stands in manifests and bundles, so
it keeps its meaning for ever: a tokenizer that cuts otherwise gets a new name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TokenizerEntry:
    """One tokenizer, by the names of two functions (``module:function``) that are given the ``TextSpec``."""

    rules: str
    """Gives its ``preprocessing.text.rules.Rules``."""
    resources: str | None = None
    """Gives name -> version of all that is installed here and decides its tokens, such as a package; raises
    ``DataError`` when something is missing. None: its own code alone decides.
    """


TOKENIZERS = {
    "word": TokenizerEntry(rules="preprocessing.text.words:rules"),
    "nltk": TokenizerEntry(
        rules="preprocessing.text.nltk_tokenizer:rules", resources="preprocessing.text.nltk_tokenizer:resources"
    ),
    "nltk_line": TokenizerEntry(
        rules="preprocessing.text.nltk_tokenizer:rules", resources="preprocessing.text.nltk_tokenizer:resources"
    ),
}
