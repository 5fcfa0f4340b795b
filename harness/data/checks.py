# SPDX-License-Identifier: Apache-2.0
"""Checks before a device is touched: whether the dataset is whole, and fits the configuration and the processes."""

from __future__ import annotations

from pathlib import Path

from harness.config import RunConfig
from harness.data.order import OrderSpec, step_rows, width_groups
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.split_names import TEST, TRAIN, VALIDATION
from preprocessing.dataset.shards import MANIFEST, Manifest, open_split, read_manifest
from preprocessing.dataset.verification import verify_hashes

HASH_LIMIT_BYTES = 4 << 30
"""Up to this size of all shards, their sha256 is checked before training; beyond it only sizes, schemas and footers."""


def check_dataset(data: str | Path, *, hashes: bool = True) -> Manifest:
    """Read the manifest and check every shard that it names; returns the manifest.

    ``hashes``: also read and hash the shards' bytes, up to ``HASH_LIMIT_BYTES``. Raises ``DataError`` with the first
    thing that is wrong.
    """
    manifest = read_manifest(data)
    for split in (TRAIN, VALIDATION, *([TEST] if manifest.splits.get(TEST) else [])):
        open_split(data, manifest, split)
    size = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    if hashes and size <= HASH_LIMIT_BYTES:
        for problem in verify_hashes(data, manifest):
            raise DataError(problem)
    return manifest


def check_fit(config: RunConfig, manifest: Manifest, world_size: int) -> None:
    """Check that every process gets a row at every step. Raises ``ConfigError``, or ``DataError`` for too few rows."""
    rows = manifest.rows(TRAIN)
    if rows < world_size:
        raise DataError(f"{Path(config.data, MANIFEST)}: {rows} training rows for {world_size} processes; start fewer")
    if config.global_batch_tokens is not None:
        check_budget(config, manifest, world_size)
        return
    if config.global_batch < world_size:
        raise ConfigError(
            f"global_batch: {config.global_batch} rows cannot be shared by {world_size} processes; "
            f"raise it to at least {world_size} or start fewer"
        )
    steps = -(-rows // config.global_batch)
    if rows // steps < world_size:
        larger = range(config.global_batch, rows + 1)
        enough = next(batch for batch in larger if rows // -(-rows // batch) >= world_size)
        raise ConfigError(
            f"global_batch: {rows} rows in {steps} steps of near-equal size leave some of "
            f"{world_size} processes without a row; raise it to {enough} or start fewer"
        )


def check_budget(config: RunConfig, manifest: Manifest, world_size: int) -> None:
    """Check that the token budget holds the widest row, and gives every process a row at every step.

    Raises ``ConfigError``.
    """
    smallest, _ = step_rows(width_groups(manifest.rows_by_width(TRAIN), order_spec(config)))
    if smallest < world_size:
        raise ConfigError(
            f"global_batch_tokens: {config.global_batch_tokens} tokens make steps of {smallest} rows, which cannot be "
            f"shared by {world_size} processes; raise it or start fewer"
        )


def order_spec(config: RunConfig) -> OrderSpec:
    """The order of training that a configuration describes."""
    return OrderSpec(
        seed=config.seed,
        global_batch=config.global_batch,
        batch_tokens=config.global_batch_tokens,
        window_rows=config.order.window_rows,
        length_noise=config.order.length_noise,
    )


def check_useful(config: RunConfig, manifest: Manifest, world_size: int) -> None:
    """Raise ``ConfigError`` for an option that would do nothing here, or a weight for a label that does not exist."""
    for label in config.optim.class_weights:
        if label not in manifest.labels:
            known = ", ".join(manifest.labels)
            raise ConfigError(f"optim.class_weights.{label}: the dataset has no such label; it has {known}")
    if config.optim.gradient_compression != "none" and world_size == 1:
        raise ConfigError("optim.gradient_compression: one process sends no gradients; leave it at none")
    if config.evaluation.threshold != "fixed" and len(manifest.labels) > 2:
        raise ConfigError(
            f"evaluation.threshold: {config.evaluation.threshold} is for two labels, the dataset has "
            f"{len(manifest.labels)} and the most probable one is predicted; leave it at fixed"
        )
    per_epoch = sum(part.steps for part in width_groups(manifest.rows_by_width(TRAIN), order_spec(config)))
    total = config.epochs * per_epoch
    if config.profile and config.profile[1] >= total:
        raise ConfigError(f"profile: step {config.profile[1]} never comes: the run has {total} steps, from 0")
