# SPDX-License-Identifier: Apache-2.0
"""Checks before a device is used: the dataset is complete and fits the configuration and the number of processes."""

from __future__ import annotations

from harness.config import LANGUAGE_MODEL, RunConfig
from harness.data.order import OrderSpec, steps_over
from harness.data.run_rows import rows_of_run
from padless.core.errors import ConfigError, DataError
from padless.core.split_names import TRAIN, VALIDATION
from preprocessing.dataset.inspect import verify_dataset
from preprocessing.dataset.remote import join
from preprocessing.dataset.shards import MANIFEST, Manifest, check_vocabulary
from preprocessing.dataset.views import home_of, open_split

HASH_LIMIT_BYTES = 4 << 30
"""Up to this total size, the sha256 of shards and every row are checked before training; beyond it, sizes and schemas
are, and hashes and rows when they are first read."""


def check_dataset(config: RunConfig, *, hashes: bool = True) -> Manifest:
    """Read the manifest and check every shard in it; returns the view of it that a run trains on.

    ``hashes``: also check the sha256 of shards and every row, up to ``HASH_LIMIT_BYTES``; of remote ones each block is
    checked when it is read. Raises ``DataError`` with the first problem.
    """
    manifest = rows_of_run(config)
    folder = home_of(config.data)
    check_vocabulary(folder, manifest)
    splits = [open_split(config.data, manifest, name) for name in dict.fromkeys((TRAIN, VALIDATION, *manifest.names))]
    size = sum(totals.bytes for name in manifest.splits for totals in manifest.splits[name])
    if hashes and size <= HASH_LIMIT_BYTES and not splits[0].is_remote:
        for problem in verify_dataset(folder):
            raise DataError(problem)
    return manifest


def check_fit(config: RunConfig, manifest: Manifest, world_size: int) -> None:
    """Check that every process has a row in every step. Raises ``ConfigError``, or ``DataError`` for too few rows."""
    rows = manifest.rows(TRAIN)
    if rows < world_size:
        raise DataError(
            f"{join(config.data, MANIFEST)}: {rows} rows of {TRAIN} for {world_size} processes; start fewer"
        )
    smallest = rows // steps_over(rows, config.global_batch)
    if smallest < world_size:
        raise ConfigError(
            f"global_batch: steps of {smallest} rows cannot be shared by {world_size} processes; raise it or start "
            "fewer"
        )


def order_spec(config: RunConfig) -> OrderSpec:
    """The order of training rows for a configuration."""
    return OrderSpec(
        seed=config.seed,
        global_batch=config.global_batch,
        length_noise=config.order.length_noise,
    )


def check_useful(config: RunConfig, manifest: Manifest) -> None:
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
