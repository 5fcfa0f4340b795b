# SPDX-License-Identifier: Apache-2.0
"""Which rows were training texts: the same ids in the same order, as the shards of the training have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.data.views import held_out
from harness.rundir.records import read_config
from preprocessing.base import arrays
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.randomness import splitmix64
from preprocessing.base.split_names import TRAIN
from preprocessing.dataset.shards import Manifest, Split, read_manifest

MOST_TOKENS = 1_000_000_000
"""Tokens of the training up to which its texts are looked through, in about a minute of one core."""


def trained_on(run: str | Path, fingerprint: str) -> tuple[str, Manifest] | None:
    """The dataset of a run and what it held out, as the run saw them; None where the dataset is gone, or another."""
    try:
        config = read_config(run)
        manifest = read_manifest(config["data"])
        if manifest.fingerprint == fingerprint:
            return config["data"], held_out(manifest, config.get("fold"), config["data"])
    except (ConfigError, DataError, KeyError):
        pass  # a bundle alone, or a dataset that has moved: nothing is compared, and that is said
    return None


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
    """How many of these rows are texts that the run was trained on; None where that cannot be known.

    ``fingerprint`` is that of its dataset.
    """
    found = trained_on(run, fingerprint)
    if found is None or sum(shard.tokens for shard in found[1].splits[TRAIN]) > MOST_TOKENS:
        return None
    try:
        return int(np.isin(hashes, hashes_of(Split(*found, TRAIN))).sum())
    except DataError:
        return None  # shards that are gone or damaged
