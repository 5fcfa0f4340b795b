# SPDX-License-Identifier: Apache-2.0
"""The fold of each row that is trained on or validated with: groups stay whole, labels are spread evenly.

Rows that must stay together are those of ``grouping.components``: one group, joined with others by equal texts; where
there are no groups, equal texts. Large ones are placed first, each into the fold whose counts of each label and of all
rows come nearest to equal (as scikit-learn's ``StratifiedGroupKFold`` does); single rows then fill what is missing. All
arithmetic is on whole numbers and equals are ordered by a hash, so the result depends on the set of rows and the seed
alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.grouping import MOVABLE, components
from preprocessing.job.hashes import keyed_hash
from preprocessing.job.rows import Rows
from preprocessing.job.splits import Groups

NO_FOLD = -1
"""The fold of a row that has none: of the test split, without a label, or left out."""


def decide_folds(
    rows: Rows, decision: np.ndarray, folds: int, seed: int, names: list[str], column: str | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """int16 per row: its fold, ``NO_FOLD`` where it is neither in training nor in validation; and what is to be said.

    ``decision`` is each row's split, ``names`` are the classes, ``column`` the one that groups rows. Raises
    ``DataError`` where there are fewer groups than folds, or a fold that cannot be validated on or trained without.
    """
    pool = np.flatnonzero((decision == TRAIN_NUMBER) | (decision == VALIDATION_NUMBER))
    label, text = rows.label[pool], rows.text_hash[pool]
    group = np.full(len(pool), NO_GROUP, np.uint64) if rows.group is None else rows.group[pool]
    together = components(group, text, rows.row[pool], rows.num_tokens[pool] > 0)
    found = len(np.unique(together))
    what = f"groups of {column!r}" if column is not None and rows.group is not None else "different texts"
    if found < folds:
        raise DataError(f"splits.folds: {folds} folds, but only {found} {what} outside of test; ask for fewer folds")
    fold = assign_folds(together, label, rows.row[pool], folds=folds, seed=seed)
    counts = np.stack([np.bincount(label[fold == number], minlength=len(names)) for number in range(folds)])
    check_folds(counts, names, what)
    result = np.full(len(decision), NO_FOLD, np.int16)
    result[pool] = fold
    return result, {"rows": counts.sum(axis=1).tolist(), "labels": counts.tolist(), "kept_together": found}


def check_folds(counts: np.ndarray, names: list[str], what: str) -> None:
    """Refuse folds that cannot be used: ``counts`` is int64 ``[folds, labels]``. Raises ``DataError``."""
    without = counts.sum(axis=0)[None, :] - counts
    for fold, (inside, outside) in enumerate(zip(counts, without, strict=True)):
        for label in np.flatnonzero((outside == 0) & (inside > 0))[:1]:
            raise DataError(
                f"splits.folds: all {inside[label]:,} rows of the label {names[label]!r} fall into fold {fold}, so a "
                f"training without it would never see that label; it needs at least two {what}"
            )
        if (inside > 0).sum() < 2:
            raise DataError(
                f"splits.folds: fold {fold} has {inside.sum():,} rows of {(inside > 0).sum()} label, and nothing can "
                "be measured on it; ask for fewer folds"
            )


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
    counts = np.zeros((folds, int(label.max()) + 2), np.int64)
    chosen = np.zeros(len(groups), np.int16)
    place_large(groups, label, large, counts, chosen)
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


def place_large(groups: Groups, label: np.ndarray, large: np.ndarray, counts: np.ndarray, chosen: np.ndarray) -> None:
    """Place groups one by one, the largest first; ``counts`` ``[folds, labels + 1]`` and ``chosen`` are filled in.

    Each goes to the fold where it adds least to the sum of squares of the counts, which is smallest when they are
    equal; the last column counts all rows.
    """
    for group in large:
        start = groups.starts[group]
        own = np.bincount(label[groups.order[start : start + groups.sizes[group]]], minlength=counts.shape[1])
        own[-1] = groups.sizes[group]
        fold = int(np.argmin((own * (2 * counts + own)).sum(axis=1)))
        counts[fold] += own
        chosen[group] = fold


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
