# SPDX-License-Identifier: Apache-2.0
"""Divides rows into splits and folds; equal texts, or rows of one group, stay together.

``assign`` divides single texts label by label and meets each share exactly. Groups are never divided, so their shares
are approximate: ``packed`` takes large groups first, each into the split or fold where the row counts, per label and in
total, come nearest to those wanted (as in scikit-learn's ``StratifiedGroupKFold``); single rows then fill the gaps.

Rows come in the order of their numbers; a group takes the label of its first row. Arithmetic is on integers and groups
are ordered by hash, so the result depends only on the set of rows and the seed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from preprocessing.base.split_names import SPLITS, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.corpus.convert import NO_GROUP
from preprocessing.job.parts import keyed_hash

if TYPE_CHECKING:
    import pandas as pd

FEWEST_TO_CUT = 3
"""A label with at least this many rows has at least one in validation and in test."""


def assign(key: np.ndarray, label: np.ndarray, share: np.ndarray, *, seed: int) -> np.ndarray:
    """int8 ``[rows]``: 0 train, 1 validation, 2 test.

    Rows with equal ``key`` go to one split. ``share``, as from ``wanted`` or ``apportioned``, is met exactly if enough
    keys occur only once.
    """
    hashes, first, group, sizes = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(hashes), np.int8)
    for members in by_label(label[first], keyed_hash(seed, "split", hashes)):
        chosen[members] = fill(sizes[members], share[:, label[first[members[0]]]])
    return chosen[group]


def by_label(label: np.ndarray, priority: np.ndarray) -> Iterator[np.ndarray]:
    """The indices of each label, in order of priority."""
    order = np.lexsort((priority, label))
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def fill(sizes: np.ndarray, share: np.ndarray) -> np.ndarray:
    """int8 per group of one label, in order of priority: test and validation are filled to their ``share`` of the rows.

    Groups are taken in order while they fit, those larger than a share last; groups of one row fill the rest.
    """
    fill_to = {split: int(share[split]) for split in (TEST_NUMBER, VALIDATION_NUMBER)}
    order = np.argsort(sizes > min(filter(None, fill_to.values()), default=0), kind="stable")
    ends = np.cumsum(sizes[order])
    chosen, before = np.zeros(len(sizes), np.int8), 0
    for split, rows in fill_to.items():
        chosen[order[(ends - sizes[order] >= before) & (ends <= before + rows)]] = split
        before += rows
    for split, rows in fill_to.items():
        missing = rows - int(sizes[chosen == split].sum())
        single = order[(sizes[order] == 1) & (chosen[order] == TRAIN_NUMBER)]
        chosen[single[: max(missing, 0)]] = split
    return chosen


def components(rows: pd.DataFrame) -> np.ndarray:
    """uint64 ``[rows]``: equal for rows that must stay together, the smallest hash among their groups.

    Equal texts in two groups join the two; empty texts join nothing. Rows without a group form one group per text.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group, text_hash, num_tokens = (rows[name].to_numpy() for name in ("group", "text_hash", "num_tokens"))
    has_text = num_tokens > 0
    hashes, node = np.unique(np.where(group == NO_GROUP, text_hash, group), return_inverse=True)
    texts, text = np.unique(text_hash[has_text], return_inverse=True)
    number = len(hashes) + len(texts)
    links = coo_array((np.ones(len(text), bool), (node[has_text], len(hashes) + text)), shape=(number, number))
    _, component = connected_components(links, directed=False)
    _, smallest, own = np.unique(component[: len(hashes)], return_index=True, return_inverse=True)
    return hashes[smallest[own]][node]


def label_counts(group: np.ndarray, label: np.ndarray) -> Any:
    """Sparse int64 ``[groups, labels + 1]``: the rows of each label in each group, and in the last column all of them.

    ``group`` is the number of each row's group.
    """
    from scipy.sparse import coo_array

    column = np.concatenate([label, np.full(len(label), label.max() + 1)])
    return coo_array((np.ones(len(column), np.int64), (np.tile(group, 2), column))).tocsr()


def assign_groups(component: np.ndarray, label: np.ndarray, *, seed: int, validation: float, test: float) -> np.ndarray:
    """int8 ``[rows]``: 0 train, 1 validation, 2 test; rows of one ``component`` go to one split.

    ``validation`` and ``test`` are fractions of the rows of each label, met approximately. A group that holds all rows
    of a label stays in training.
    """
    hashes, first, group = np.unique(component, return_index=True, return_inverse=True)
    counts = label_counts(group, label)
    labels = counts[:, :-1]
    bound = labels @ ((labels > 0).sum(axis=0) == 1) > 0
    splits = np.flatnonzero([1, validation, test])
    above = -wanted(labels.sum(axis=0), validation, test)[splits]
    above[TRAIN_NUMBER] += counts[bound].sum(axis=0)
    free, chosen = np.flatnonzero(~bound), np.full(len(hashes), TRAIN_NUMBER, np.int8)
    chosen[free] = splits[packed(counts[free], label[first[free]], keyed_hash(seed, "split", hashes[free]), above)]
    return chosen[group]


def wanted(totals: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[splits, labels + 1]``: the target rows of each split, per label and in total."""
    cut = np.zeros((len(SPLITS), len(totals) + 1), np.int64)
    for number, fraction in ((VALIDATION_NUMBER, validation), (TEST_NUMBER, test)):
        if fraction:  # of each label at least one row, where that leaves others for training
            cut[number, :-1] = np.maximum((totals * fraction + 0.5).astype(np.int64), totals >= FEWEST_TO_CUT)
    cut[TRAIN_NUMBER, :-1] = totals - cut[:, :-1].sum(axis=0)
    cut[:, -1] = cut.sum(axis=1)
    return cut


def apportioned(counts: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[ranges, splits, labels]``: the rows that validation and test get of a range's, together those wanted.

    ``counts`` is int64 ``[ranges, 2, labels]``: rows, and those whose text occurs once, which can fill any share.
    """
    goal = wanted(counts[:, 0].sum(axis=0), validation, test)[:, :-1]
    ends = np.where(counts[:, 1].any(axis=0), counts[:, 1], counts[:, 0]).cumsum(axis=0)
    both = goal[VALIDATION_NUMBER] + goal[TEST_NUMBER]
    taken = ends * both // np.maximum(ends[-1], 1)
    of_test = taken * goal[TEST_NUMBER] // np.maximum(both, 1)
    return np.diff(np.stack([0 * ends, taken - of_test, of_test], axis=1), axis=0, prepend=0)


def assign_folds(together: np.ndarray, label: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """int16 ``[rows]``: the fold of each row; rows that are equal in ``together`` have the same."""
    hashes, first, group = np.unique(together, return_index=True, return_inverse=True)
    counts = label_counts(group, label)
    above = np.zeros((folds, counts.shape[1]), np.int64)
    return packed(counts, label[first], keyed_hash(seed, "fold", hashes), above)[group].astype(np.int16)


def packed(counts: Any, label: np.ndarray, priority: np.ndarray, above: np.ndarray) -> np.ndarray:
    """int64 ``[groups]``: the bin of each group, so that all bins have about as many rows more than they should.

    ``counts`` are ``label_counts``, ``label`` is each group's own. ``above``, int64 ``[bins, labels + 1]``, is the rows
    of each bin above those that it should have, and is changed.
    """
    sizes = counts[:, [-1]].toarray()[:, 0]
    chosen = np.zeros(len(sizes), np.int64)
    # into the bin where it adds least to the sum of squares, which is smallest when all are equal
    for one in np.lexsort((priority, -sizes))[: (sizes > 1).sum()]:
        there = slice(counts.indptr[one], counts.indptr[one + 1])
        columns, own = counts.indices[there], counts.data[there]
        chosen[one] = np.argmin((own * (2 * above[:, columns] + own)).sum(axis=1))
        above[chosen[one], columns] += own
    single = np.flatnonzero(sizes == 1)
    for places in by_label(label[single], priority[single]):
        members = single[places]
        value = label[members[0]]
        shares = filled(above[:, value], len(members), above[:, -1])
        chosen[members] = np.repeat(np.arange(len(above)), shares)
        above[:, value] += shares
        above[:, -1] += shares
    return chosen


def filled(there: np.ndarray, more: int, total: np.ndarray) -> np.ndarray:
    """int64 ``[bins]``: how many of ``more`` rows each bin gets so that the counts ``there`` become equal.

    The remainder goes to the bins with the fewest rows in ``total``.
    """
    levels = range(int(there.min()), int(there.max()) + more + 1)
    level = levels[bisect_right(levels, more, key=lambda height: np.maximum(height - there, 0).sum()) - 1]
    shares = np.maximum(level - there, 0)
    open_bins = np.flatnonzero(there <= level)
    order = open_bins[np.argsort((total + shares)[open_bins], kind="stable")]
    shares[order[: more - int(shares.sum())]] += 1
    return shares
