# SPDX-License-Identifier: Apache-2.0
"""What a tokenizer is, the simplest way to make one, and the registry of what ``text.tokenizer`` may be.

Adding one is a line in ``TOKENIZERS`` and a file of its own; docs/extending.md shows it. A name stands in manifests and
bundles, so it keeps its meaning for ever: a tokenizer that cuts otherwise gets a new name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from preprocessing.text import html
from preprocessing.text.unicode import nfc


class Rules(Protocol):
    """How texts become surfaces, and surfaces words. A surface occurs often, so the second is asked once for each.

    Stop words, lemmas and the vocabulary come afterwards and are not handled here; HTML, NFC and lower case are.
    """

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """``texts`` (large_string, without nulls) -> the surfaces of all texts in order (binary or string), and int64
        ``[texts + 1]`` offsets into them.
        """
        ...

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """The words of each of these distinct surfaces, which are UTF-8."""
        ...


class Cleaning(Protocol):
    """What of a ``TextSpec`` says how a text is cleaned before it is cut."""

    @property
    def html(self) -> bool:
        """Whether markup is removed."""

    @property
    def lowercase(self) -> bool:
        """Whether it becomes lower case."""


class PerText:
    """Rules from a function that gives the words of one clean text: simple, at the speed of Python."""

    def __init__(self, spec: Cleaning, words_of_text: Callable[[str], list[str]]) -> None:
        """``words_of_text`` is given each text as ``prepare`` leaves it."""
        self._spec = spec
        self._words_of_text = words_of_text

    def split(self, texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """Every word is a surface."""
        found: list[str] = []
        offsets = [0]
        for text in texts.to_pylist():
            found += self._words_of_text(prepare(text, self._spec.html, self._spec.lowercase))
            offsets.append(len(found))
        return pa.array(found, pa.large_string()), np.array(offsets, np.int64)

    def words(self, surfaces: list[bytes]) -> list[list[str]]:
        """A surface is a word already."""
        return [[surface.decode()] for surface in surfaces]


def prepare(text: str, strip_html: bool, lowercase: bool) -> str:
    """A clean text: without markup if asked, in NFC, in lower case if asked."""
    text = nfc(html.clean(text) if strip_html else text)
    return nfc(text.lower()) if lowercase else text


@dataclass(frozen=True, kw_only=True)
class TokenizerEntry:
    """One tokenizer, by the names of two functions (``module:function``) that are given the ``TextSpec``."""

    rules: str
    """Gives its ``Rules``."""
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
