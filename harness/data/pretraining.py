# SPDX-License-Identifier: Apache-2.0
"""The rows of a pretraining: those of ``train`` and ``unlabelled`` as one split with one order, and no test rows.

A manifest says which shards a split has, so a manifest whose ``train`` has the shards of both is all that order,
loader, staging, plan and checks need to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.data.folds import held_out
from harness.settings.task import LANGUAGE_MODEL, Task
from preprocessing.base.errors import DataError
from preprocessing.base.split_names import TRAIN, UNLABELLED, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, ShardInfo


@dataclass(frozen=True)
class PretrainingManifest(Manifest):
    """A dataset as a pretraining sees it; its fingerprint is still that of the dataset."""

    dataset: str = ""
    """The dataset's fingerprint."""

    @property
    def fingerprint(self) -> str:
        """That of the dataset on the disk."""
        return self.dataset


def rows_of_task(task: Task, manifest: Manifest, data: str | Path, fold: int | None = None) -> Manifest:
    """The manifest of the dataset ``data`` as a task sees it that holds out ``fold``, if it does.

    Raises ``DataError`` if there is nothing to predict, and as ``held_out`` does for a fold that is not there.
    """
    manifest = held_out(manifest, fold, data)
    return pretraining_rows(manifest, data) if task == LANGUAGE_MODEL else manifest


def pretraining_rows(manifest: Manifest, data: str | Path) -> PretrainingManifest:
    """``train`` with the rows of ``train`` and ``unlabelled``, and ``validation``; labels are forgotten.

    Raises ``DataError`` without rows to pretrain on or to validate on, or if none of them has two tokens.
    """
    held = [replace(info, labels={}) for name in (TRAIN, UNLABELLED) for info in manifest.splits.get(name, [])]
    splits = {TRAIN: held, VALIDATION: [replace(info, labels={}) for info in manifest.splits.get(VALIDATION, [])]}
    for name, what in ((TRAIN, "to pretrain on"), (VALIDATION, "to measure perplexity on")):
        check_rows(splits[name], Path(data, MANIFEST), what)
    kept = {one.name: getattr(manifest, one.name) for one in fields(Manifest)}
    return PretrainingManifest(**{**kept, "splits": splits}, dataset=manifest.fingerprint)


def check_rows(shards: Sequence[ShardInfo], path: Path, what: str) -> None:
    """Raise ``DataError`` if no row of ``shards`` has a token to predict."""
    rows, tokens = sum(info.rows for info in shards), sum(info.tokens for info in shards)
    if not rows:
        names = "train or unlabelled" if what == "to pretrain on" else VALIDATION
        raise DataError(
            f"{path}: no rows {what}: there is no split {names}; build a dataset that has one with "
            "`python -m preprocessing run`"
        )
    if tokens == rows:
        raise DataError(
            f"{path}: no row {what} has a second token, so there is nothing to predict; look at the texts and at "
            "text.stop_words"
        )
