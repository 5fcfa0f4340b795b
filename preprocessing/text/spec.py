# SPDX-License-Identifier: Apache-2.0
"""The description of a text → ids function: the user's settings, and what they resolve to. Reads no other data.

:class:`TextSpec` is the ``text`` section of a configuration. :class:`TextPipeline` adds the stop words and versions;
manifests, checkpoints and bundles store it. :class:`preprocessing.text.encoder.Encoder` does the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Meta

from padless.core.atomic import canonical_json
from padless.core.errors import ConfigError, require
from padless.core.schema import LanguageCode, Name, convert_json


@dataclass(frozen=True, kw_only=True)
class TokenizerEntry:
    """One tokenizer, by the names of two functions (``module:function``) that are given the ``TextSpec``."""

    rules: str
    """Gives its ``Rules``."""
    resources: str | None = None
    """Gives name -> version of all that is installed here and decides its tokens, such as a package; raises
    ``DataError`` when something is missing. None: only its code decides.
    """


NLTK = TokenizerEntry(
    rules="preprocessing.text.tokenizer:nltk_rules", resources="preprocessing.text.resources:nltk_versions"
)
TOKENIZERS = {
    "unicode": TokenizerEntry(rules="preprocessing.text.words:UnicodeRules"),
    "nltk": NLTK,
    "nltk_line": NLTK,
}
"""Values of ``text.tokenizer``; docs/extending.md shows how to add one. Manifests and bundles store the name, so a
tokenizer that gives other tokens needs a new name."""
MOST_TOKENS = 1 << 24
"""Most tokens of one text: the widest row of a shard."""
FIRST_KEYS = {
    *("html", "lowercase", "tokenizer", "stop_words", "keep_negations", "lemmatizer", "wordnet_pos", "language"),
    *("max_tokens", "truncate", "normalize"),
}
"""The keys that every recorded specification has: those of the first version. None is ever added here."""


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How a text becomes tokens, and how many of them are kept. Raises :class:`ConfigError` naming key and value."""

    html: bool = True
    """Remove tags, comments, scripts and styles, and decode entities; `a < b` survives."""
    lowercase: bool = True
    """Lower-case every token."""
    normalize: Literal["nfc", "nfkc"] = "nfkc"
    """Unicode's normal form. nfc makes one of the encodings of a character, nfkc also of its looks: Ａ１ and A1, ｶﾞ and
    ガ, ﬁ and fi, 𝐛 and b, ² and 2."""
    strip_accents: bool = False
    """Remove the accents of Latin, Greek and Cyrillic letters: é is e, й is и. The vowel signs of Arabic, Hindi or Thai
    and the voicing marks of kana stay."""
    tokenizer: str = "unicode"
    """unicode: words and numbers of any script, #tags, emoji, runs of ! and ?, each letter of scripts without spaces.
    nltk: what nltk.tokenize.word_tokenize returns (sentences, then Treebank rules). nltk_line: the same with
    preserve_line=True, which needs no data."""
    stop_words: Name = "none"
    """none, nltk, stop-words (the package), or the path of a UTF-8 file with one word a line."""
    keep_negations: bool = True
    """Keep no, not, never, don't, … although the stop list holds them."""
    lemmatizer: Literal["none", "wordnet", "simplemma"] = "none"
    """wordnet (English; needs NLTK's data) or simplemma (many languages; data comes with the package)."""
    wordnet_pos: Literal["noun", "first"] = "noun"
    """noun: every token is a noun, NLTK's default. first: the first of noun, verb, adjective, adverb to change it."""
    language: LanguageCode = "en"
    """Two-letter code: which stop list, sentence model, negations and simplemma data."""
    subwords: Literal["none", "bpe"] = "none"
    """bpe: frequent words stay whole, others become pieces, down to letters (##ing is one inside a word). They are
    learned by byte-pair encoding from the words of the training split (extra subwords), at most vocabulary.max_size;
    the longest piece comes first, as in WordPiece."""
    max_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] = 512
    """The longest sequence kept: the largest width of a shard."""
    truncate: Literal["head", "tail", "both"] = "head"
    """Which end of a longer text is kept: head, tail, or both (half and half)."""

    def summary(self) -> str:
        """What becomes a token, in a few words."""
        pieces = [] if self.subwords == "none" else [self.subwords]
        return ", ".join([self.tokenizer, self.normalize, *["without accents"] * self.strip_accents, *pieces])

    def to_json(self) -> dict[str, Any]:
        """The values that manifests and bundles store and that are hashed: the keys of ``FIRST_KEYS``, and others that
        are not at their defaults. So a key added later changes no older hash, if its default keeps the older behaviour.
        """
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if name in FIRST_KEYS or value != defaults[name]}

    def __post_init__(self) -> None:
        require(self.tokenizer in TOKENIZERS, "text.tokenizer", self.tokenizer, f"one of {', '.join(TOKENIZERS)}")
        if self.lemmatizer == "wordnet" and self.language != "en":
            raise ConfigError(
                f"text.lemmatizer: wordnet is English, but text.language is {self.language!r}; use simplemma"
            )


@dataclass(frozen=True)
class TextPipeline:
    """A resolved :class:`TextSpec`: everything that is needed to repeat it anywhere."""

    spec: TextSpec
    stop_words: tuple[str, ...]
    """The words to remove, sorted. The list or file that they came from is not needed again."""
    resources: Mapping[str, str]
    """Name -> version or hash of what else decides tokens. Unicode's tables come with Python and are not listed."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value that :meth:`from_json` turns back into an equal pipeline."""
        return {
            "spec": self.spec.to_json(),
            "stop_words": list(self.stop_words),
            "resources": dict(sorted(self.resources.items())),
        }

    @classmethod
    def from_json(cls, value: Any, path: object = "a manifest") -> TextPipeline:
        """The pipeline that :meth:`to_json` described in the file ``path``.

        Raises :class:`DataError` when the value is not one.
        """
        message = f"{path}: not a text pipeline of this version of padless"
        pipeline: TextPipeline = convert_json(cls, value, message, "run preprocessing again")
        return pipeline

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) over the canonical JSON of :meth:`to_json`."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()
