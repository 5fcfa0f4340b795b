# SPDX-License-Identifier: Apache-2.0
"""Each row's split: as the source names it, or else cut by seed, by single texts or by groups of rows."""

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
from preprocessing.job.grouping import assign_groups, components, off_shares
from preprocessing.job.rows import Rows
from preprocessing.job.splits import assign

NameOf = Callable[[int], str]
"""A group's hash -> its name."""
NAMED = 3
"""Groups that are named as examples."""


def split_rows(
    rows: Rows, named: np.ndarray, alive: np.ndarray, splits: SplitConfig, seed: int, name_of: NameOf
) -> tuple[np.ndarray, dict[str, Any] | None]:
    """int8 per row: its split; and what is to be said of groups. A split that the source names gets no others.

    Raises ``DataError`` for a split of ``splits.names`` without a row, a group column that groups nothing, or groups
    too large for a split.
    """
    for name in SPLITS:
        if name in splits.names and not (named == SPLITS.index(name)).any():
            values = ", ".join(map(repr, splits.names[name]))
            raise DataError(
                f"splits.names.{name}: no row has one of these in {splits.column!r}: {values}; mend the key"
            )
    decision = np.where(named < 0, TRAIN_NUMBER, named).astype(np.int8)
    cut = ((VALIDATION, VALIDATION_NUMBER, splits.validation), (TEST, TEST_NUMBER, splits.test))
    fractions = {name: 0.0 if (named == number).any() else fraction for name, number, fraction in cut}
    if rows.group is not None:
        return decision, by_group(rows, rows.group, named, alive, decision, fractions, splits, seed, name_of)
    pool = np.flatnonzero(alive & (decision == TRAIN_NUMBER))
    if any(fractions.values()):
        decision[pool] = assign(rows.text_hash[pool], rows.label[pool], rows.row[pool], seed=seed, **fractions)
    return decision, None


def by_group(
    rows: Rows,
    group: np.ndarray,
    named: np.ndarray,
    alive: np.ndarray,
    decision: np.ndarray,
    fractions: dict[str, float],
    splits: SplitConfig,
    seed: int,
    name_of: NameOf,
) -> dict[str, Any]:
    """Fill ``decision`` so that rows of one group stay together; returns the manifest's ``statistics.groups``.

    A row without a split follows its group where the source names that a validation or a test group. Groups that the
    source itself divides are left as they are, and counted.
    """
    check_column(group, splits)
    hashes, node = np.unique(group, return_inverse=True)
    taken = np.zeros(len(hashes), np.int8)
    for split in (VALIDATION_NUMBER, TEST_NUMBER):
        inside = (np.bincount(node[named == split], minlength=len(hashes)) > 0) & (hashes != NO_GROUP)
        taken[inside] = split
    follows = (named == NO_SPLIT) & (taken[node] > 0)
    decision[follows] = taken[node][follows]
    report = described(group, hashes, node, named, name_of) | {"column": splits.group_column}
    report |= {"followed": int(follows.sum()), "joined": 0, "cut": {}}
    pool = np.flatnonzero(alive & (decision == TRAIN_NUMBER) & (taken[node] == 0))
    if not any(fractions.values()):
        return report
    if not len(pool):
        what = f"the source names a split other than {TRAIN} for all groups of {splits.group_column!r}"
        raise DataError(
            f"splits.group_column: {what}, so none is left to cut from; set splits.validation and test to 0"
        )
    together = components(group[pool], rows.text_hash[pool], rows.row[pool], rows.num_tokens[pool] > 0)
    label = rows.label[pool]
    decision[pool] = assign_groups(together, label, rows.row[pool], seed=seed, **fractions)
    grouped = group[pool] != NO_GROUP
    report["joined"] = len(np.unique(group[pool][grouped])) - len(np.unique(together[grouped]))
    off = off_shares(decision[pool], label, fractions[VALIDATION], fractions[TEST])[:, :-1]
    farthest, of_label = divmod(int(np.argmax(abs(off))), off.shape[1])
    report["off"] = {"split": SPLITS[farthest], "label": of_label, "rows": int(off[farthest, of_label])}
    for name, fraction in fractions.items():
        got = int((decision[pool] == SPLITS.index(name)).sum())
        if fraction and not got:
            raise too_large(together, name, splits, name_of)
        if fraction:
            report["cut"][name] = {"rows": got, "share": round(got / len(pool), 6), "wanted": fraction}
    return report


def check_column(group: np.ndarray, splits: SplitConfig) -> None:
    """Raise ``DataError`` for a column that is empty, or has another value in every row."""
    grouped = group[group != NO_GROUP]
    if not len(grouped):
        raise DataError(f"splits.group_column: {splits.group_column!r} is empty in every row; name another column")
    if 1 < len(grouped) == len(np.unique(grouped)):
        what = f"has another value in each of the {len(grouped):,} rows, so it keeps none together"
        raise DataError(f"splits.group_column: {splits.group_column!r} {what}; name another column, or leave it out")


def too_large(together: np.ndarray, split: str, splits: SplitConfig, name_of: NameOf) -> DataError:
    """The sentence for a split that no group fits into."""
    hashes, sizes = np.unique(together, return_counts=True)
    largest, rows = name_of(int(hashes[np.argmax(sizes)])), int(sizes.max())
    what = f"the largest of {len(hashes):,}, {largest!r}, holds {rows:,} of {len(together):,} rows"
    hint = f"ask for another share in splits.{split}, or name another column"
    return DataError(f"splits.group_column: no group fits into the split {split}: {what}; {hint}")


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
    largest = {"name": name_of(int(hashes[np.argmax(sizes)])), "rows": int(sizes.max())}
    ungrouped = int((group == NO_GROUP).sum())
    of_source = [name for number, name in enumerate(SPLITS) if (named == number).any()]
    found = {"groups": int(real.sum()), "largest": largest, "rows_without": ungrouped}
    return found | {"named_by_source": of_source, "shared": shared}
