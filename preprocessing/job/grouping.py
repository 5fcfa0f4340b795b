# SPDX-License-Identifier: Apache-2.0
"""How rows are divided into splits, and into folds: equal texts, or rows of one group, are never parted.

``assign`` divides single texts, label by label, so that shares are met to the row. Groups are packed whole, so their
shares are met only as far as sizes allow: ``assign_groups`` begins with the same packing; then groups move between
splits, one at a time or one for another, while that brings the counts of each label, and of all rows, nearer to their
shares. For folds, large groups are placed first, each into the fold whose counts of each label and of all rows come
nearest to equal (as scikit-learn's ``StratifiedGroupKFold`` does); single rows then fill what is missing.

All arithmetic is on whole numbers and groups are ordered by their hash, so the result depends on the set of rows and
the seed alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.base.split_names import SPLITS, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.hashes import keyed_hash

FEWEST_TO_CUT = 3
"""Rows of a label from which on validation and test get at least one of them."""
MOVABLE = 16384
"""Groups that may move after the first packing: enough to correct its rounding, and a bound of time for millions."""
MAX_STEPS = 2000
"""Moves after which a packing is taken as it is."""
CANDIDATES = 48
"""Groups of each split that are tried against each other for an exchange."""
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Groups:
    """Rows with equal keys, gathered. ``order`` puts rows of a group side by side, the lowest row number first."""

    order: np.ndarray
    """int64 ``[rows]``."""
    starts: np.ndarray
    """int64 ``[groups]`` into ``order``."""
    sizes: np.ndarray
    """int64 ``[groups]``."""

    @classmethod
    def of(cls, key: np.ndarray, row: np.ndarray) -> Groups:
        """Group rows by a hash; groups are in the order of their hashes."""
        order = np.argsort(key)
        ordered = key[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(order) else order
        sizes = np.diff(np.append(starts, len(order)))
        repeated = np.repeat(sizes > 1, sizes)  # few: a sort by two keys would take thrice as long for all
        members = order[repeated]
        order[repeated] = members[np.lexsort((row[members], key[members]))]
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

    def reduced(self, reduce: np.ufunc, values: np.ndarray) -> np.ndarray:
        """``np.minimum`` or another reduction over the values in each group."""
        return reduce.reduceat(values[self.order], self.starts) if len(self) else values[:0]

    def differ(self, values: np.ndarray) -> np.ndarray:
        """bool ``[groups]``: whether the values in a group are not all the same."""
        return self.reduced(np.minimum, values) != self.reduced(np.maximum, values)

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
    ordered, chosen = sizes[order], np.zeros(len(sizes), np.int8)
    ends = np.cumsum(ordered)
    before = 0
    for split, rows in wanted:
        chosen[(ends - ordered >= before) & (ends <= before + rows)] = split
        before += rows
    for split, rows in wanted:
        missing = rows - int(ordered[chosen == split].sum())
        single = np.flatnonzero((ordered == 1) & (chosen == TRAIN_NUMBER))
        chosen[single[: max(missing, 0)]] = split
    result = np.empty_like(chosen)
    result[order] = chosen
    return result


def share_of(total: int, fraction: float) -> int:
    """A fraction of a label's rows, at least one where that leaves others for training."""
    if fraction == 0:
        return 0
    return max(int(total * fraction + 0.5), 1 if total >= FEWEST_TO_CUT else 0)


def components(group: np.ndarray, text_hash: np.ndarray, has_text: np.ndarray) -> np.ndarray:
    """uint64 ``[rows]``: equal for rows that must stay together, the smallest hash among their groups.

    Equal texts in two groups join the two; empty texts (``has_text`` false) join nothing. A row without a group is a
    group with the rows of the same tokens.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hashes, node = np.unique(np.where(group == NO_GROUP, text_hash, group), return_inverse=True)
    texts, text = np.unique(text_hash[has_text], return_inverse=True)
    number = len(hashes) + len(texts)
    links = coo_array((np.ones(len(text), bool), (node[has_text], len(hashes) + text)), shape=(number, number))
    _, component = connected_components(links, directed=False)
    _, smallest, own = np.unique(component[: len(hashes)], return_index=True, return_inverse=True)
    return hashes[smallest[own]][node]


def assign_groups(
    component: np.ndarray, label: np.ndarray, row: np.ndarray, *, seed: int, validation: float, test: float
) -> np.ndarray:
    """int8 ``[rows]``: 0 train, 1 validation, 2 test; rows of one ``component`` go to one split.

    ``validation`` and ``test`` are fractions of the rows of each label, met as nearly as the packing finds. A group
    that holds all rows of a label stays in training. A split is left empty where every group would miss its share by
    more.
    """
    shares = {"validation": validation, "test": test}
    first = assign(component, label, row, seed=seed, **shares)
    groups = Groups.of(component, row)
    packing = Packing(groups, label, groups.first(first), validation, test)
    for _ in range(MAX_STEPS):
        if not (packing.move() or packing.exchange()):
            break
    return groups.to_rows(packing.split)


def wanted(totals: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[splits, labels + 1]``: the rows that each split should have of each label, and of all."""
    cut = np.zeros((len(SPLITS), len(totals)), np.int64)
    cut[VALIDATION_NUMBER] = [share_of(int(total), validation) for total in totals]
    cut[TEST_NUMBER] = [share_of(int(total), test) for total in totals]
    cut[TRAIN_NUMBER] = totals - cut.sum(axis=0)
    return with_sum(cut)


def with_sum(counts: np.ndarray) -> np.ndarray:
    """``[splits, labels]`` with one more column, the sum over labels."""
    return np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)


class Packing:
    """Which split each group is in, and how far the splits are from their shares: the sum of squares is made small.

    Of millions of groups only the first may move; their hashes order them, so these are any.
    """

    def __init__(self, groups: Groups, label: np.ndarray, split: np.ndarray, validation: float, test: float) -> None:
        """``split`` is int8 ``[groups]``, ``label`` ``[rows]``. A group with all rows of a label goes to training."""
        from scipy.sparse import coo_array

        number, labels = len(groups), int(label.max()) + 1
        member = np.concatenate([np.repeat(np.arange(number), groups.sizes), np.arange(number)])
        column = np.concatenate([label[groups.order], np.full(number, labels)])
        rows = np.concatenate([np.ones(len(label), np.int64), groups.sizes])
        counts: Any = coo_array((rows, (member, column)), shape=(number, labels + 1)).tocsr()
        of_one_group = np.bincount(counts.indices, minlength=labels + 1)[:labels] == 1
        bound = counts[:, :labels] @ of_one_group.astype(np.int64) > 0
        self.split = np.where(bound, TRAIN_NUMBER, split).astype(np.int8)
        self.off = -wanted(np.bincount(label, minlength=labels), validation, test)
        """int64 ``[splits, labels + 1]``: rows above each share."""
        for place in range(len(SPLITS)):
            self.off[place] += counts[self.split == place].sum(axis=0)
        self.counts, self.bound = counts[:MOVABLE], bound[:MOVABLE]
        """Sparse int64 ``[movable, labels + 1]``: rows of each label, and of all."""
        self.squares = self.counts.multiply(self.counts).sum(axis=1)
        shares = {TRAIN_NUMBER: 1.0, VALIDATION_NUMBER: validation, TEST_NUMBER: test}
        self.active = tuple(place for place, share in shares.items() if share)

    def gain(self, source: int, target: int) -> np.ndarray:
        """int64 ``[movable]``: half of what moving each group would add to the sum of squares of ``off``."""
        change = self.squares + self.counts @ (self.off[target] - self.off[source])
        return np.where((self.split[:MOVABLE] == source) & ~self.bound, change, NEVER)

    def move(self) -> bool:
        """Move the group that helps most; False if none does."""
        best = (0, 0, 0)
        for source, target in itertools.permutations(self.active, 2):
            gain = self.gain(source, target)
            group = int(np.argmin(gain))
            best = min(best, (int(gain[group]), group, target))
        if best[0] < 0:
            self.put(*best[1:])
        return best[0] < 0

    def exchange(self) -> bool:
        """Let two groups of different splits change places, the pair that helps most of those tried; False if none."""
        best = (0, 0, 0, 0, 0)
        for source, target in itertools.combinations(self.active, 2):
            ours, theirs = self.candidates(source, target), self.candidates(target, source)
            if not len(ours) or not len(theirs):
                continue
            change = self.counts[theirs].toarray()[None, :, :] - self.counts[ours].toarray()[:, None, :]
            gain = (change * (change + self.off[source] - self.off[target])).sum(axis=2)
            one, other = divmod(int(np.argmin(gain)), gain.shape[1])
            best = min(best, (int(gain[one, other]), int(ours[one]), int(theirs[other]), source, target))
        if best[0] < 0:
            _, one, other, source, target = best
            self.put(one, target)
            self.put(other, source)
        return best[0] < 0

    def candidates(self, source: int, target: int) -> np.ndarray:
        """int64: the groups of ``source`` that would do least harm in ``target``."""
        gain = self.gain(source, target)
        order = np.argsort(gain, kind="stable")[:CANDIDATES]
        return order[gain[order] < NEVER]

    def put(self, group: int, target: int) -> None:
        """Move one group."""
        counts = self.counts[[group]].toarray()[0]
        self.off[self.split[group]] -= counts
        self.off[target] += counts
        self.split[group] = target


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
