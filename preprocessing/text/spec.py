# SPDX-License-Identifier: Apache-2.0
"""The description of a text → ids function: the user's settings, and what they resolve to. Reads no other data.

:class:`TextSpec` is the ``text`` section of a configuration. :class:`TextPipeline` adds the stop words and versions;
manifests, checkpoints and bundles store it. :class:`preprocessing.text.encoder.Encoder` does the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Meta

from padless.core.atomic import canonical_json
from padless.core.errors import require
from padless.core.schema import Name, convert_json


@dataclass(frozen=True, kw_only=True)
class TokenizerEntry:
    """One tokenizer, by the names of two functions (``module:function``) that are given the ``TextSpec``."""

    rules: str
    """Gives its ``Rules``."""
    resources: str | None = None
    """Gives name -> version of all that is installed here and decides its tokens, such as a package; raises
    ``DataError`` when something is missing. None: only its code decides.
    """


TOKENIZERS = {
    "unicode": TokenizerEntry(rules="preprocessing.text.words:UnicodeRules"),
    "nltk": TokenizerEntry(
        rules="preprocessing.text.tokenizer:nltk_rules", resources="preprocessing.text.resources:nltk_versions"
    ),
}
"""Values of ``text.tokenizer``; docs/extending.md shows how to add one. Manifests and bundles store the name, so a
tokenizer that gives other tokens needs a new name."""
MOST_TOKENS = 1 << 24
"""Most tokens of one text: the widest row of a shard."""


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
    tokenizer: str = "unicode"
    """unicode: words and numbers of any script, #tags, emoji, runs of ! and ?, each letter of scripts without spaces.
    nltk: what nltk.tokenize.word_tokenize returns (English sentences, then Treebank rules; needs NLTK's data)."""
    stop_words: Name = "none"
    """none, nltk (English; needs NLTK's data), or the path of a UTF-8 file with one word a line."""
    keep_negations: bool = True
    """Keep the English no, not, never, don't, … although the stop list holds them."""
    lemmatizer: Literal["none", "wordnet"] = "none"
    """wordnet: lemmas of English nouns, of every token, as NLTK's WordNetLemmatizer has them (needs NLTK's data)."""
    max_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] = 512
    """The longest sequence kept: the largest width of a shard."""
    truncate: Literal["head", "tail", "both"] = "head"
    """Which end of a longer text is kept: head, tail, or both (half and half)."""

    def summary(self) -> str:
        """What becomes a token, in a few words."""
        return f"{self.tokenizer}, {self.normalize}"

    def __post_init__(self) -> None:
        require(self.tokenizer in TOKENIZERS, "text.tokenizer", self.tokenizer, f"one of {', '.join(TOKENIZERS)}")


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
            "spec": asdict(self.spec),
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
        """sha256 (hex) over the canonical JSON of :meth:`to_json`, with the settings that are not at their defaults.

        So a key added later changes no older hash, if its default keeps the older behaviour.
        """
        settings = {key: value for key, value in asdict(self.spec).items() if value != getattr(TextSpec, key)}
        return hashlib.sha256(canonical_json(self.to_json() | {"spec": settings})).hexdigest()
