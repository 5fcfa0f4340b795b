# SPDX-License-Identifier: Apache-2.0
"""What ``statistics.folds`` of a manifest says, in words, and whether its shards keep to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from preprocessing.base.split_names import TRAIN, VALIDATION
from preprocessing.dataset.shards import Manifest


def in_words(found: dict[str, Any]) -> str:
    """A line for people on ``statistics.folds`` of a manifest."""
    rows = found["rows"]
    between = f"{min(rows):,} to {max(rows):,}" if min(rows) < max(rows) else f"{rows[0]:,}"
    return f"{len(rows)} folds of {between} rows of training and validation, groups and equal texts whole"


def problems(manifest: Manifest) -> Iterator[str]:
    """One sentence per shard that has a fold and should not, or has none and should; and for folds without a row."""
    if not manifest.folds:
        return
    rows = [0] * manifest.folds
    for split, shards in manifest.splits.items():
        for info in shards:
            if (info.fold is not None) != (split in (TRAIN, VALIDATION)):
                yield f"{info.path}: the manifest gives it fold {info.fold}, as {split} must not have"
            elif info.fold is not None:
                rows[info.fold] += info.rows
    counted = manifest.statistics.get("folds", {}).get("rows", rows)
    if rows != counted or 0 in rows:
        yield f"the folds hold {rows} rows, the manifest's statistics say {counted}"
