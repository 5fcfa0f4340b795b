# SPDX-License-Identifier: Apache-2.0
"""Each row's split, and its fold: as the source names it, else cut by seed, by single texts or by groups of rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import (
    NO_SPLIT,
    SPLITS,
    TEST,
    TEST_NUMBER,
    TRAIN,
    TRAIN_NUMBER,
    VALIDATION,
    VALIDATION_NUMBER,
)
from preprocessing.config import SplitConfig
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.grouping import assign, assign_folds, assign_groups, components, off_shares
from preprocessing.job.rows import Rows

NameOf = Callable[[int], str]
"""A group's hash -> its name."""
NAMED = 3
"""Groups that are named as examples."""
NO_FOLD = -1
"""The fold of a row that has none: of the test split, without a label, or left out."""


def split_rows(
    rows: Rows, named: np.ndarray, alive: np.ndarray, splits: SplitConfig, seed: int, name_of: NameOf
) -> tuple[np.ndarray, dict[str, Any] | None]:
    """int8 per row: its split; and ``statistics.groups`` of the manifest. A split that the source names gets no others.

    Raises ``DataError`` for a split of ``splits.names`` without a row, a group column that groups nothing, or groups
    too large for a split.
    """
    for name, values in splits.names.items():
        if name in SPLITS and not (named == SPLITS.index(name)).any():
            said = ", ".join(map(repr, values))
            raise DataError(
                f"splits.names.{name}: no row has one of these in {splits.column!r}: {said}; correct the key"
            )
    decision = np.where(named < 0, TRAIN_NUMBER, named).astype(np.int8)
    cut = {VALIDATION: splits.validation, TEST: splits.test}
    cut = {name: 0.0 if (named == SPLITS.index(name)).any() else fraction for name, fraction in cut.items()}
    if rows.group is not None:
        return decision, by_group(rows, rows.group, named, alive, decision, cut, splits, seed, name_of)
    pool = np.flatnonzero(alive & (decision == TRAIN_NUMBER))
    if any(cut.values()):
        decision[pool] = assign(rows.text_hash[pool], rows.label[pool], rows.row[pool], seed=seed, **cut)
    return decision, None


def by_group(
    rows: Rows,
    group: np.ndarray,
    named: np.ndarray,
    alive: np.ndarray,
    decision: np.ndarray,
    cut: dict[str, float],
    splits: SplitConfig,
    seed: int,
    name_of: NameOf,
) -> dict[str, Any]:
    """Fill ``decision`` so that rows of one group stay together; returns the manifest's ``statistics.groups``.

    A row without a split follows its group where the source names that a validation or a test group. Groups that the
    source itself divides are left as they are, and counted.
    """
    key = f"splits.group_column: {splits.group_column!r}"
    hashes, node = np.unique(group, return_inverse=True)
    grouped = group != NO_GROUP
    if not grouped.any():
        raise DataError(f"{key} is empty in every row; name another column")
    if 1 < grouped.sum() == (hashes != NO_GROUP).sum():
        what = f"has another value in each of the {int(grouped.sum()):,} rows, so it keeps none together"
        raise DataError(f"{key} {what}; name another column, or leave it out")
    taken = np.zeros(len(hashes), np.int8)
    for split in (VALIDATION_NUMBER, TEST_NUMBER):
        taken[np.unique(node[(named == split) & grouped])] = split
    follows = (named == NO_SPLIT) & (taken[node] > 0)
    decision[follows] = taken[node][follows]
    report = described(group, hashes, node, named, name_of) | {"column": splits.group_column}
    report |= {"followed": int(follows.sum()), "joined": 0, "cut": {}}
    if not any(cut.values()):
        return report
    pool = np.flatnonzero(alive & (decision == TRAIN_NUMBER) & (taken[node] == 0))
    if not len(pool):
        what = f"the source names a split other than {TRAIN} for all groups, so none is left to cut from"
        raise DataError(f"{key}: {what}; set splits.validation and test to 0")
    together = components(group[pool], rows.text_hash[pool], rows.num_tokens[pool] > 0)
    label, own = rows.label[pool], grouped[pool]
    decision[pool] = assign_groups(together, label, rows.row[pool], seed=seed, **cut)
    report["joined"] = len(np.unique(group[pool][own])) - len(np.unique(together[own]))
    off = off_shares(decision[pool], label, cut[VALIDATION], cut[TEST])[:, :-1]
    farthest, of_label = divmod(int(np.argmax(abs(off))), off.shape[1])
    report["off"] = {"split": SPLITS[farthest], "label": of_label, "rows": int(off[farthest, of_label])}
    for name, fraction in cut.items():
        got = int((decision[pool] == SPLITS.index(name)).sum())
        if fraction and not got:
            found, sizes = np.unique(together, return_counts=True)
            largest = f"{name_of(int(found[np.argmax(sizes)]))!r}, holds {sizes.max():,} of {len(pool):,} rows"
            raise DataError(
                f"{key}: no group fits into the split {name}: the largest of {len(found):,}, {largest}; ask for "
                f"another share in splits.{name}, or name another column"
            )
        if fraction:
            report["cut"][name] = {"rows": got, "share": round(got / len(pool), 6), "wanted": fraction}
    return report


def described(
    group: np.ndarray, hashes: np.ndarray, node: np.ndarray, named: np.ndarray, name_of: NameOf
) -> dict[str, Any]:
    """How many groups there are, the largest, and which of them the source's own splits share."""
    real = hashes != NO_GROUP
    sizes = np.where(real, np.bincount(node, minlength=len(hashes)), 0)
    there = [np.bincount(node[named == split], minlength=len(hashes)) * real for split in range(len(SPLITS))]
    shared = []
    for one, other in itertools.combinations(range(len(SPLITS)), 2):
        both = np.flatnonzero((there[one] > 0) & (there[other] > 0))
        if len(both):
            rows = {SPLITS[split]: int(there[split][both].sum()) for split in (one, other)}
            some = sorted(name_of(int(hashes[place])) for place in both[:NAMED])
            shared.append({"groups": len(both), "rows": rows, "names": some})
    return {
        "groups": int(real.sum()),
        "largest": {"name": name_of(int(hashes[np.argmax(sizes)])), "rows": int(sizes.max())},
        "rows_without": int((group == NO_GROUP).sum()),
        "named_by_source": [name for number, name in enumerate(SPLITS) if (named == number).any()],
        "shared": shared,
    }


def fold_rows(
    rows: Rows, decision: np.ndarray, folds: int, seed: int, names: list[str], column: str | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """int16 per row: its fold, ``NO_FOLD`` where it is neither in training nor in validation; and the lines to print.

    ``decision`` is each row's split, ``names`` are the classes, ``column`` the one that groups rows. Raises
    ``DataError`` where there are fewer groups than folds, or a fold that cannot be validated on or trained without.
    """
    pool = np.flatnonzero((decision == TRAIN_NUMBER) | (decision == VALIDATION_NUMBER))
    label = rows.label[pool]
    group = np.full(len(pool), NO_GROUP, np.uint64) if rows.group is None else rows.group[pool]
    together = components(group, rows.text_hash[pool], rows.num_tokens[pool] > 0)
    found = len(np.unique(together))
    what = f"groups of {column!r}" if column is not None and rows.group is not None else "different texts"
    if found < folds:
        raise DataError(f"splits.folds: {folds} folds, but only {found} {what} outside of test; ask for fewer folds")
    fold = assign_folds(together, label, rows.row[pool], folds=folds, seed=seed)
    counts = np.stack([np.bincount(label[fold == number], minlength=len(names)) for number in range(folds)])
    for number, inside in enumerate(counts):
        alone = np.flatnonzero((counts.sum(axis=0) == inside) & (inside > 0))
        if len(alone):
            of_label = f"all {inside[alone[0]]:,} rows of the label {names[alone[0]]!r} fall into fold {number}"
            mend = f"so a training without it would never see that label; it needs at least two {what}"
            raise DataError(f"splits.folds: {of_label}, {mend}")
        if (inside > 0).sum() < 2:
            raise DataError(
                f"splits.folds: fold {number} has {inside.sum():,} rows of {(inside > 0).sum()} label, and nothing can "
                "be measured on it; ask for fewer folds"
            )
    result = np.full(len(decision), NO_FOLD, np.int16)
    result[pool] = fold
    return result, {"rows": counts.sum(axis=1).tolist(), "labels": counts.tolist(), "kept_together": found}
