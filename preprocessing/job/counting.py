# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: the tokens of training and unlabelled rows are counted part by part, merged and frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocessing.base.split_names import TRAIN_NUMBER, UNLABELLED_NUMBER
from preprocessing.job import parts
from preprocessing.job.executors import Workers
from preprocessing.text.vocabulary import Counts

MERGE_TOGETHER = 16
"""Counts that are held before they are merged."""


@dataclass(frozen=True)
class CountTask:
    """Count the tokens of some parts."""

    numbers: tuple[int, ...]
    starts: tuple[int, ...]
    work: Path
    splits: tuple[int, ...]
    """Numbers of the splits whose rows are counted."""


def count(task: CountTask) -> Counts:
    """How often each token occurs in the counted rows of some parts."""
    decision = np.load(task.work / "decision.npy", mmap_mode="r")
    found = []
    for number, start in zip(task.numbers, task.starts, strict=True):
        stored, types = parts.load(task.work, number), parts.load_types(task.work, number)
        counted = np.isin(decision[start : start + len(stored.row)], task.splits)
        per_token = np.repeat(counted, np.diff(stored.offsets))
        counts = np.bincount(stored.codes[per_token], minlength=len(types)).astype(np.int64)
        occurring = np.flatnonzero(counts)
        found.append(Counts(types.take(occurring), counts[occurring]))
    return found[0].merge(found[1:])


def count_all(starts: list[int], work: Path, workers: Workers, *, unlabelled: bool) -> Counts:
    """Count the training split and, if ``unlabelled``, that one too, and merge.

    The result does not depend on the order of merging.
    """
    splits = (TRAIN_NUMBER, UNLABELLED_NUMBER) if unlabelled else (TRAIN_NUMBER,)
    groups = parts.grouped(starts)
    tasks = [CountTask(group, tuple(starts[number] for number in group), work, splits) for group in groups]
    held: list[Counts] = []
    for _, counts in workers.map(count, tasks, what="count", tick=lambda alive: None):
        held.append(counts)
        if len(held) == MERGE_TOGETHER:
            held = [held[0].merge(held[1:])]
    return held[0].merge(held[1:])
