# SPDX-License-Identifier: Apache-2.0
"""One fold of a dataset held out: its rows are the validation, those of all other folds are trained on.

All rows of a shard are in one fold, so a manifest with other shards under the names of the splits is all that order,
loader, staging, plan and checks need to know (as for a pretraining).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.settings.task import LANGUAGE_MODEL, Task
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import TRAIN, UNLABELLED, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, ShardInfo


@dataclass(frozen=True)
class HeldOut(Manifest):
    """A dataset as a training sees it that holds out a fold; its fingerprint is still that of the dataset."""

    dataset: str = ""
    """The dataset's fingerprint."""
    fold: int = 0
    """The fold that is validated on."""

    @property
    def fingerprint(self) -> str:
        """That of the dataset on the disk."""
        return self.dataset


def held_out(manifest: Manifest, fold: int | None, data: str | Path) -> Manifest:
    """The manifest of the dataset ``data`` with ``fold`` as its validation; as it is for None.

    Raises ``DataError`` for a dataset without folds, ``ConfigError`` for a fold that it does not have.
    """
    if fold is None:
        return manifest
    check_folds(manifest, data, "fold")
    if fold >= manifest.folds:
        raise ConfigError(f"fold: {fold} is none of the {manifest.folds} folds of {data}; they count from 0")
    every = [info for name in (TRAIN, VALIDATION) for info in manifest.splits.get(name, [])]
    splits = dict(manifest.splits) | {
        TRAIN: [info for info in every if info.fold != fold],
        VALIDATION: [info for info in every if info.fold == fold],
    }
    kept = {one.name: getattr(manifest, one.name) for one in fields(Manifest)}
    return HeldOut(**{**kept, "splits": splits}, dataset=manifest.fingerprint, fold=fold)


def check_folds(manifest: Manifest, data: str | Path, key: str) -> None:
    """Raise ``DataError`` for a dataset without folds, where ``key`` asks for them."""
    if not manifest.folds:
        raise DataError(
            f"{Path(data, MANIFEST)}: has no folds for --{key}; build the dataset with --splits.folds 5, or leave the "
            "key out"
        )


def as_trained(manifest: Manifest, fold: int | None, fingerprint: str, data: str | Path) -> Manifest:
    """A dataset as weights saw it that held out ``fold`` of the dataset with this fingerprint; another as it is."""
    return held_out(manifest, fold if manifest.fingerprint == fingerprint else None, data)


def fold_of(manifest: Manifest) -> int | None:
    """The fold that a manifest holds out; None if it is that of a whole dataset."""
    return manifest.fold if isinstance(manifest, HeldOut) else None


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
