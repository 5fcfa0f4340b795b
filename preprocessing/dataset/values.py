# SPDX-License-Identifier: Apache-2.0
"""Whether the numbers in a record batch lead outside what they are indices of."""

from __future__ import annotations

import numpy as np

from preprocessing.base.split_names import NO_LABEL, UNLABELLED
from preprocessing.dataset.manifest import Manifest, ShardInfo


def labels_of(info: ShardInfo, manifest: Manifest, split: str) -> tuple[int, int] | None:
    """The lowest and the highest label that a row of a shard may have; None where labels are forgotten."""
    if not info.labels:  # as a pretraining sees its rows
        return None
    return (NO_LABEL, NO_LABEL) if split == UNLABELLED else (0, len(manifest.labels) - 1)


def outside(
    ids: np.ndarray, length: np.ndarray, label: np.ndarray, vocabulary_size: int, labels: tuple[int, int] | None
) -> str | None:
    """What a record batch ``ids`` ``[rows, width]`` holds that no row may have, in words; None if there is none of it.

    Reads all of it.
    """
    width = ids.shape[1]
    if length.min() < 1 or length.max() > width:
        return f"a length outside 1..{width}"
    if labels is not None and (label.min() < labels[0] or label.max() > labels[1]):
        return f"a label outside {labels[0]}..{labels[1]}"
    if ids.max() >= vocabulary_size or (ids.dtype.kind == "i" and ids.min() < 0):
        return f"an id beyond the vocabulary of {vocabulary_size}"
    return None
