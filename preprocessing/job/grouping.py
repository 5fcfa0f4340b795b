# SPDX-License-Identifier: Apache-2.0
"""Rows of one group stay in one split: groups that equal texts join are one, and shares are met as far as sizes allow.

Groups are packed whole, so a share is met to the row only by luck. The first packing is that of single texts
(``splits.assign``); then groups move between splits, one at a time or one for another, while that brings the counts of
each label, and of all rows, nearer to their shares. All arithmetic is on whole numbers and groups are ordered by their
hash, so the result depends on the set of rows and the seed alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from preprocessing.base.split_names import SPLITS, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.splits import Groups, assign, share_of

MOVABLE = 16384
"""Groups that may move after the first packing: enough to mend its rounding, and a bound of time for millions."""
MAX_STEPS = 2000
"""Moves after which a packing is taken as it is."""
CANDIDATES = 48
"""Groups of each split that are tried against each other for an exchange."""


def components(group: np.ndarray, text_hash: np.ndarray, row: np.ndarray, has_text: np.ndarray) -> np.ndarray:
    """uint64 ``[rows]``: equal for rows that must stay together, the smallest hash among their groups.

    Equal texts in two groups join the two; empty texts (``has_text`` false) join nothing. A row without a group is a
    group with the rows of the same tokens.
    """
    hashes, node = np.unique(np.where(group == NO_GROUP, text_hash, group), return_inverse=True)
    full = np.flatnonzero(has_text)
    texts = Groups.of(text_hash[full], row[full])
    ordered, places = node[full][texts.order], np.repeat(np.arange(len(texts)), texts.sizes)
    linked = (places[1:] == places[:-1]) & (ordered[1:] != ordered[:-1])
    links = np.unique(np.stack([ordered[:-1][linked], ordered[1:][linked]], axis=1), axis=0)
    root = np.arange(len(hashes))
    for one, other in joined(links.tolist()).items():
        root[one] = other
    return hashes[root[node]]


def joined(links: list[list[int]]) -> dict[int, int]:
    """Union-find over pairs of numbers: each number that occurs -> the smallest that it is linked to."""
    parent: dict[int, int] = {}

    def find(number: int) -> int:
        while parent.setdefault(number, number) != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in links:
        low, high = sorted((find(one), find(other)))
        parent[high] = low
    return {number: find(number) for number in parent}


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
    packing = Packing.of(groups, label, groups.first(first), validation, test)
    some = packing.some(MOVABLE)
    for _ in range(MAX_STEPS):
        if not (some.move() or some.exchange()):
            break
    packing.split[: len(some.split)] = some.split
    return groups.to_rows(packing.split)


def off_shares(split: np.ndarray, label: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[splits, labels + 1]``: rows above each label's share, and in the last column above that of all rows."""
    counts = np.stack([np.bincount(label[split == number], minlength=int(label.max()) + 1) for number in range(3)])
    return with_sum(counts) - wanted(counts.sum(axis=0), validation, test)


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


@dataclass
class Packing:
    """Which split each group is in, and how far the splits are from their shares. ``off`` is what is made small.

    The counts of a group are kept sparse: ``count[i]`` rows of label ``label[i]``, ``starts[g] <= i < starts[g + 1]``;
    the last of a group's entries counts all its rows.
    """

    split: np.ndarray
    """int8 ``[groups]``."""
    starts: np.ndarray
    label: np.ndarray
    count: np.ndarray
    off: np.ndarray
    """int64 ``[splits, labels + 1]``."""
    bound: np.ndarray
    """bool ``[groups]``: stays in training."""
    active: tuple[int, ...]
    """Splits that groups may be in."""

    @classmethod
    def of(cls, groups: Groups, label: np.ndarray, split: np.ndarray, validation: float, test: float) -> Packing:
        """Count the labels of every group."""
        labels = int(label.max()) + 1
        member = np.repeat(np.arange(len(groups)), groups.sizes)
        pair, counted = np.unique(member * (labels + 1) + label[groups.order], return_counts=True)
        pair = np.concatenate([pair, np.arange(len(groups)) * (labels + 1) + labels])
        order = np.argsort(pair, kind="stable")
        pair, count = pair[order], np.concatenate([counted, groups.sizes])[order].astype(np.int64)
        of_label, starts = pair % (labels + 1), np.searchsorted(pair, np.arange(len(groups)) * (labels + 1))
        totals = np.bincount(label, minlength=labels)
        whole = (count == np.append(totals, -1)[of_label]) & (of_label < labels)
        bound = np.logical_or.reduceat(whole, starts)
        split = np.where(bound, TRAIN_NUMBER, split).astype(np.int8)
        off = -wanted(totals, validation, test)
        np.add.at(off, (np.repeat(split, np.diff(np.append(starts, len(pair)))), of_label), count)
        shares = {TRAIN_NUMBER: 1.0, VALIDATION_NUMBER: validation, TEST_NUMBER: test}
        return cls(split, starts, of_label, count, off, bound, tuple(n for n, share in shares.items() if share))

    def some(self, number: int) -> Packing:
        """The packing of all groups, of which only the first ``number`` may move; hashes order them, so any do."""
        end = self.starts[number] if number < len(self.starts) else len(self.count)
        entries = (self.starts[:number], self.label[:end], self.count[:end])
        return Packing(self.split[:number].copy(), *entries, self.off, self.bound[:number], self.active)

    def gain(self, source: int, target: int) -> np.ndarray:
        """int64 ``[groups]``: half of what moving each group would add to the sum of squares of ``off``."""
        change = self.count * (self.count + (self.off[target] - self.off[source])[self.label])
        movable = (self.split == source) & ~self.bound
        return np.where(movable, np.add.reduceat(change, self.starts), np.iinfo(np.int64).max)

    def pairs(self) -> list[tuple[int, int]]:
        """From which split to which a group may go."""
        return list(itertools.permutations(self.active, 2))

    def move(self) -> bool:
        """Move the group that helps most; False if none does."""
        found = []
        for source, target in self.pairs():
            gain = self.gain(source, target)
            best = int(np.argmin(gain))
            found.append((int(gain[best]), best, target))
        gain_of_best, group, target = min(found, default=(0, 0, 0))
        if gain_of_best >= 0:
            return False
        self.put(group, target)
        return True

    def exchange(self) -> bool:
        """Let two groups of different splits change places, the pair that helps most of those tried; False if none."""
        best = (0, 0, 0, 0, 0)
        for source, target in itertools.combinations(self.active, 2):
            ours, theirs = self.candidates(source, target), self.candidates(target, source)
            if not len(ours) or not len(theirs):
                continue
            change = self.dense(theirs)[None, :, :] - self.dense(ours)[:, None, :]
            gain = (change * (change + self.off[source] - self.off[target])).sum(axis=2)
            one, other = divmod(int(np.argmin(gain)), gain.shape[1])
            best = min(best, (int(gain[one, other]), int(ours[one]), int(theirs[other]), source, target))
        gain_of_best, one, other, source, target = best
        if gain_of_best >= 0:
            return False
        self.put(one, target)
        self.put(other, source)
        return True

    def candidates(self, source: int, target: int) -> np.ndarray:
        """int64: the groups of ``source`` that would do least harm in ``target``."""
        gain = self.gain(source, target)
        order = np.argsort(gain, kind="stable")[:CANDIDATES]
        return order[gain[order] < np.iinfo(np.int64).max]

    def dense(self, groups: np.ndarray) -> np.ndarray:
        """int64 ``[groups, labels + 1]``: the counts of some groups."""
        result = np.zeros((len(groups), self.off.shape[1]), np.int64)
        ends = np.append(self.starts, len(self.count))
        for place, group in enumerate(groups):
            entries = slice(ends[group], ends[group + 1])
            result[place, self.label[entries]] = self.count[entries]
        return result

    def put(self, group: int, target: int) -> None:
        """Move one group."""
        counts = self.dense(np.array([group]))[0]
        self.off[self.split[group]] -= counts
        self.off[target] += counts
        self.split[group] = target
