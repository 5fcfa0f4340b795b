# SPDX-License-Identifier: Apache-2.0
"""The fold of each row: groups stay whole, labels are spread evenly.

Large groups are placed first, each into the fold whose counts of each label and of all rows come nearest to equal (as
scikit-learn's ``StratifiedGroupKFold`` does); single rows then fill what is missing. All arithmetic is on whole numbers
and equals are ordered by a hash, so the result depends on the set of rows and the seed alone.
"""

from __future__ import annotations

import numpy as np

from preprocessing.job.grouping import MOVABLE, Groups
from preprocessing.job.hashes import keyed_hash


def assign_folds(together: np.ndarray, label: np.ndarray, row: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """int16 ``[rows]``: the fold of each row; rows that are equal in ``together`` have the same.

    ``label`` and ``row`` (the number in the source) are ``[rows]``. The result is a function of the set of rows and
    the seed, not of the order of the rows.
    """
    groups = Groups.of(together, row)
    priority = keyed_hash(seed, "fold", groups.first(together))
    by_size = np.lexsort((priority, -groups.sizes))
    large = by_size[: min(MOVABLE, int((groups.sizes > 1).sum()))]
    rest = np.setdiff1d(by_size, large)
    counts = np.zeros((folds, int(label.max()) + 2), np.int64)  # the last column counts all rows
    chosen = np.zeros(len(groups), np.int16)
    for (
        group
    ) in large:  # where it adds least to the sum of squares of the counts, which is smallest when they are equal
        start = groups.starts[group]
        own = np.bincount(label[groups.order[start : start + groups.sizes[group]]], minlength=counts.shape[1])
        own[-1] = groups.sizes[group]
        fold = int(np.argmin((own * (2 * counts + own)).sum(axis=1)))
        counts[fold] += own
        chosen[group] = fold
    stratum = groups.first(label)
    for value in np.unique(stratum[rest]):
        members = rest[stratum[rest] == value]
        members = members[np.argsort(priority[members], kind="stable")]
        shares = filled(counts[:, value], int(groups.sizes[members].sum()), counts[:, -1])
        if (groups.sizes[members] == 1).all():
            chosen[members] = np.repeat(np.arange(folds), shares)
        else:  # beyond those that were placed one by one: groups of a few rows, by where their rows would lie
            before = np.cumsum(groups.sizes[members]) - groups.sizes[members]
            chosen[members] = np.minimum(np.searchsorted(np.cumsum(shares), before, side="right"), folds - 1)
        got = np.bincount(chosen[members], weights=groups.sizes[members], minlength=folds).astype(np.int64)
        counts[:, value] += got
        counts[:, -1] += got
    return groups.to_rows(chosen)


def filled(there: np.ndarray, more: int, total: np.ndarray) -> np.ndarray:
    """int64 ``[folds]``: how ``more`` single rows are dealt so that folds that hold ``there`` become equal.

    What is left of an even share goes to the folds with the fewest rows in ``total``.
    """
    low, high = int(there.min()), int(there.max()) + more
    while low < high:  # the highest level to which all can be filled
        level = (low + high + 1) // 2
        low, high = (level, high) if np.maximum(level - there, 0).sum() <= more else (low, level - 1)
    shares = np.maximum(low - there, 0)
    open_folds = np.flatnonzero(there <= low)
    order = open_folds[np.argsort((total + shares)[open_folds], kind="stable")]
    shares[order[: more - int(shares.sum())]] += 1
    return shares
