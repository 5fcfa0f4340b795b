# SPDX-License-Identifier: Apache-2.0
"""Whether the numbers in a record batch lead outside what they are indices of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocessing.base.split_names import NO_LABEL, UNLABELLED

if TYPE_CHECKING:
    from preprocessing.dataset.shards import Block, Manifest, ShardInfo


def labels_of(info: ShardInfo, manifest: Manifest, split: str) -> tuple[int, int] | None:
    """The lowest and the highest label that a row of a shard may have; None where labels are forgotten."""
    if not info.labels:  # as a pretraining sees its rows
        return None
    return (NO_LABEL, NO_LABEL) if split == UNLABELLED else (0, len(manifest.labels) - 1)


def outside(block: Block, vocabulary_size: int, labels: tuple[int, int] | None) -> str | None:
    """What a record batch holds that no row may have, in words; None if there is no such thing. Reads all of it."""
    width = block.ids.shape[1]
    if block.length.min() < 1 or block.length.max() > width:
        return f"a length outside 1..{width}"
    if labels is not None and (block.label.min() < labels[0] or block.label.max() > labels[1]):
        return f"a label outside {labels[0]}..{labels[1]}"
    if block.ids.max() >= vocabulary_size or (block.ids.dtype.kind == "i" and block.ids.min() < 0):
        return f"an id beyond the vocabulary of {vocabulary_size}"
    return None
