# SPDX-License-Identifier: Apache-2.0
"""Rows without labels: what becomes of them beside those that have one, and what is to be said of them.

Labelled rows are decided as if there were no others. A text without a label must not be one that validation or test
holds, nor one of their groups: what is learned from it would be measured on it. A text that training holds too does no
harm: it is kept and counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from preprocessing.base.errors import DataError
from preprocessing.base.split_names import SPLITS, TEST, TRAIN, UNLABELLED, UNLABELLED_NUMBER, VALIDATION
from preprocessing.config import QualityConfig, SplitConfig
from preprocessing.corpus.rows import NO_GROUP
from preprocessing.corpus.sources import Plan
from preprocessing.job import quality as suspects
from preprocessing.job.quality import DROPPED, Sieve, Where
from preprocessing.job.rows import Rows
from preprocessing.job.splits import Groups
from preprocessing.job.splitting import NameOf


def decide(
    rows: Rows, quality: QualityConfig, splits: SplitConfig, seed: int, where: Where, name_of: NameOf = hex
) -> tuple[np.ndarray, dict[str, Any]]:
    """int8 per row, with and without labels: its split, or ``DROPPED``; and what was found, for the manifest.

    Raises ``DataError`` where a policy says ``error``, naming the first row it applies to.
    """
    without = rows.named == UNLABELLED_NUMBER
    if not without.any():
        return suspects.decide(rows, quality, splits, seed, where, name_of)
    labelled = rows.of(~without)
    decided, report = suspects.decide(labelled, quality, splits, seed, where, name_of)
    decision = np.empty(len(without), np.int8)
    decision[~without] = decided
    decision[without], found = decide_unlabelled(
        rows.of(without), labelled, decided, quality, where, folds=splits.folds > 0
    )
    dropped = report["dropped"]
    report["dropped"] = dropped | {name: dropped.get(name, 0) + count for name, count in found["dropped"].items()}
    return decision, report | {UNLABELLED: found}


def decide_unlabelled(
    rows: Rows, labelled: Rows, decided: np.ndarray, quality: QualityConfig, where: Where, *, folds: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """int8 per row without a label: ``UNLABELLED_NUMBER`` or ``DROPPED``; and what was found.

    ``decided`` are the splits of the ``labelled`` rows. With ``folds`` all of them are measured once, those of training
    too. Raises ``DataError`` as ``decide`` does, and where all texts
    are empty.
    """
    empty = rows.num_tokens == 0
    if empty.all():
        first = where(int(rows.row.min()))
        raise DataError(
            f"{first}: no token is left of this text, nor of any other without a label; check text.stop_words"
        )
    found: dict[str, Any] = {
        "rows": len(empty),
        "empty": int(empty.sum()),
        "missing_text": int(rows.missing.astype(bool).sum()),
    }
    sieve = Sieve(rows.row, where, np.ones(len(empty), bool))
    sieve.apply("empty", quality.empty, empty, "no token is left of its text")
    full = labelled.num_tokens > 0
    shared = {
        name: among(rows.text_hash, labelled.text_hash[full & (decided == number)]) & ~empty
        for number, name in enumerate(SPLITS)
    }
    found["shared"] = {name: int(rows_of.sum()) for name, rows_of in shared.items()}
    for name in (*((TRAIN,) if folds else ()), VALIDATION, TEST):
        sieve.apply("leaks", quality.leaks, shared[name], f"{name} holds an equal text, and this one has no label")
    if rows.group is not None and labelled.group is not None:
        measured = labelled.group[(decided >= 0) & (folds | (decided != SPLITS.index(TRAIN)))]
        of_measured = (rows.group != NO_GROUP) & among(rows.group, measured)
        found["groups_measured"] = int(of_measured.sum())
        sieve.apply("leaks", quality.leaks, of_measured, "it has no label, and its group is one of validation or test")
    again = repeats(rows, sieve.alive & ~empty)
    found["duplicates"] = int(again.sum())
    sieve.apply("duplicates", quality.duplicates, again, "an equal text without a label stands before it")
    found["dropped"] = sieve.dropped
    return np.where(sieve.alive, UNLABELLED_NUMBER, DROPPED).astype(np.int8), found


def among(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool per value: whether it is one of ``others``. Those are sorted, so that memory grows with ``values`` once."""
    if not len(others):
        return np.zeros(len(values), bool)
    ordered = np.sort(others)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def repeats(rows: Rows, compared: np.ndarray) -> np.ndarray:
    """bool per row: a lower one of those that are compared has the same tokens."""
    result = np.zeros(len(compared), bool)
    inside = np.flatnonzero(compared)
    result[inside] = Groups.of(rows.text_hash[inside], rows.row[inside]).repeats()
    return result


def check(decision: np.ndarray, rows: Rows, plans: list[Plan]) -> None:
    """Refuse a source of which ``source.unlabelled_path`` names files, but no row is left. Raises ``DataError``."""
    files = [plan for plan in plans if plan.file.is_unlabelled]
    names = ", ".join(plan.file.name for plan in files)
    if files and not any(plan.rows for plan in files):
        raise DataError(f"{names}: holds no text; give it rows, or leave it out of source.unlabelled_path")
    if files and not (decision == UNLABELLED_NUMBER).any():
        read = int((rows.named == UNLABELLED_NUMBER).sum())
        why = f"the policies of quality drop all {read:,}" if read else "source.where fits none"
        raise DataError(f"{names}: no text without a label is left: {why}; mend that, or source.unlabelled_path")
