# SPDX-License-Identifier: Apache-2.0
"""What ``dataset.json`` holds: its fields, their types and ranges, and what they have to do with each other.

Its counts are held against each other and against the bytes of each file, so that nothing is planned or allocated for
rows that no file can hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta

from preprocessing.base import atomic
from preprocessing.base.schema import Count, Positive, Sha256, Share
from preprocessing.base.split_names import ALL_SPLITS, NO_LABEL, UNLABELLED
from preprocessing.base.untrusted import confined, shown
from preprocessing.labels import LabelType, fits
from preprocessing.text.spec import MOST_TOKENS

FORMAT = "padless-dataset"
FORMAT_VERSION = 1
MANIFEST = "dataset.json"
VOCABULARY = "vocabulary.arrow"
MOST_WIDTH, MOST_WORDS = MOST_TOKENS, (1 << 31) - 1
"""Ids of a row, and of a vocabulary."""
ROW_BYTES = 16
"""Bytes of a row beside its ids: length, label and number."""


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard."""

    path: str
    """Relative to the dataset directory, as in ``train/00000-w0128.arrow``."""
    rows: Positive
    width: Annotated[int, Meta(ge=1, le=MOST_WIDTH)]
    bytes: Positive
    sha256: Sha256
    lengths: dict[str, int]
    """How many rows have which length: ``{"17": 3}``; enough to plan a run without opening a shard."""
    labels: dict[str, int]
    """How many rows have which label index."""
    tokens: Positive
    """Sum of the lengths."""
    fold: Count | None = None
    """The fold that all its rows are in; None in a dataset without folds, and for rows that are in none."""


@dataclass(frozen=True)
class Manifest:
    """``dataset.json``. Whoever holds one may rely on every file it names being there, whole."""

    labels: Annotated[list[str], Meta(min_length=2)]
    """Name of each class, two at least; a row's ``label`` is an index into it, or ``NO_LABEL`` in the split
    ``unlabelled``.
    """
    splits: dict[str, list[ShardInfo]]
    id_dtype: str
    block_rows: Positive
    vocabulary_size: Annotated[int, Meta(ge=3, le=MOST_WORDS)]
    vocabulary_hash: Sha256
    text: dict[str, Any]
    """The resolved text pipeline, as ``TextPipeline.to_json`` writes it."""
    text_hash: Sha256
    """Hash over text pipeline and vocabulary (law 1): checkpoints and bundles carry the same."""
    statistics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    label_type: LabelType = "text"
    """The type of the source's column of labels, and so of predictions; ``labels`` are its values as texts."""
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """sha256 over all that decides what a trainer reads; statistics, provenance and type of labels are left out."""
        content = self.content()
        for name in ("statistics", "provenance", "label_type"):
            content.pop(name, None)
        return hashlib.sha256(atomic.canonical_json(content)).hexdigest()

    def content(self) -> dict[str, Any]:
        """All of it as plain values; a shard says its fold only if it has one, and labels their type if not texts."""
        content = asdict(self)
        if self.label_type == "text":
            del content["label_type"]
        for shards in content["splits"].values():
            for shard in shards:
                if shard["fold"] is None:
                    del shard["fold"]
        return content

    @property
    def folds(self) -> int:
        """Into how many folds rows of training and validation are cut; 0 where they are not."""
        found = [info.fold for shards in self.splits.values() for info in shards if info.fold is not None]
        return max(found, default=-1) + 1

    def rows(self, split: str) -> int:
        """Number of rows in a split."""
        return sum(shard.rows for shard in self.splits[split])

    def rows_by_width(self, split: str) -> dict[int, int]:
        """Number of rows of a split in shards of each width."""
        widths = sorted({shard.width for shard in self.splits[split]})
        return {width: sum(shard.rows for shard in self.splits[split] if shard.width == width) for width in widths}


class OfSplit(TypedDict, total=False):
    """``statistics.splits`` of one split, as far as reports read it."""

    truncated: Count
    empty: Count
    unknown_rate: Share
    length_histogram: LengthHistogram


class LengthHistogram(TypedDict):
    """Rows by length before truncation, between edges that ascend."""

    edges: list[Count]
    rows: list[Count]


class SourceFile(TypedDict):
    """``provenance.sources``: a file of the corpus, as far as its texts are looked up again."""

    name: str
    rows: Count
    first_row: Count
    bytes: Count
    fingerprint: dict[str, Any]


class Described(TypedDict, total=False):
    """What describes a dataset and decides nothing; other keys are allowed."""

    splits: dict[str, OfSplit]
    dropped: dict[str, Count]
    sources: list[SourceFile]
    config: dict[str, Any]
    versions: dict[str, str]


class Text(TypedDict):
    """``text``: a resolved text pipeline."""

    spec: dict[str, Any]
    stop_words: list[str]
    resources: dict[str, str]


def contradictions(manifest: Manifest, id_dtype: str) -> Iterator[str]:
    """What in a manifest cannot be true, as clauses; ``id_dtype`` is that of a vocabulary of its size."""
    if manifest.id_dtype != id_dtype:
        yield f"id_dtype is {shown(manifest.id_dtype)}, that of {manifest.vocabulary_size} ids is {id_dtype}"
    if len(set(manifest.labels)) < len(manifest.labels):
        yield f"labels has {shown(max(manifest.labels, key=manifest.labels.count))} twice"
    if not fits(manifest.labels, manifest.label_type):
        yield f"label_type is {manifest.label_type}, and labels are other values"
    seen = {PurePosixPath(name) for name in (MANIFEST, VOCABULARY)}
    shards = sum(map(len, manifest.splits.values()))
    for split, infos in manifest.splits.items():
        if split not in ALL_SPLITS:
            yield f"splits has {shown(split)}, which is none of {', '.join(ALL_SPLITS)}"
        for number, info in enumerate(infos):
            at = f"splits.{split}[{number}]"
            for wrong in of_shard(info, np.dtype(id_dtype).itemsize, len(manifest.labels), split):
                yield f"{at}.{wrong}"
            path = PurePosixPath(info.path)
            if path in seen:
                yield f"{at}.path is {shown(info.path)}, which is another file of it too"
            seen.add(path)
            if info.fold is not None and info.fold >= shards:
                yield f"{at}.fold is {info.fold}, but there are only {shards} shards"
    for split, known in manifest.statistics.get("splits", {}).items():
        found = known.get("length_histogram", {"edges": [0, 1], "rows": [0]})
        if len(found["edges"]) != len(found["rows"]) + 1 or found["edges"] != sorted(set(found["edges"])):
            yield f"statistics.splits.{split}.length_histogram has no ascending edges around its rows"


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
    low, high = labels_of(split, labels)
    if known is None or min(known) < low or max(known) > high:
        yield f"labels are not numbers of rows by label, from {low} to {high}"
    elif sum(known.values()) != info.rows:
        yield f"labels do not add up to {info.rows} rows"


def labels_of(split: str, labels: int) -> tuple[int, int]:
    """The lowest and the highest label that a row of a split may have, of so many classes."""
    return (NO_LABEL, NO_LABEL) if split == UNLABELLED else (0, labels - 1)


def counts(histogram: Mapping[str, int]) -> dict[int, int] | None:
    """``{"17": 3}`` with numbers for keys; None unless they are spelt as Python does, and all counts are above 0."""
    try:
        found = {int(key): count for key, count in histogram.items()}
    except ValueError:
        return None
    return found if found and list(map(str, found)) == list(histogram) and min(found.values()) > 0 else None
