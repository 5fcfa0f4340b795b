# SPDX-License-Identifier: Apache-2.0
"""Views of a dataset for training: with a fold held out, or with all rows for pretraining; and overlap of texts.

A manifest lists the parts of each split, so a view is a manifest with other parts in its splits. Order, loader,
staging and checks need nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import LANGUAGE_MODEL, RunConfig, Task
from harness.data.targets import find_teacher_info
from harness.rundir.records import read_run_config
from preprocessing.base import arrays
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.randomness import splitmix64
from preprocessing.base.split_names import TRAIN, UNLABELLED, VALIDATION
from preprocessing.dataset.remote import join
from preprocessing.dataset.shards import MANIFEST, Manifest, Split
from preprocessing.dataset.views import open_split, read_data, with_splits


def hold_out(manifest: Manifest, fold: int | None, data: str | Path) -> Manifest:
    """The manifest of the dataset ``data`` with ``fold`` as validation and the others for training; unchanged for None.

    Raises ``DataError`` for a dataset without folds, ``ConfigError`` for a fold that it does not have.
    """
    if fold is None:
        return manifest
    check_folds(manifest, data, "fold")
    if fold >= manifest.folds:
        raise ConfigError(f"fold: {fold} is none of the {manifest.folds} folds of {data}; they count from 0")
    parts_by_split: dict[str, Any] = {TRAIN: [], VALIDATION: []}
    for part in [*manifest.splits.get(TRAIN, []), *manifest.splits.get(VALIDATION, [])]:
        parts_by_split[VALIDATION if part.fold == fold else TRAIN].append(part)
    return with_splits(manifest, {**manifest.splits, **parts_by_split}, fold=fold)


def check_folds(manifest: Manifest, data: str | Path, key: str) -> None:
    """Raise ``DataError`` for a dataset without folds; ``key`` is the option that needs them."""
    if not manifest.folds:
        raise DataError(
            f"{join(data, MANIFEST)}: has no folds for --{key}; build the dataset with --splits.folds 5, or leave the "
            "key out"
        )


def rows_of_task(task: Task, manifest: Manifest, data: str | Path, fold: int | None = None) -> Manifest:
    """The view of the dataset ``data`` for a task, with ``fold`` held out if given.

    Pretraining uses ``train`` and ``unlabelled`` as one split without labels. Raises ``DataError`` if it has nothing to
    predict, and as ``hold_out`` does for a missing fold.
    """
    manifest = hold_out(manifest, fold, data)
    if task != LANGUAGE_MODEL:
        return manifest

    splits: dict[str, Any] = {TRAIN: [], VALIDATION: []}
    for name, split in {TRAIN: TRAIN, UNLABELLED: TRAIN, VALIDATION: VALIDATION}.items():
        splits[split] += [replace(part, labels={}) for part in manifest.splits.get(name, [])]
    view = with_splits(manifest, splits)
    for split, names in {TRAIN: f"{TRAIN} or {UNLABELLED}", VALIDATION: VALIDATION}.items():
        rows, purpose = view.rows(split), "to pretrain on" if split == TRAIN else "to measure perplexity on"
        if not rows:
            raise DataError(
                f"{join(data, MANIFEST)}: no rows {purpose}: there is no split {names}; build a dataset that has one "
                "with `padless prepare`"
            )
        if view.tokens(split) == rows:
            raise DataError(
                f"{join(data, MANIFEST)}: no row {purpose} has a second token, so there is nothing to predict; look at "
                "the texts and at text.stop_words"
            )
    return view


def rows_of_run(config: RunConfig) -> Manifest:
    """The view of its dataset that a run trains on: where a teacher has taught, with its rows without labels in
    ``train``.

    Raises ``DataError`` as ``rows_of_task`` and ``find_teacher_info`` do.
    """
    manifest = rows_of_task(config.task, read_data(config.data), config.data, config.fold)
    teacher_info = find_teacher_info(vars(config), manifest.fingerprint)
    if teacher_info is None or not teacher_info.is_used:
        return manifest
    splits = {name: parts for name, parts in manifest.splits.items() if name != UNLABELLED}
    return with_splits(manifest, {**splits, TRAIN: [*manifest.splits[TRAIN], *manifest.splits.get(UNLABELLED, [])]})


MAX_TOKENS = 1_000_000_000
"""Up to this many training tokens, texts are searched for overlap; that takes about a minute on one core."""


def row_hashes(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 ``[rows]``: hash of each row ``ids[offsets[i]:offsets[i + 1]]``; equal rows have equal hashes."""
    return arrays.segment_hashes(splitmix64(ids), offsets)


def read_row_hashes(split: Split) -> np.ndarray:
    """``row_hashes`` of a split, in the order of its blocks."""
    return np.concatenate([row_hashes(*arrays.unpad_segments(block.ids, block.length)) for block in split.blocks])


def training_texts(hashes: np.ndarray, run: str | Path, fingerprint: str) -> int | None:
    """Number of these rows that are also training texts of the run; ``fingerprint`` is that of its dataset.

    None if unknown: a bundle without its run, or a dataset that is missing, damaged, changed or too large.
    """
    try:
        config = read_run_config(run)
        manifest = read_data(config["data"])
        if manifest.fingerprint != fingerprint:
            return None
        manifest = hold_out(manifest, config.get("fold"), config["data"])
        if manifest.tokens(TRAIN) > MAX_TOKENS:
            return None
        return int(np.isin(hashes, read_row_hashes(open_split(config["data"], manifest, TRAIN))).sum())
    except (ConfigError, DataError, KeyError):
        return None
