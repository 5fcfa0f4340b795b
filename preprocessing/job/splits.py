# SPDX-License-Identifier: Apache-2.0
"""Which split each row belongs to: what the source names, else by seed, stratified by label, equal texts together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.base.split_names import TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.job.hashes import keyed_hash

FEWEST_TO_CUT = 3
"""Rows of a label from which on validation and test get at least one of them."""


@dataclass(frozen=True)
class Groups:
    """Rows with the same tokens, gathered. ``order`` puts rows of a group side by side, the lowest row number first."""

    order: np.ndarray
    """int64 ``[rows]``."""
    starts: np.ndarray
    """int64 ``[groups]`` into ``order``."""
    sizes: np.ndarray
    """int64 ``[groups]``."""

    @classmethod
    def of(cls, text_hash: np.ndarray, row: np.ndarray) -> Groups:
        """Group rows by the hash of their tokens."""
        order = np.argsort(text_hash)
        ordered = text_hash[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else order
        sizes = np.diff(np.append(starts, len(order)))
        repeated = np.repeat(sizes > 1, sizes)  # few: a sort by two keys would take thrice as long for all
        members = order[repeated]
        order[repeated] = members[np.lexsort((row[members], text_hash[members]))]
        return cls(order, starts, sizes)

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.starts)

    def first(self, values: np.ndarray) -> np.ndarray:
        """Each group's value at its lowest row number."""
        return values[self.order[self.starts]]

    def to_rows(self, values: np.ndarray) -> np.ndarray:
        """A value per group as a value per row."""
        result = np.empty(len(self.order), values.dtype)
        result[self.order] = np.repeat(values, self.sizes)
        return result

    def minimum(self, values: np.ndarray) -> np.ndarray:
        """The smallest value in each group."""
        return np.minimum.reduceat(values[self.order], self.starts) if len(self) else values[:0]

    def maximum(self, values: np.ndarray) -> np.ndarray:
        """The largest value in each group."""
        return np.maximum.reduceat(values[self.order], self.starts) if len(self) else values[:0]

    def repeats(self) -> np.ndarray:
        """bool ``[rows]``: whether a row has an equal one with a lower number."""
        later = np.ones(len(self.order), bool)
        later[self.starts] = False
        result = np.empty(len(self.order), bool)
        result[self.order] = later
        return result


def assign(
    text_hash: np.ndarray, label: np.ndarray, row: np.ndarray, *, seed: int, validation: float, test: float
) -> np.ndarray:
    """int8 ``[rows]``: 0 train, 1 validation, 2 test.

    Texts with equal ``text_hash`` go to one split. ``validation`` and ``test`` are fractions of the rows of each label;
    they are met to the row if enough texts occur only once. The result is a function of the set of rows and the seed,
    not of the order of the rows.
    """
    groups = Groups.of(text_hash, row)
    stratum = groups.first(label)
    priority = keyed_hash(seed, "split", groups.first(text_hash))
    chosen = np.zeros(len(groups), np.int8)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        members = members[np.argsort(priority[members], kind="stable")]
        chosen[members] = fill(groups.sizes[members], validation, test)
    return groups.to_rows(chosen)


def fill(sizes: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int8 per group of one label, in order of priority: test and validation are filled to their share of the rows.

    Groups are taken from the front while they fit, those larger than a share last; what is then missing is made up of
    groups of one row.
    """
    total = int(sizes.sum())
    wanted = [(TEST_NUMBER, share_of(total, test)), (VALIDATION_NUMBER, share_of(total, validation))]
    large = sizes > min((rows for _, rows in wanted if rows), default=total)
    order = np.argsort(large, kind="stable")
    result = np.zeros(len(sizes), np.int8)
    result[order] = fill_in_order(sizes[order], wanted)
    return result


def fill_in_order(sizes: np.ndarray, wanted: list[tuple[int, int]]) -> np.ndarray:
    """int8 per group: the first to fit into each wanted split, then single rows for what is missing."""
    result = np.zeros(len(sizes), np.int8)
    ends = np.cumsum(sizes)
    before = 0
    for split, rows in wanted:
        within = (ends - sizes >= before) & (ends <= before + rows)
        result[within] = split
        before += rows
    for split, rows in wanted:
        missing = rows - int(sizes[result == split].sum())
        single = np.flatnonzero((sizes == 1) & (result == TRAIN_NUMBER))
        result[single[: max(missing, 0)]] = split
    return result


def share_of(total: int, fraction: float) -> int:
    """A fraction of a label's rows, at least one where that leaves others for training."""
    if fraction == 0:
        return 0
    return max(int(total * fraction + 0.5), 1 if total >= FEWEST_TO_CUT else 0)
