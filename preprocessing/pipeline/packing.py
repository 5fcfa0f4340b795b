# SPDX-License-Identifier: Apache-2.0
"""Packs units of rows that stay together into splits or folds of nearly equal composition.

``pack_units`` takes large units first, each into the bin where the row counts, per class and in total, come nearest to
those wanted (as in scikit-learn's ``StratifiedGroupKFold``); units of one row of one class then fill the gaps.
Arithmetic is on integers and units are ordered by hash, so the result depends only on the set of rows and the seed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from padless.core.split_names import SPLITS, TEST_NUMBER, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.pipeline.tokenize import mix_hash

MIN_ROWS_TO_CUT = 3
"""A label with at least this many rows has at least one in validation and in test."""

OTHERS_WEIGHT = 0.1
"""With 0, sets that occur once leave common classes short; with 1, no class has its exact share."""


def join_nodes(node: np.ndarray, text_hash: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct nodes (uint64), and for each the smallest node among those that it is connected with by a text.

    ``node`` and ``text_hash``: uint64 ``[links]``, a node and a text that occurs in it.
    """
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, node_number = np.unique(node, return_inverse=True)
    texts, text_number = np.unique(text_hash, return_inverse=True)
    size = len(nodes) + len(texts)
    links = coo_array((np.ones(len(node), bool), (node_number, len(nodes) + text_number)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    return nodes, pd.Series(nodes).groupby(component[: len(nodes)]).transform("min").to_numpy()


@dataclass(frozen=True)
class Units:
    """Units of rows that stay together."""

    hash: np.ndarray
    """uint64 ``[units]``, ascending."""
    counts: Any
    """Sparse int64 ``[units, classes + 1]``: the rows of each class, and in the last column all of them."""

    @classmethod
    def sum_counts(cls, unit: np.ndarray, label: np.ndarray, num_rows: np.ndarray, members: np.ndarray) -> Units:
        """From the number of rows of each label in each unit. ``members``, int64 ``[labels, classes]``, has the classes
        of each label.
        """
        from scipy.sparse import coo_array, csr_array

        hashes, number = np.unique(unit, return_inverse=True)
        label_rows = coo_array((num_rows, (number, label)), shape=(len(hashes), len(members))).tocsr()
        counts = (label_rows @ csr_array(add_total(members))).tocsr()
        counts.sort_indices()
        return cls(hashes, counts)


def assign_splits(units: Units, *, seed: int, validation: float, test: float) -> np.ndarray:
    """int8 ``[units]``: 0 train, 1 validation, 2 test.

    ``validation`` and ``test`` are fractions of the rows of each class, met approximately. A unit that holds all rows
    of a class stays in training.
    """
    class_rows = units.counts[:, :-1]
    is_only_one = class_rows @ ((class_rows > 0).sum(axis=0) == 1) > 0
    splits = np.flatnonzero([1, validation, test])
    surplus = -target_rows(units.counts.sum(axis=0), validation, test)[splits]
    surplus[TRAIN_NUMBER] += units.counts[is_only_one].sum(axis=0)
    free, split = np.flatnonzero(~is_only_one), np.full(len(units.hash), TRAIN_NUMBER, np.int8)
    split[free] = splits[pack_units(units.counts[free], mix_hash(seed, "split", units.hash[free]), surplus)]
    return split


def assign_folds(units: Units, *, seed: int, folds: int) -> np.ndarray:
    """int16 ``[units]``: the fold of each unit."""
    surplus = np.zeros((folds, units.counts.shape[1]), np.int64)
    return pack_units(units.counts, mix_hash(seed, "fold", units.hash), surplus).astype(np.int16)


def add_total(members: np.ndarray) -> np.ndarray:
    """int64 ``[labels, classes + 1]``: the classes of each label, and a column of ones, for the rows in total."""
    return np.column_stack([members, np.ones(len(members), np.int64)])


def target_rows(rows: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[splits, classes + 1]``: the wanted rows of each split, per class and in total, of ``rows``, int64
    ``[classes + 1]``.
    """
    class_rows, target = rows[:-1], np.zeros((len(SPLITS), len(rows)), np.int64)
    for number, fraction in ((VALIDATION_NUMBER, validation), (TEST_NUMBER, test)):
        if fraction:  # of each class at least one row, where that leaves others for training
            rounded = (class_rows * fraction + 0.5).astype(np.int64)
            target[number, :-1] = np.maximum(rounded, class_rows >= MIN_ROWS_TO_CUT)
    target[TRAIN_NUMBER, :-1] = class_rows - target[:, :-1].sum(axis=0)
    labels_per_row = class_rows.sum() / max(1, rows[-1])
    target[:, -1] = np.rint(target.sum(axis=1) / (labels_per_row or 1))
    return target


def target_label_rows(label_rows: np.ndarray, members: np.ndarray, validation: float, test: float) -> np.ndarray:
    """int64 ``[splits, labels]``: the wanted rows of each label, so that each class has its share in every split.

    As in Sechidis et al. (2011), On the Stratification of Multi-Label Data, the rows of the rarest class are dealt
    first, to the splits that lack rows of it; those without a class come last. What splits lack of the other classes of
    a set counts for ``OTHERS_WEIGHT``. A class that other classes of its rows left none for training gets one label.
    """
    fractions, columns = np.array([1 - validation - test, validation, test]), add_total(members)
    total, remainder = label_rows @ columns, label_rows.copy()
    target, lacking = np.zeros((len(SPLITS), len(members)), np.int64), target_rows(total, validation, test)
    for column in np.argsort(total, kind="stable"):  # the last is that of all rows
        for label in np.flatnonzero(remainder * columns[:, column]):
            missing = lacking - np.outer(fractions, lacking.sum(axis=0))
            shares = fractions * remainder[label] + missing[:, column]
            if members[label].sum() > 1:
                shares += OTHERS_WEIGHT * (missing @ columns[label])
            target[:, label] = round_shares(shares, remainder[label], lacking[:, -1])
            lacking -= np.outer(target[:, label], columns[label])
            remainder[label] = 0
    for column in np.flatnonzero((target[TRAIN_NUMBER] @ members == 0) & (total[:-1] > 0)):
        label = np.argmax(label_rows * members[:, column])
        target[:, label] = 0
        target[TRAIN_NUMBER, label] = label_rows[label]
    return target


def round_shares(shares: np.ndarray, num_rows: int, total: np.ndarray) -> np.ndarray:
    """int64 ``[splits]``: ``num_rows`` in whole numbers near to these ``shares``. Of splits with equal claims to a row,
    the one that lacks more rows in ``total`` gets it.
    """
    claims = np.maximum(shares, 0)
    claims *= num_rows / claims.sum()
    rows = (claims + 1e-9).astype(np.int64)
    order = np.lexsort((total, claims - rows))[::-1]
    rows[order[: num_rows - rows.sum()]] += 1
    return rows


def pack_units(counts: Any, priority: np.ndarray, surplus: np.ndarray) -> np.ndarray:
    """int64 ``[units]``: the bin of each unit, so that all bins have about the same surplus of rows.

    ``counts`` are those of ``Units``. ``surplus``, int64 ``[bins, classes + 1]``, is how many rows more than it should
    each bin has; it is changed.
    """
    import pandas as pd

    sizes = counts[:, [-1]].toarray()[:, 0]
    bins = np.zeros(len(sizes), np.int64)
    is_single = (sizes == 1) & (np.diff(counts.indptr) == 2)  # one row of one class
    order = np.lexsort((priority, -sizes))
    # into the bin where the unit adds least to the sum of squares, which is smallest when all are equal
    for unit in order[~is_single[order]]:
        entries = slice(counts.indptr[unit], counts.indptr[unit + 1])
        columns, rows = counts.indices[entries], counts.data[entries]
        bins[unit] = np.argmin((rows * (2 * surplus[:, columns] + rows)).sum(axis=1))
        surplus[bins[unit], columns] += rows
    single = order[is_single[order]]
    for number, units in pd.Series(single).groupby(counts.indices[counts.indptr[single]]):
        rows_per_bin = level_bins(surplus[:, number], len(units), surplus[:, -1])
        bins[units] = np.repeat(np.arange(len(surplus)), rows_per_bin)
        surplus[:, number] += rows_per_bin
        surplus[:, -1] += rows_per_bin
    return bins


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
