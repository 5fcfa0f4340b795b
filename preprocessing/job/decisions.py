# SPDX-License-Identifier: Apache-2.0
"""What becomes of each row: its split, or left out. Suspect rows are counted, and kept, dropped or refused.

Labelled rows are decided as if there were no others. A text without a label must not be one that validation or test
holds, nor one of their groups: what is learned from it would be measured on it. A text that training holds too does no
harm: it is kept and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import (
    NO_SPLIT,
    SPLITS,
    TEST,
    TRAIN,
    TRAIN_NUMBER,
    UNLABELLED,
    UNLABELLED_NUMBER,
    VALIDATION,
)
from preprocessing.config import QualityConfig, SplitConfig
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.job.grouping import FEWEST_TO_CUT, Groups
from preprocessing.job.rows import Rows
from preprocessing.job.splits import NameOf, split_rows

DROPPED = -1
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
            first = where(int(rows.row.min()))
            raise DataError(f"{first}: no token is left of this text, nor of any other like it; check text.stop_words")
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
            raise DataError(f"{self.where(first)}: {what}{others}; mend the row, or set quality.{name} to keep or drop")
        if policy == "drop":
            self.alive[found] = False
            self.dropped[name] = self.dropped.get(name, 0) + int(found.sum())


def decide(
    rows: Rows, quality: QualityConfig, splits: SplitConfig, seed: int, where: Where, name_of: NameOf = hex
) -> tuple[np.ndarray, dict[str, Any]]:
    """int8 per row: its split, or ``DROPPED``; and what was found, for the manifest.

    Raises ``DataError`` where a policy says ``error``, naming the first row it applies to.
    """
    without = rows.named == UNLABELLED_NUMBER
    labelled = rows.chosen(~without)
    decision = np.empty(len(without), np.int8)
    decided, report = decide_labelled(labelled, quality, splits, seed, where, name_of)
    decision[~without] = decided
    if without.any():
        sieve = Sieve(rows.chosen(without), quality, where)
        decision[without], found = decide_unlabelled(rows.chosen(without), sieve, labelled, decided, splits.folds > 0)
        for name, count in sieve.dropped.items():
            report["dropped"][name] = report["dropped"].get(name, 0) + count
        report[UNLABELLED] = found
    return decision, report


def decide_labelled(
    rows: Rows, quality: QualityConfig, splits: SplitConfig, seed: int, where: Where, name_of: NameOf
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
    decision, of_groups = split_rows(rows, named, sieve.alive, splits, seed, name_of)
    compared = sieve.alive & ~sieve.empty
    report = sieve.found | {"contradictions": int(unequal.sum()), "leaks": int(leaking.sum())}
    report["duplicates"] = duplicates(rows, decision, compared)
    again = np.any([repeats(rows, compared & (decision == split)) for split in range(len(SPLITS))], axis=0)
    sieve.apply("duplicates", again, "its split holds an equal text before it")
    decision[~sieve.alive] = DROPPED
    report["dropped"] = sieve.dropped
    return decision, report if of_groups is None else report | {"groups": of_groups}


def decide_unlabelled(
    rows: Rows, sieve: Sieve, labelled: Rows, decided: np.ndarray, folds: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """The same for rows without labels. ``decided`` are the splits of the ``labelled`` rows.

    With ``folds`` all of these are measured once, those of training too.
    """
    found: dict[str, Any] = {"rows": len(rows.row), **sieve.found}
    full = labelled.num_tokens > 0
    shared = {
        name: np.isin(rows.text_hash, labelled.text_hash[full & (decided == number)]) & ~sieve.empty
        for number, name in enumerate(SPLITS)
    }
    found["shared"] = {name: int(its.sum()) for name, its in shared.items()}
    for name in (*((TRAIN,) if folds else ()), VALIDATION, TEST):
        sieve.apply("leaks", shared[name], f"{name} holds an equal text, and this one has no label")
    if rows.group is not None and labelled.group is not None:
        measured = labelled.group[(decided >= 0) & (folds | (decided != TRAIN_NUMBER))]
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
    fractions = (1.0, splits.validation, splits.test)
    for split, name in enumerate(SPLITS):
        is_named = bool((rows.named == split).any())
        inside = rows.label[decision == split]
        present = np.unique(inside)
        if not len(present) and (is_named or fractions[split]):
            own = [split] if is_named and split != TRAIN_NUMBER else [TRAIN_NUMBER, NO_SPLIT]
            could = np.isin(rows.named, own)
            kept = could & (decision >= 0)
            policies = [f"quality.{policy} leaves out {count:,} rows" for policy, count in dropped.items() if count]
            most = np.unique(rows.label[kept], return_counts=True)[1].max(initial=0)
            texts = f"{int(kept.sum()):,} are kept, of {len(np.unique(rows.text_hash[kept])):,} different texts"
            facts = [f"{int(could.sum()):,} of {len(decision):,} rows may be in it", *policies, texts]
            raise DataError(
                f"split {name}: no row is left for it: {', '.join(facts)} and at most {most:,} of one label; it is cut "
                f"from labels of {FEWEST_TO_CUT} rows or more, and equal texts stay in one split. Give more rows, name "
                f"some for it, set the policy to keep, or ask for a larger splits.{name}"
            )
        if len(present) == 1:
            only = f"all {len(inside)} rows have the label {names[int(present[0])]!r}"
            raise DataError(f"split {name}: {only}; a classifier needs two classes: check the source and its labels")
        absent = [label for number, label in enumerate(names) if number not in present]
        if split == TRAIN_NUMBER and absent:
            mend = "leave it out with source.labels or source.neutral"
            raise DataError(f"split {name}: no row has the label {absent[0]!r}; add some, or {mend}")
