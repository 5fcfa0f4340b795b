# SPDX-License-Identifier: Apache-2.0
"""What the values of a manifest have to do with each other, once each is of the right type.

Its counts are held against each other and against the bytes of each file, so that nothing is planned or allocated for
rows that no file can hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import PurePosixPath

from preprocessing.base.split_names import ALL_SPLITS, NO_LABEL, UNLABELLED
from preprocessing.base.typed import Sha256
from preprocessing.base.untrusted import confined, shown
from preprocessing.dataset import facts
from preprocessing.dataset.manifest import Manifest, ShardInfo
from preprocessing.labels import fits

TAKEN = ("dataset.json", "vocabulary.arrow")
"""Files of a dataset that are no shards."""
ROW_BYTES = 16
"""Bytes of a row beside its ids: length, label and number."""


@dataclass(frozen=True)
class Hashes:
    """What stands in ``dataset.json`` beside a manifest."""

    fingerprint: Sha256
    vocabulary_sha256: Sha256 | None


HASHES = tuple(field.name for field in fields(Hashes))


def contradiction(manifest: Manifest, id_dtype: str) -> str | None:
    """The first thing in a manifest that cannot be true, as a clause; None if all of it can.

    ``id_dtype`` is the one that a vocabulary of its size has.
    """
    if manifest.id_dtype != id_dtype:
        return f"id_dtype is {shown(manifest.id_dtype)}, that of {manifest.vocabulary_size} ids is {id_dtype}"
    if len(set(manifest.labels)) < len(manifest.labels):
        twice = next(label for label in manifest.labels if manifest.labels.count(label) > 1)
        return f"labels has {shown(twice)} twice"
    if not fits(manifest.labels, manifest.label_type):
        return f"label_type is {manifest.label_type}, and labels are other values"
    return next(of_splits(manifest, int(id_dtype.strip("uint")) // 8), None) or facts.contradiction(manifest.statistics)


def of_splits(manifest: Manifest, itemsize: int) -> Iterator[str]:
    """What cannot be true of the splits."""
    seen = {PurePosixPath(name) for name in TAKEN}
    shards = sum(map(len, manifest.splits.values()))
    for split, infos in manifest.splits.items():
        if split not in ALL_SPLITS:
            yield f"splits has {shown(split)}, which is none of {', '.join(ALL_SPLITS)}"
            return
        for number, info in enumerate(infos):
            at = f"splits.{split}[{number}]"
            for wrong in of_shard(info, itemsize, len(manifest.labels), split):
                yield f"{at}.{wrong}"
            path = PurePosixPath(info.path)
            if path in seen:
                yield f"{at}.path is {shown(info.path)}, which is another file of it too"
            seen.add(path)
            if info.fold is not None and info.fold >= shards:
                yield f"{at}.fold is {info.fold}, but there are only {shards} shards"


def of_shard(info: ShardInfo, itemsize: int, labels: int, split: str) -> Iterator[str]:
    """What cannot be true of a shard, with the name of the key."""
    try:
        confined("", info.path)
    except ValueError as error:
        yield f"path {error}"
    if info.rows * (info.width * itemsize + ROW_BYTES) > info.bytes:
        yield f"rows is {info.rows} of width {info.width}, more than {info.bytes} bytes hold"
    lengths = counts(info.lengths)
    if lengths is None or min(lengths) < 1 or max(lengths) > info.width:
        yield f"lengths are not numbers of rows by length, from 1 to {info.width}"
    elif sum(lengths.values()) != info.rows or sum(map(int.__mul__, lengths, lengths.values())) != info.tokens:
        yield f"lengths do not add up to {info.rows} rows with {info.tokens} tokens"
    known = counts(info.labels)
    low, high = (NO_LABEL, NO_LABEL) if split == UNLABELLED else (0, labels - 1)
    if known is None or min(known) < low or max(known) > high:
        yield f"labels are not numbers of rows by label, from {low} to {high}"
    elif sum(known.values()) != info.rows:
        yield f"labels do not add up to {info.rows} rows"


def counts(histogram: Mapping[str, int]) -> dict[int, int] | None:
    """``{"17": 3}`` with numbers for keys; None unless they are spelt as Python does, and all counts are above 0."""
    try:
        found = {int(key): count for key, count in histogram.items()}
    except ValueError:
        return None
    return found if found and list(map(str, found)) == list(histogram) and min(found.values()) > 0 else None
