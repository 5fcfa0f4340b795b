# SPDX-License-Identifier: Apache-2.0
"""What ``dataset.json`` holds: its fields, their types and their ranges."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from preprocessing.base import atomic
from preprocessing.base.typed import Between, Count, Like, Positive, Sha256
from preprocessing.dataset import facts
from preprocessing.labels import LabelType
from preprocessing.text.spec import MOST_TOKENS

FORMAT = "padless-dataset"
FORMAT_VERSION = 1
MOST_WIDTH, MOST_WORDS = MOST_TOKENS, (1 << 31) - 1
"""Ids of a row, and of a vocabulary."""


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard."""

    path: str
    """Relative to the dataset directory, as in ``train/00000-w0128.arrow``."""
    rows: Positive
    width: Annotated[int, Between(1, MOST_WIDTH)]
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

    labels: Annotated[list[str], Between(2)]
    """Name of each class, two at least; a row's ``label`` is an index into it, or ``NO_LABEL`` in the split
    ``unlabelled``.
    """
    splits: dict[str, list[ShardInfo]]
    id_dtype: str
    block_rows: Positive
    vocabulary_size: Annotated[int, Between(3, MOST_WORDS)]
    vocabulary_hash: Sha256
    text: Annotated[dict[str, Any], Like(facts.Text)]
    """The resolved text pipeline, as ``TextPipeline.to_json`` writes it."""
    text_hash: Sha256
    """Hash over text pipeline and vocabulary (law 1): checkpoints and bundles carry the same."""
    statistics: Annotated[dict[str, Any], Like(facts.Statistics)] = field(default_factory=dict)
    provenance: Annotated[dict[str, Any], Like(facts.Provenance)] = field(default_factory=dict)
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
