# SPDX-License-Identifier: Apache-2.0
"""Verifies a dataset directory: every byte against the manifest, every row against the rules of the format."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.terminal import public, tell
from preprocessing.dataset.index import REBUILD
from preprocessing.dataset.remote import ADDRESS, local, split_of
from preprocessing.dataset.shards import (
    MANIFEST,
    VOCABULARY,
    Manifest,
    Shard,
    Split,
    check_words,
    histogram,
    labels_of,
    read_manifest,
)


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Verify every byte of a dataset; each problem is a line, and the exit code is 3."""

    SUBJECT = ("data",)
    data: str
    """Dataset directory."""


def main(config: CheckConfig) -> int:
    """``padless check``: verify a dataset; returns the exit code."""
    root = local(config.data)
    problems = verify(root)
    for problem in problems:
        tell(f"error: {problem}")
    if problems:
        return DataError.exit_code
    print(f"ok: {public(config.data)}: {read_manifest(root).in_words()}")
    return 0


def verify_hashes(root: str | Path, manifest: Manifest) -> Iterator[str]:
    """One sentence per file that is missing or does not match the manifest; raises ``DataError`` for the index.

    Remote shards are checked when they are read.
    """
    try:
        check_words(root, manifest)
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


def verify(root: str | Path) -> list[str]:
    """Check a dataset directory in full: manifest, vocabulary, every shard's bytes and, if they are right, every row.

    Returns one sentence per problem; raises ``DataError`` if there is no readable manifest or index.
    """
    manifest, path = read_manifest(root), Path(root, VOCABULARY)
    known = json.loads(Path(root, MANIFEST).read_bytes()).get("vocabulary_sha256")
    problems = list(verify_hashes(root, manifest))
    if not problems and atomic.sha256_file(path) != known:
        problems = [f"{path}: its sha256 is not the manifest's; {REBUILD}"]
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
