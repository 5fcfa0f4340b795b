# SPDX-License-Identifier: Apache-2.0
"""What is known of every row of the corpus before ids exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.base.split_names import NO_LABEL
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job import parts


@dataclass(frozen=True)
class Rows:
    """Arrays of one entry per row."""

    row: np.ndarray
    label: np.ndarray
    """int32: the number of the class, or ``NO_LABEL`` in the split ``unlabelled``."""
    named: np.ndarray
    """int8: the split that the source names, or -1."""
    missing: np.ndarray
    num_tokens: np.ndarray
    text_hash: np.ndarray
    exact_hash: np.ndarray
    group: np.ndarray | None = None
    """uint64: a hash of the row's group, ``NO_GROUP`` where it has none; None without ``splits.group_column``."""

    def of(self, chosen: np.ndarray) -> Rows:
        """Some of the rows."""
        columns: dict[str, Any] = {
            name: None if values is None else values[chosen] for name, values in vars(self).items()
        }
        return Rows(**columns)


def gathered(stored: list[parts.Stored], numbers: list[np.ndarray]) -> Rows:
    """The columns of all parts, one after the other; ``numbers`` are the class numbers of each part's own."""
    names = {"row": "row", "named": "split", "missing": "missing", "text_hash": "text_hash", "exact_hash": "exact_hash"}
    columns = {name: parts.gather(stored, column) for name, column in names.items()}
    if any(part.group is not None for part in stored):  # files without labels need no groups
        none = [np.full(len(part.row), NO_GROUP, np.uint64) if part.group is None else part.group for part in stored]
        columns["group"] = np.concatenate(none)
    with_none = [np.append(own, np.int32(NO_LABEL)) for own in numbers]  # NO_LABEL, -1, is the place of the last
    columns["label"] = np.concatenate([own[part.label] for part, own in zip(stored, with_none, strict=True)])
    return Rows(**columns, num_tokens=np.concatenate([np.diff(part.offsets) for part in stored]))
