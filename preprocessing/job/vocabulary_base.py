# SPDX-License-Identifier: Apache-2.0
"""``vocabulary.base``: the vocabulary of a run, a bundle or another dataset, for texts that are to have its ids.

A bundle is read as the plain files that it is; what is in it belongs to the harness.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Screen, public
from preprocessing.base.untrusted import read_json
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, read_manifest
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import UNK, Counts, Vocabulary, VocabularyConfig, extended, freeze

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
        least = f"less than the {len(vocabulary)} ids of vocabulary.base; set it to at least that"
        raise ConfigError(f"vocabulary.max_size: {config.max_size} is {least}")
    return Base(config.base, vocabulary)


def find(address: str) -> tuple[Path, Any, Any]:
    """The folder of a base's vocabulary, its text pipeline and the vocabulary's hash, as the files beside it say."""
    root = remote.local(address) if addresses.is_remote(address) else Path(address)
    if (root / MANIFEST).exists():
        manifest = read_manifest(root)
        return root, manifest.text, manifest.vocabulary_hash
    for folder in (root, root / BUNDLE):
        if (folder / BUNDLE_INDEX).exists():
            content = read_json(folder / BUNDLE_INDEX, "restore it, or name another vocabulary.base")
            if not isinstance(content, dict) or content.get("format") != BUNDLE_FORMAT:
                raise DataError(f"{folder / BUNDLE_INDEX}: not a padless bundle; name another vocabulary.base")
            return folder, content.get("text"), content.get("vocabulary_hash")
    what = "there is no dataset, no bundle and no run that has finished an epoch; name the directory of one"
    if inside := sorted(path.parent.parent for path in root.glob(f"*/{BUNDLE}/{BUNDLE_INDEX}")):
        what = f"a folder of runs; name one of them, as in {inside[0]}"
    raise ConfigError(f"vocabulary.base: {address}: {what}")


def check_text(address: str, base: TextPipeline, own: TextPipeline) -> None:
    """Raise ``ConfigError`` that says which settings of ``text``, or what else, are not those of the base."""
    theirs, mine = asdict(base.spec), asdict(own.spec)
    others = [f"text.{key} to {said(theirs[key])} (now {said(mine[key])})" for key in mine if mine[key] != theirs[key]]
    if others:
        raise ConfigError(f"vocabulary.base: {address}: its texts were read otherwise; set {' and '.join(others)}")
    different = [
        name for name in {**base.resources, **own.resources} if base.resources.get(name) != own.resources.get(name)
    ]
    different += ["another list of stop words"] if base.stop_words != own.stop_words else []
    if different:
        now = ", ".join(f"{name} {base.resources.get(name, '')}".strip() for name in different)
        raise ConfigError(f"vocabulary.base: {address}: its texts were read with {now}; use the same here")


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
        what = f"none of the {total:,} tokens to learn from is in vocabulary.base {base.address}"
        raise DataError(f"{what}; name another")
    share = 1 - unknown_among(counts, old) / total
    added = f"; {len(vocabulary) - len(old):,} added" if config.extend else ""
    screen.say(f"vocabulary: the {len(old):,} ids of {public(base.address)} cover {share:.1%} of the tokens{added}")
    return vocabulary


def unknown_among(counts: Counts, vocabulary: Vocabulary) -> int:
    """How many of the counted tokens are ``<unk>``."""
    return int(counts.counts[vocabulary.lookup(counts.types) == UNK].sum())
