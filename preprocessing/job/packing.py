# SPDX-License-Identifier: Apache-2.0
"""Packs units of rows that stay together into splits or folds of nearly equal composition.

``pack_units`` takes large units first, each into the bin where the row counts, per label and in total, come nearest to
those wanted (as in scikit-learn's ``StratifiedGroupKFold``); units of one row then fill the gaps. Arithmetic is on
integers and units are ordered by hash, so the result depends only on the set of rows and the seed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from preprocessing.base.split_names import SPLITS, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.job.tokenize import mix_hash

MIN_ROWS_TO_CUT = 3
"""A label with at least this many rows has at least one in validation and in test."""


def join_nodes(node: np.ndarray, text_hash: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct nodes (uint64), and for each the smallest node among those that it is connected with by a text.

    ``node`` and ``text_hash``: uint64 ``[links]``, a node and a text that occurs in it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, node_number = np.unique(node, return_inverse=True)
    texts, text_number = np.unique(text_hash, return_inverse=True)
    size = len(nodes) + len(texts)
    links = coo_array((np.ones(len(node), bool), (node_number, len(nodes) + text_number)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    _, smallest, component_number = np.unique(component[: len(nodes)], return_index=True, return_inverse=True)
    return nodes, nodes[smallest[component_number]]


@dataclass(frozen=True)
class Units:
    """Units of rows that stay together."""

    hash: np.ndarray
    """uint64 ``[units]``, ascending."""
    label: np.ndarray
    """int64 ``[units]``: the label of each unit's first row."""
    counts: Any
    """Sparse int64 ``[units, labels + 1]``: the rows of each label, and in the last column all of them."""

    @classmethod
    def sum_counts(cls, unit: np.ndarray, label: np.ndarray, rows: np.ndarray, num_labels: int) -> Units:
        """From the number of rows of each label in each unit, in the order of units, the first row's label first."""
        from scipy.sparse import coo_array

        hashes, first, number = np.unique(unit, return_index=True, return_inverse=True)
        column = np.concatenate([label, np.full(len(label), num_labels)])
        shape = (len(hashes), num_labels + 1)
        counts = coo_array((np.tile(rows, 2), (np.tile(number, 2), column)), shape=shape).tocsr()
        return cls(hashes, label[first], counts)

    def select(self, chosen: np.ndarray) -> Units:
        """The units at some indices."""
        return Units(self.hash[chosen], self.label[chosen], self.counts[chosen])


def assign_splits(units: Units, *, seed: int, validation: float, test: float) -> np.ndarray:
    """int8 ``[units]``: 0 train, 1 validation, 2 test.

    ``validation`` and ``test`` are fractions of the rows of each label, met approximately. A unit that holds all rows
    of a label stays in training.
    """
    label_rows = units.counts[:, :-1]
    is_only_one = label_rows @ ((label_rows > 0).sum(axis=0) == 1) > 0
    splits = np.flatnonzero([1, validation, test])
    surplus = -target_rows(label_rows.sum(axis=0), validation, test)[splits]
    surplus[TRAIN_NUMBER] += units.counts[is_only_one].sum(axis=0)
    free, split = np.flatnonzero(~is_only_one), np.full(len(units.hash), TRAIN_NUMBER, np.int8)
    chosen = units.select(free)
    split[free] = splits[pack_units(chosen, mix_hash(seed, "split", chosen.hash), surplus)]
    return split


def assign_folds(units: Units, *, seed: int, folds: int) -> np.ndarray:
    """int16 ``[units]``: the fold of each unit."""
    surplus = np.zeros((folds, units.counts.shape[1]), np.int64)
    return pack_units(units, mix_hash(seed, "fold", units.hash), surplus).astype(np.int16)


def target_rows(label_rows: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[splits, labels + 1]``: the wanted rows of each split, per label and in total."""
    target = np.zeros((len(SPLITS), len(label_rows) + 1), np.int64)
    for number, fraction in ((VALIDATION_NUMBER, validation), (TEST_NUMBER, test)):
        if fraction:  # of each label at least one row, where that leaves others for training
            rounded = (label_rows * fraction + 0.5).astype(np.int64)
            target[number, :-1] = np.maximum(rounded, label_rows >= MIN_ROWS_TO_CUT)
    target[TRAIN_NUMBER, :-1] = label_rows - target[:, :-1].sum(axis=0)
    target[:, -1] = target.sum(axis=1)
    return target


def pack_units(units: Units, priority: np.ndarray, surplus: np.ndarray) -> np.ndarray:
    """int64 ``[units]``: the bin of each unit, so that all bins have about the same surplus of rows.

    ``surplus``, int64 ``[bins, labels + 1]``, is how many rows more than it should each bin has; it is changed.
    """
    counts = units.counts
    sizes = counts[:, [-1]].toarray()[:, 0]
    bins = np.zeros(len(sizes), np.int64)
    # into the bin where the unit adds least to the sum of squares, which is smallest when all are equal
    for unit in np.lexsort((priority, -sizes))[: (sizes > 1).sum()]:
        entries = slice(counts.indptr[unit], counts.indptr[unit + 1])
        columns, rows = counts.indices[entries], counts.data[entries]
        bins[unit] = np.argmin((rows * (2 * surplus[:, columns] + rows)).sum(axis=1))
        surplus[bins[unit], columns] += rows
    single = np.flatnonzero(sizes == 1)
    for positions in split_by_label(units.label[single], priority[single]):
        members = single[positions]
        label = units.label[members[0]]
        rows_per_bin = level_bins(surplus[:, label], len(members), surplus[:, -1])
        bins[members] = np.repeat(np.arange(len(surplus)), rows_per_bin)
        surplus[:, label] += rows_per_bin
        surplus[:, -1] += rows_per_bin
    return bins


def split_by_label(label: np.ndarray, priority: np.ndarray) -> Iterator[np.ndarray]:
    """The indices of each label, in order of priority."""
    order = np.lexsort((priority, label))
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def level_bins(heights: np.ndarray, num_rows: int, total: np.ndarray) -> np.ndarray:
    """int64 ``[bins]``: how many of ``num_rows`` each bin gets so that all ``heights`` become equal.

    The remainder goes to the bins with the fewest rows in ``total``.
    """
    levels = range(int(heights.min()), int(heights.max()) + num_rows + 1)
    index = bisect_right(levels, num_rows, key=lambda level: np.maximum(level - heights, 0).sum()) - 1
    rows = np.maximum(levels[index] - heights, 0)
    open_bins = np.flatnonzero(heights <= levels[index])
    order = open_bins[np.argsort((total + rows)[open_bins], kind="stable")]
    rows[order[: num_rows - int(rows.sum())]] += 1
    return rows
