# SPDX-License-Identifier: Apache-2.0
"""What is known of every row of the corpus before ids exist, and the classes of the whole corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.base.split_names import NO_LABEL
from preprocessing.config import SourceConfig
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.parts import Summary
from preprocessing.labels import LabelType, common_type, in_order


@dataclass(frozen=True)
class Classes:
    """The classes of a corpus."""

    names: list[str]
    """In the order of their numbers."""
    numbers: list[np.ndarray]
    """For each part int32 ``[its classes]``: what its class numbers are here."""
    type: LabelType
    """Of the column that they were found in."""
    found: dict[str, int] | None
    """``auto``: each value that was found, and the number of its class; None where the classes are given."""

    @classmethod
    def of(cls, source: SourceConfig, summaries: Sequence[Summary]) -> Classes:
        """Put what was found in all parts into one order."""
        given = source.label_map()
        if given is not None:
            return cls(given.names, [np.arange(len(given.names), dtype=np.int32)] * len(summaries), "text", None)
        known = list(dict.fromkeys(name for summary in summaries for name in summary.known))
        names, found = in_order({name for summary in summaries for name in summary.classes}, known)
        own = [np.array([found[name] for name in summary.classes], np.int32) for summary in summaries]
        return cls(names, own, common_type((summary.label_type for summary in summaries), names), found)


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

    @classmethod
    def of(cls, stored: Sequence[dict[str, np.ndarray]], classes: Classes) -> Rows:
        """The columns of all parts, one after the other."""
        none = np.int32(NO_LABEL)  # -1, the place of the last
        parts = [
            {
                "group": np.full(len(part["row"]), NO_GROUP, np.uint64),
                **part,
                "label": np.append(own, none)[part["label"]],
            }
            for part, own in zip(stored, classes.numbers, strict=True)
        ]
        names = {name: name for name in ("row", "label", "missing", "text_hash", "exact_hash")} | {"named": "split"}
        if any("group" in part for part in stored):  # files without labels need no groups
            names["group"] = "group"
        columns = {name: np.concatenate([part[of] for part in parts]) for name, of in names.items()}
        return cls(**columns, num_tokens=np.concatenate([np.diff(part["offsets"]) for part in parts]))

    def chosen(self, rows: np.ndarray) -> Rows:
        """Some of the rows."""
        columns: dict[str, Any] = {
            name: None if values is None else values[rows] for name, values in vars(self).items()
        }
        return Rows(**columns)
