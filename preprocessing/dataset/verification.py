# SPDX-License-Identifier: Apache-2.0
"""Verifies a dataset directory: every byte against the manifest, every row against the rules of the format."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.dataset.index import REBUILD
from preprocessing.dataset.remote import ADDRESS, split_of
from preprocessing.dataset.shards import (
    MANIFEST,
    VOCABULARY,
    Manifest,
    Shard,
    Split,
    histogram,
    labels_of,
    read_manifest,
)
from preprocessing.text.encoder import text_hash
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary


def verify_hashes(root: str | Path, manifest: Manifest, vocabulary_sha256: str | None = None) -> Iterator[str]:
    """One sentence per file that is missing or does not match the manifest; raises ``DataError`` for the index.

    Remote shards are checked when they are read.
    ``vocabulary_sha256``, if given, is compared with the vocabulary's file.
    """
    path = Path(root, VOCABULARY)
    try:
        check_words(root, manifest)
        if vocabulary_sha256 is not None and atomic.sha256_file(path) != vocabulary_sha256:
            yield f"{path}: its hash is not the manifest's; {REBUILD}"
    except DataError as error:
        yield str(error)
    for info in manifest.shards(root) if not Path(root, ADDRESS).exists() else ():
        try:
            path = Shard(root, info, manifest.id_dtype, manifest.block_rows).path
        except DataError as error:
            yield str(error)
            continue
        if atomic.sha256_file(path) != info.sha256:
            yield f"{path}: its sha256 is not the manifest's: bytes were changed; {REBUILD}"


def check_words(root: str | Path, manifest: Manifest) -> None:
    """Raise ``DataError`` if vocabulary or text pipeline are not those of the manifest's hashes."""
    path, vocabulary = Path(root, VOCABULARY), Vocabulary.read(Path(root, VOCABULARY))
    if len(vocabulary) != manifest.vocabulary_size:
        raise DataError(f"{path}: {len(vocabulary)} words, the manifest says {manifest.vocabulary_size}; {REBUILD}")
    if vocabulary.hash != manifest.vocabulary_hash:
        raise DataError(f"{path}: its hash is not the manifest's; {REBUILD}")
    path = Path(root, MANIFEST)
    if text_hash(TextPipeline.from_json(manifest.text, path), vocabulary.hash) != manifest.text_hash:
        raise DataError(f"{path}: its text does not match its text_hash: edited or damaged; {REBUILD}")


def verify(root: str | Path) -> list[str]:
    """Check a dataset directory in full: manifest, vocabulary, every shard's bytes and, if they are right, every row.

    Returns one sentence per problem; raises ``DataError`` if there is no readable manifest or index.
    """
    manifest = read_manifest(root)
    content = json.loads(Path(root, MANIFEST).read_bytes())
    problems = list(verify_hashes(root, manifest, content.get("vocabulary_sha256", "")))
    if not problems:
        for name in manifest.splits:
            problems += content_problems(split_of(root, manifest, name))
    return problems


def content_problems(split: Split) -> Iterator[str]:
    """One sentence per rule of the format that the rows of a split break."""
    manifest, labels = split.manifest, labels_of(split.name, len(split.manifest.labels))
    found = defaultdict[tuple[str, int | None], Counter[str]](Counter)
    for shard in split.shards:
        for number, block in enumerate(shard.blocks):
            where = f"{shard.path}: record batch {number}"
            if wrong := block.outside(manifest.vocabulary_size, labels):
                yield f"{where} holds {wrong}"
            real = np.arange(shard.info.width) < block.length[:, None]
            if ((block.ids != 0) != real).any():
                yield f"{where} has padding inside a row or tokens beyond its length"
            for name in ("length", "label"):
                found[name, shard.info.fold].update(histogram(getattr(block, name)))
    for part in split.index.parts:
        for name, known in (("length", part.lengths), ("label", part.labels)):
            if found[name, part.fold] != known:
                yield f"{Path(split.root, MANIFEST)}: its {name}s of {split.name} are not those of the rows; {REBUILD}"
