# SPDX-License-Identifier: Apache-2.0
"""What is known of every row of the corpus before ids exist."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.job import parts


@dataclass(frozen=True)
class Rows:
    """Arrays of one entry per row."""

    row: np.ndarray
    label: np.ndarray
    named: np.ndarray
    """int8: the split that the source names, or -1."""
    missing: np.ndarray
    num_tokens: np.ndarray
    text_hash: np.ndarray
    exact_hash: np.ndarray
    group: np.ndarray | None = None
    """uint64: a hash of the row's group, ``NO_GROUP`` where it has none; None without ``splits.group_column``."""


def gathered(stored: list[parts.Stored], numbers: list[np.ndarray]) -> Rows:
    """The columns of all parts, one after the other; ``numbers`` are the class numbers of each part's own."""
    names = {"row": "row", "named": "split", "missing": "missing", "text_hash": "text_hash", "exact_hash": "exact_hash"}
    names |= {"group": "group"} if stored[0].group is not None else {}
    columns = {name: parts.gather(stored, column) for name, column in names.items()}
    columns["label"] = np.concatenate([own[part.label] for part, own in zip(stored, numbers, strict=True)])
    return Rows(**columns, num_tokens=np.concatenate([np.diff(part.offsets) for part in stored]))
