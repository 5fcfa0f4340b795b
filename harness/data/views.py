# SPDX-License-Identifier: Apache-2.0
"""A dataset as a training sees it: with a fold held out, or with all its rows to pretrain on; and which texts it saw.

A manifest says which shards a split has, so a manifest with other shards under the names of the splits is all that
order, loader, staging, plan and checks need to know.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from harness.config import LANGUAGE_MODEL, Task
from harness.rundir.records import read_config
from preprocessing.base import arrays
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.randomness import splitmix64
from preprocessing.base.split_names import TRAIN, UNLABELLED, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, ShardInfo, Split, read_manifest


@dataclass(frozen=True)
class View(Manifest):
    """A manifest with other splits; its fingerprint is still that of the dataset on the disk."""

    dataset: str = ""
    fold: int | None = None
    """The fold that is validated on."""

    @property
    def fingerprint(self) -> str:
        """That of the dataset."""
        return self.dataset


def with_splits(manifest: Manifest, splits: dict[str, list[ShardInfo]], fold: int | None = None) -> View:
    kept = {one.name: getattr(manifest, one.name) for one in fields(Manifest)}
    return View(**{**kept, "splits": splits}, dataset=manifest.fingerprint, fold=fold)


def held_out(manifest: Manifest, fold: int | None, data: str | Path) -> Manifest:
    """The manifest of the dataset ``data`` with ``fold`` as its validation, the others to train on; as it is for None.

    Raises ``DataError`` for a dataset without folds, ``ConfigError`` for a fold that it does not have.
    """
    if fold is None:
        return manifest
    check_folds(manifest, data, "fold")
    if fold >= manifest.folds:
        raise ConfigError(f"fold: {fold} is none of the {manifest.folds} folds of {data}; they count from 0")
    every = [info for name in (TRAIN, VALIDATION) for info in manifest.splits.get(name, [])]
    learned, measured = ([info for info in every if (info.fold == fold) is held] for held in (False, True))
    return with_splits(manifest, {**manifest.splits, TRAIN: learned, VALIDATION: measured}, fold)


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
    return manifest.fold if isinstance(manifest, View) else None


def rows_of_task(task: Task, manifest: Manifest, data: str | Path, fold: int | None = None) -> Manifest:
    """The manifest of the dataset ``data`` as a task sees it that holds out ``fold``, if it does.

    A pretraining learns from the rows of ``train`` and ``unlabelled`` as one split; labels are forgotten. Raises
    ``DataError`` where it has nothing to predict, and as ``held_out`` does for a fold that is not there.
    """
    manifest = held_out(manifest, fold, data)
    if task != LANGUAGE_MODEL:
        return manifest

    joined = {TRAIN: (TRAIN, UNLABELLED), VALIDATION: (VALIDATION,)}
    splits = {
        split: [replace(info, labels={}) for name in names for info in manifest.splits.get(name, [])]
        for split, names in joined.items()
    }
    for split, what in {TRAIN: "to pretrain on", VALIDATION: "to measure perplexity on"}.items():
        rows, tokens = (sum(getattr(info, key) for info in splits[split]) for key in ("rows", "tokens"))
        if not rows:
            raise DataError(
                f"{Path(data, MANIFEST)}: no rows {what}: there is no split {' or '.join(joined[split])}; build a "
                "dataset that has one with `python -m preprocessing run`"
            )
        if tokens == rows:
            raise DataError(
                f"{Path(data, MANIFEST)}: no row {what} has a second token, so there is nothing to predict; look at "
                "the texts and at text.stop_words"
            )
    return with_splits(manifest, splits)


MOST_TOKENS = 1_000_000_000
"""Tokens of the training up to which its texts are looked through, in about a minute of one core."""


def row_hashes(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 ``[rows]`` of rows ``ids[offsets[i]:offsets[i + 1]]``: equal where the ids are (but once in 2**64)."""
    lengths = np.diff(offsets)
    place = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    weights = splitmix64(np.arange(int(lengths.max(initial=1)), dtype=np.uint64)) | np.uint64(1)
    return splitmix64(arrays.segment_sums(splitmix64(ids) * weights[place], offsets) + lengths.astype(np.uint64))


def hashes_of(split: Split) -> np.ndarray:
    """``row_hashes`` of a split, in the order of its blocks."""
    found = []
    for block in split.blocks:
        inside = np.arange(block.ids.shape[1]) < block.length[:, None]
        found.append(row_hashes(block.ids[inside], np.concatenate([[0], np.cumsum(block.length, dtype=np.int64)])))
    return np.concatenate(found)


def training_texts(hashes: np.ndarray, run: str | Path, fingerprint: str) -> int | None:
    """How many of these rows are texts that the run was trained on; ``fingerprint`` is that of its dataset.

    None where that cannot be known: a bundle alone, a dataset that is gone, damaged or another, or too large.
    """
    try:
        config = read_config(run)
        manifest = read_manifest(config["data"])
        if manifest.fingerprint != fingerprint:
            return None
        manifest = held_out(manifest, config.get("fold"), config["data"])
        if sum(shard.tokens for shard in manifest.splits[TRAIN]) > MOST_TOKENS:
            return None
        return int(np.isin(hashes, hashes_of(Split(config["data"], manifest, TRAIN))).sum())
    except (ConfigError, DataError, KeyError):
        return None
