# SPDX-License-Identifier: Apache-2.0
"""What becomes of each row: its split and its fold, or left out. Suspect rows are counted, kept, dropped or refused.

A row's split is the one that the source names, else it is cut by seed, by single texts or by groups of rows. Labelled
rows are decided as if there were no others. A text without a label must not be one that validation or test holds, nor
one of their groups: what is learned from it would be measured on it. A text that training holds too does no harm: it is
kept and counted.
"""

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
    UNLABELLED,
    UNLABELLED_NUMBER,
    VALIDATION,
    VALIDATION_NUMBER,
)
from preprocessing.config import QualityConfig, SplitConfig
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.grouping import Groups, assign, assign_folds, assign_groups, components
from preprocessing.job.parts import Rows

DROPPED = -1
NO_FOLD = -1
"""The fold of a row that has none: of the test split, without a label, or left out."""
Where = Callable[[int], str]
"""A row's number in the source -> ``FILE: row N``."""


class Sieve:
    """Applies the policies of ``quality`` to some rows: which are still there, and how many each policy dropped."""

    def __init__(self, rows: Rows, quality: QualityConfig, where: Where) -> None:
        """Empty texts are dealt with first. Raises ``DataError`` where all are empty."""
        self.row, self.quality, self.where = rows.row, quality, where
        self.alive = np.ones(len(rows.row), bool)
        self.dropped: dict[str, int] = {}
        self.empty = rows.num_tokens == 0
        if self.empty.all():
            raise DataError(f"{where(int(rows.row.min()))}: no token is left of any text; check text.stop_words")
        self.found: dict[str, Any] = {
            "empty": int(self.empty.sum()),
            "missing_text": int(np.count_nonzero(rows.missing)),
        }
        self.apply("empty", self.empty, "no token is left of its text")

    def apply(self, name: str, found: np.ndarray, what: str) -> None:
        """Do what the policy ``quality.<name>`` says with the rows ``found`` that are still there.

        Raises ``DataError`` where it says ``error``, naming the first of them; ``what`` is wrong with it.
        """
        found = found & self.alive
        policy = getattr(self.quality, name)
        if policy == "error" and found.any():
            first, rest = int(self.row[found].min()), int(found.sum()) - 1
            others = f" (and {rest} more)" if rest else ""
            mend = f"correct the row, or set quality.{name} to keep or drop"
            raise DataError(f"{self.where(first)}: {what}{others}; {mend}")
        if policy == "drop":
            self.alive[found] = False
            self.dropped[name] = self.dropped.get(name, 0) + int(found.sum())


def decide(
    rows: Rows, quality: QualityConfig, splits: SplitConfig, seed: int, where: Where
) -> tuple[np.ndarray, dict[str, Any]]:
    """int8 per row: its split, or ``DROPPED``; and what was found, for the manifest.

    Raises ``DataError`` where a policy says ``error``, naming the first row it applies to.
    """
    without = rows.named == UNLABELLED_NUMBER
    labelled = rows.chosen(~without)
    decision = np.empty(len(without), np.int8)
    decided, report = decide_labelled(labelled, quality, splits, seed, where)
    decision[~without] = decided
    if without.any():
        sieve = Sieve(rows.chosen(without), quality, where)
        decision[without], found = decide_unlabelled(rows.chosen(without), sieve, labelled, decided, splits)
        for name, count in sieve.dropped.items():
            report["dropped"][name] = report["dropped"].get(name, 0) + count
        report[UNLABELLED] = found
    return decision, report


def decide_labelled(
    rows: Rows, quality: QualityConfig, splits: SplitConfig, seed: int, where: Where
) -> tuple[np.ndarray, dict[str, Any]]:
    """The same for rows with labels."""
    named = rows.named.astype(np.int8)
    sieve = Sieve(rows, quality, where)
    groups = Groups.of(rows.text_hash, rows.row)
    unequal = groups.to_rows(groups.differ(rows.label)) & ~sieve.empty
    sieve.apply("contradictions", unequal, "an equal text has another label")
    nearest = np.where(named < 0, TRAIN_NUMBER if (named >= 0).any() else -1, named)
    leaking = (nearest < groups.to_rows(groups.reduced(np.maximum, nearest))) & ~sieve.empty
    sieve.apply("leaks", leaking, "another split that the source names holds an equal text")
    decision, of_groups = split_rows(rows, named, sieve.alive, splits, seed)
    compared = sieve.alive & ~sieve.empty
    report = sieve.found | {"contradictions": int(unequal.sum()), "leaks": int(leaking.sum())}
    report["duplicates"] = duplicates(rows, decision, compared)
    again = np.any([repeats(rows, compared & (decision == split)) for split in range(len(SPLITS))], axis=0)
    sieve.apply("duplicates", again, "its split holds an equal text before it")
    decision[~sieve.alive] = DROPPED
    report["dropped"] = sieve.dropped
    return decision, report if of_groups is None else report | {"groups": of_groups}


def decide_unlabelled(
    rows: Rows, sieve: Sieve, labelled: Rows, decided: np.ndarray, splits: SplitConfig
) -> tuple[np.ndarray, dict[str, Any]]:
    """The same for rows without labels. ``decided`` are the splits of the ``labelled`` rows.

    With folds all of these are measured once, those of training too.
    """
    found: dict[str, Any] = {"rows": len(rows.row), **sieve.found}
    full = labelled.num_tokens > 0
    shared = {
        name: np.isin(rows.text_hash, labelled.text_hash[full & (decided == number)]) & ~sieve.empty
        for number, name in enumerate(SPLITS)
    }
    found["shared"] = {name: int(its.sum()) for name, its in shared.items()}
    for name in (*((TRAIN,) if splits.folds else ()), VALIDATION, TEST):
        sieve.apply("leaks", shared[name], f"{name} holds an equal text, and this one has no label")
    if splits.group_column is not None:
        measured = labelled.group[(decided >= 0) & ((splits.folds > 0) | (decided != TRAIN_NUMBER))]
        of_measured = (rows.group != NO_GROUP) & np.isin(rows.group, measured)
        found["groups_measured"] = int(of_measured.sum())
        sieve.apply("leaks", of_measured, "it has no label, and its group is one of validation or test")
    again = repeats(rows, sieve.alive & ~sieve.empty)
    found["duplicates"] = int(again.sum())
    sieve.apply("duplicates", again, "an equal text without a label stands before it")
    found["dropped"] = sieve.dropped
    return np.where(sieve.alive, UNLABELLED_NUMBER, DROPPED).astype(np.int8), found


def repeats(rows: Rows, compared: np.ndarray) -> np.ndarray:
    """bool per row: a lower one of those that are compared has the same tokens."""
    result = np.zeros(len(compared), bool)
    inside = np.flatnonzero(compared)
    result[inside] = Groups.of(rows.text_hash[inside], rows.row[inside]).repeats()
    return result


def duplicates(rows: Rows, decision: np.ndarray, compared: np.ndarray) -> dict[str, int]:
    """Rows that repeat an earlier one: letter by letter, after the text pipeline; and rows in groups across splits."""
    full = np.flatnonzero(compared)
    groups = Groups.of(rows.text_hash[full], rows.row[full])
    several = full[groups.to_rows(groups.sizes > 1)]
    pairs = np.stack([rows.text_hash[several], rows.exact_hash[several]])
    return {
        "exact": len(several) - np.unique(pairs, axis=1).shape[1],
        "normalised": int(groups.repeats().sum()),
        "across_splits": int(groups.sizes[groups.differ(decision[full])].sum()),
    }


def check_splits(
    rows: Rows, decision: np.ndarray, dropped: dict[str, int], names: list[str], splits: SplitConfig
) -> None:
    """Refuse a split that nothing can be learnt from or measured on. Raises ``DataError``.

    ``dropped`` are the rows that each policy has dropped, ``names`` the classes.
    """
    for name, fraction in ((TRAIN, 1.0), (VALIDATION, splits.validation), (TEST, splits.test)):
        inside = rows.label[decision == SPLITS.index(name)]
        present = np.unique(inside)
        if not len(present) and (fraction or (rows.named == SPLITS.index(name)).any()):
            policies = "".join(f", quality.{policy} drops {count:,}" for policy, count in dropped.items() if count)
            raise DataError(
                f"split {name}: no row is left for it, of {len(decision):,}{policies}; equal texts stay in one split. "
                f"Give more rows, set the policy to keep, or ask for a larger splits.{name}"
            )
        if len(present) == 1:
            only = f"all {len(inside)} rows have the label {names[int(present[0])]!r}"
            raise DataError(f"split {name}: {only}; a classifier needs two classes: check the source and its labels")
        if name == TRAIN and len(absent := np.setdiff1d(np.arange(len(names)), present)):
            mend = "leave it out with source.labels or source.neutral"
            raise DataError(f"split {name}: no row has the label {names[absent[0]]!r}; add some, or {mend}")


def split_rows(
    rows: Rows, named: np.ndarray, alive: np.ndarray, splits: SplitConfig, seed: int
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
    if splits.group_column is not None:
        return by_group(rows, named, alive, decision, cut, splits.group_column, seed)
    pool = np.flatnonzero(alive & (decision == TRAIN_NUMBER))
    if any(cut.values()):
        decision[pool] = assign(rows.text_hash[pool], rows.label[pool], rows.row[pool], seed=seed, **cut)
    return decision, None


def by_group(
    rows: Rows,
    named: np.ndarray,
    alive: np.ndarray,
    decision: np.ndarray,
    cut: dict[str, float],
    column: str,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """The ``decision`` by which rows of one group stay together, and the manifest's ``statistics.groups``.

    A row without a split follows its group where the source names that a validation or a test group. Groups that the
    source itself divides are left as they are, and counted.
    """
    key = f"splits.group_column: {column!r}"
    hashes, node, sizes = np.unique(rows.group, return_inverse=True, return_counts=True)
    real = hashes != NO_GROUP
    grouped = real[node]
    if not grouped.any():
        raise DataError(f"{key} is empty in every row; name another column")
    if 1 < grouped.sum() == real.sum():
        what = f"has another value in each of the {int(grouped.sum()):,} rows, so it keeps none together"
        raise DataError(f"{key} {what}; name another column, or leave it out")
    there = np.stack([np.bincount(node[named == split], minlength=len(hashes)) * real for split in range(len(SPLITS))])
    taken = np.where(there[TEST_NUMBER], TEST_NUMBER, np.where(there[VALIDATION_NUMBER], VALIDATION_NUMBER, 0))
    follows = (named == NO_SPLIT) & (taken[node] > 0)
    decision[follows] = taken[node][follows]
    shared = []
    for one, other in itertools.combinations(range(len(SPLITS)), 2):
        both = (there[one] > 0) & (there[other] > 0)
        if both.any():
            counts = {SPLITS[split]: int(there[split][both].sum()) for split in (one, other)}
            shared.append({"groups": int(both.sum()), "rows": counts})
    report: dict[str, Any] = {
        "column": column,
        "groups": int(real.sum()),
        "largest": int(sizes[real].max()),
        "rows_without": int((~grouped).sum()),
        "followed": int(follows.sum()),
        "shared": shared,
        "cut": {},
    }
    if not any(cut.values()):
        return decision, report
    pool = np.flatnonzero(alive & (decision == TRAIN_NUMBER) & (taken[node] == 0))
    if not len(pool):
        what = f"the source names a split other than {TRAIN} for all groups, so none is left to cut from"
        raise DataError(f"{key}: {what}; set splits.validation and test to 0")
    together = components(rows.group[pool], rows.text_hash[pool], rows.num_tokens[pool] > 0)
    decision[pool] = assign_groups(together, rows.label[pool], rows.row[pool], seed=seed, **cut)
    for name, fraction in cut.items():
        got = int((decision[pool] == SPLITS.index(name)).sum())
        if fraction and not got:
            largest = np.unique(together, return_counts=True)[1].max()
            what = f"no group fits into the split {name}: the largest holds {largest:,} of {len(pool):,} rows"
            raise DataError(f"{key}: {what}; ask for another share in splits.{name}, or name another column")
        if fraction:
            report["cut"][name] = {"rows": got, "share": round(got / len(pool), 6), "wanted": fraction}
    return decision, report


def fold_rows(
    rows: Rows, decision: np.ndarray, folds: int, seed: int, names: list[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """int16 per row: its fold, ``NO_FOLD`` where it is neither in training nor in validation; and the lines to print.

    ``decision`` is each row's split, ``names`` are the classes. Raises ``DataError`` where there are fewer groups than
    folds, or a fold that cannot be validated on or trained without.
    """
    pool = np.flatnonzero((decision == TRAIN_NUMBER) | (decision == VALIDATION_NUMBER))
    label = rows.label[pool]
    together = components(rows.group[pool], rows.text_hash[pool], rows.num_tokens[pool] > 0)
    found = len(np.unique(together))
    if found < folds:
        what = f"only {found} groups or different texts outside of test"
        raise DataError(f"splits.folds: {folds} folds, but {what}; ask for fewer folds")
    fold = assign_folds(together, label, rows.row[pool], folds=folds, seed=seed)
    counts = np.stack([np.bincount(label[fold == number], minlength=len(names)) for number in range(folds)])
    for number, inside in enumerate(counts):
        alone = np.flatnonzero((counts.sum(axis=0) == inside) & (inside > 0))
        if len(alone):
            of_label = f"all {inside[alone[0]]:,} rows of the label {names[alone[0]]!r} fall into fold {number}"
            mend = "so a training without it would never see that label; it needs at least two groups or texts"
            raise DataError(f"splits.folds: {of_label}, {mend}")
        if (inside > 0).sum() < 2:
            what = f"fold {number} has rows of fewer than two labels, and nothing can be measured on it"
            raise DataError(f"splits.folds: {what}; ask for fewer folds")
    result = np.full(len(decision), NO_FOLD, np.int16)
    result[pool] = fold
    return result, {"rows": counts.sum(axis=1).tolist(), "labels": counts.tolist(), "kept_together": found}
