# SPDX-License-Identifier: Apache-2.0
"""``vocabulary.base``: the vocabulary of a run, a bundle or another dataset, for texts that are to have its ids.

A bundle is read as the plain files that it is; what is in it belongs to the harness.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.printable import public
from preprocessing.base.screen import Screen
from preprocessing.base.typed import Sha256, typed
from preprocessing.base.untrusted import read_json
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, read_manifest
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import UNK, Counts, Vocabulary, extended, freeze
from preprocessing.text.vocabulary_config import VocabularyConfig

BUNDLE, BUNDLE_INDEX, BUNDLE_FORMAT = "bundle", "bundle.json", "padless-bundle"
"""A run's folder with its bundle, the file that says what is in it, and how it is known."""


@dataclass(frozen=True)
class Base:
    """A vocabulary that is there already."""

    address: str
    """As the user named it."""
    vocabulary: Vocabulary

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"source": public(self.address), "vocabulary_hash": self.vocabulary.hash, "size": len(self.vocabulary)}


@dataclass(frozen=True)
class BundleText:
    """What is read of a ``bundle.json`` here."""

    text: dict[str, Any]
    vocabulary_hash: Sha256


def read_base(config: VocabularyConfig, pipeline: TextPipeline) -> Base | None:
    """The base of a vocabulary for texts that go through ``pipeline``; None where there is none.

    Raises ``ConfigError`` for what is no base or has other settings, ``DataError`` for a damaged one.
    """
    if config.base is None:
        return None
    folder, text, digest = find(config.base)
    check_text(config.base, TextPipeline.from_json(text, folder), pipeline)
    vocabulary = Vocabulary.read(folder / VOCABULARY)
    if vocabulary.hash != digest:
        raise DataError(f"{folder / VOCABULARY}: not the vocabulary that the files beside it name; restore it")
    if len(vocabulary) > config.max_size:
        raise ConfigError(
            f"vocabulary.max_size: {config.max_size} is less than the {len(vocabulary)} ids of vocabulary.base; "
            "set it to at least that"
        )
    return Base(config.base, vocabulary)


def find(address: str) -> tuple[Path, dict[str, Any], str]:
    """The folder of a base's vocabulary, its text pipeline and the vocabulary's hash, as the files beside it say."""
    root = remote.local(address) if addresses.is_remote(address) else Path(address)
    if not root.exists():
        raise ConfigError(f"vocabulary.base: {address}: there is no such run, bundle or dataset; name another")
    if (root / MANIFEST).exists():
        manifest = read_manifest(root)
        return root, manifest.text, manifest.vocabulary_hash
    for folder in (root, root / BUNDLE):
        if (folder / BUNDLE_INDEX).exists():
            return folder, *bundle_text(folder / BUNDLE_INDEX)
    if inside := sorted(path.parent.parent.name for path in root.glob(f"*/{BUNDLE}/{BUNDLE_INDEX}")):
        raise ConfigError(f"vocabulary.base: {address}: a folder of runs; name one of them, as in {root / inside[0]}")
    raise ConfigError(
        f"vocabulary.base: {address}: neither a dataset, nor a bundle, nor a run that has finished an epoch; "
        "name the directory of one"
    )


def bundle_text(path: Path) -> tuple[dict[str, Any], str]:
    """Text pipeline and vocabulary hash of a ``bundle.json``. Raises ``DataError`` for one that is damaged."""
    mend = "restore it, or name another vocabulary.base"
    content = read_json(path, mend)
    if not isinstance(content, dict) or content.get("format") != BUNDLE_FORMAT:
        raise DataError(f"{path}: not a padless bundle; name another vocabulary.base")
    known = typed(BundleText, {name: content.get(name) for name in ("text", "vocabulary_hash")}, str(path), mend)
    return known.text, known.vocabulary_hash


def check_text(address: str, base: TextPipeline, own: TextPipeline) -> None:
    """Raise ``ConfigError`` that says which settings of ``text`` are not those of the base."""
    theirs, mine = asdict(base.spec), asdict(own.spec)
    others = [f"text.{key} to {said(theirs[key])} (now {said(mine[key])})" for key in mine if mine[key] != theirs[key]]
    if others:
        raise ConfigError(f"vocabulary.base: {address}: its texts were read otherwise; set {' and '.join(others)}")
    if base.stop_words != own.stop_words:
        raise ConfigError(
            f"vocabulary.base: {address}: its list of stop words (text.stop_words {own.spec.stop_words}) has "
            f"{len(base.stop_words)} words, and {len(own.stop_words)} here, not the same; use that list"
        )
    for name in sorted({*base.resources, *own.resources}):
        then, now = base.resources.get(name), own.resources.get(name)
        if then != now:
            raise ConfigError(
                f"vocabulary.base: {address}: its texts were read with {name} {then}, but {now} is installed here and "
                "would give other tokens; install the former"
            )


def said(value: object) -> str:
    """A value as a configuration has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def frozen(counts: Counts, config: VocabularyConfig, base: Base | None, screen: Screen) -> Vocabulary:
    """The vocabulary for texts with these ``counts``; what a base covers of them is said on ``screen``.

    Raises ``DataError`` when no token of the texts is in it.
    """
    if base is None:
        return freeze(counts, config.min_count, config.max_size)
    old = base.vocabulary
    vocabulary = extended(old, counts, config.min_count, config.max_size) if config.extend else old
    total = int(counts.counts.sum())
    if unknown_among(counts, vocabulary) == total:
        raise DataError(
            f"none of the {total:,} tokens to learn from is in vocabulary.base {base.address}; name another"
        )
    share = 1 - unknown_among(counts, old) / total
    added = f"; {len(vocabulary) - len(old):,} added" if config.extend else ""
    screen.say(f"vocabulary: the {len(old):,} ids of {public(base.address)} cover {share:.1%} of the tokens{added}")
    return vocabulary


def unknown_among(counts: Counts, vocabulary: Vocabulary) -> int:
    """How many of the counted tokens are ``<unk>``."""
    return int(counts.counts[vocabulary.lookup(counts.types) == UNK].sum())
