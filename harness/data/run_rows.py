# SPDX-License-Identifier: Apache-2.0
"""The rows that a run trains on: a view of its dataset, with a fold held out, or with all rows for pretraining; and
checks before a device is used, that these rows are complete and fit the configuration and the number of processes.

A manifest lists the parts of each split, so a view is a manifest with other parts in its splits. Order and loader need
nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import LANGUAGE_MODEL, RunConfig
from harness.data.order import OrderSpec, steps_over
from harness.data.targets import find_teacher_info
from padless.core.errors import ConfigError, DataError
from padless.core.split_names import TRAIN, UNLABELLED, VALIDATION
from preprocessing.dataset.remote import join, local, open_split
from preprocessing.dataset.shards import MANIFEST, Manifest, check_vocabulary
from preprocessing.dataset.views import read_data, with_splits


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


def rows_of_task(config: RunConfig) -> Manifest:
    """The view of its dataset for the task of a run, with ``fold`` held out if given.

    Pretraining uses ``train`` and ``unlabelled`` as one split without labels. Raises ``DataError`` if it has nothing to
    predict, and as ``hold_out`` does for a missing fold.
    """
    data = config.data
    manifest = hold_out(read_data(data), config.fold, data)
    if config.task != LANGUAGE_MODEL:
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
    manifest = rows_of_task(config)
    teacher_info = find_teacher_info(config, manifest.fingerprint)
    if teacher_info is None:
        return manifest
    splits = {name: parts for name, parts in manifest.splits.items() if name != UNLABELLED}
    return with_splits(manifest, {**splits, TRAIN: [*manifest.splits[TRAIN], *manifest.splits.get(UNLABELLED, [])]})


def check_data(config: RunConfig, world_size: int) -> Manifest:
    """Check that the dataset is complete, by its manifest, its vocabulary and the size of every shard, that every
    process has a row in every step, and that options fit the labels; returns the view of the dataset that a run trains
    on. Raises ``DataError`` or ``ConfigError`` with the first problem.

    Hashes and rows of a block are checked when it is first read.
    """
    manifest = rows_of_run(config)
    check_vocabulary(local(config.data), manifest)
    for name in dict.fromkeys((TRAIN, VALIDATION, *manifest.names)):
        open_split(config.data, manifest, name)
    rows = manifest.rows(TRAIN)
    smallest = rows // steps_over(rows, config.global_batch)
    if smallest < world_size:
        raise ConfigError(
            f"global_batch: steps of {smallest} rows cannot be shared by {world_size} processes; raise it or start "
            "fewer"
        )
    check_options(config, manifest)
    return manifest


def order_spec(config: RunConfig) -> OrderSpec:
    """The order of training rows for a configuration."""
    return OrderSpec(
        seed=config.seed,
        global_batch=config.global_batch,
        length_noise=config.order.length_noise,
    )


def check_options(config: RunConfig, manifest: Manifest) -> None:
    """Raise ``ConfigError`` for an option without effect, or weights that do not fit the labels."""
    threshold, labels = config.evaluation.threshold, manifest.labels
    if config.task == LANGUAGE_MODEL:
        return
    for label in config.optim.class_weights:
        if label not in labels:
            names = ", ".join(labels)
            raise ConfigError(f"optim.class_weights.{label}: the dataset has no such label; it has {names}")
    if threshold not in ("auto", "fixed") and len(labels) > 2 and not manifest.has_label_sets:
        raise ConfigError(
            f"evaluation.threshold: {threshold} is for two labels, the dataset has {len(labels)} and the most probable "
            "one is predicted; leave it at auto"
        )
