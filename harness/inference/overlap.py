# SPDX-License-Identifier: Apache-2.0
"""How many evaluated rows are texts that a run has learned from: as labelled rows, as rows without labels that a
teacher taught, or as rows of the run whose weights it started from.

Equal ids are equal texts, but for unknown words, which all have one id: a text that holds some is compared only if it
has ``MIN_KNOWN_WORDS`` known ones too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from harness.config import LANGUAGE_MODEL
from harness.data.run_rows import hold_out
from harness.rundir.bundle_files import bundle_directory, read_info
from harness.rundir.records import read_run_config
from padless.core import arrays
from padless.core.errors import ConfigError, DataError
from padless.core.randomness import splitmix64
from padless.core.split_names import TRAIN, UNLABELLED
from preprocessing.dataset.shards import Split
from preprocessing.dataset.views import open_split, read_data
from preprocessing.text.vocabulary import UNK

MAX_TOKENS = 1_000_000_000
"""Up to this many training tokens, texts are searched for overlap; that takes about a minute on one core."""
MIN_KNOWN_WORDS = 8


def hash_texts(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint64 ``[texts]``: a hash of each text ``ids[offsets[i]:offsets[i + 1]]``; 0 for one that cannot be compared."""
    num_unknown = arrays.segment_sums((ids == UNK).astype(np.uint64), offsets)
    num_known = np.diff(offsets).astype(np.uint64) - num_unknown
    hashes = arrays.segment_hashes(splitmix64(ids), offsets)
    return np.where((num_unknown == 0) | (num_known >= MIN_KNOWN_WORDS), hashes, 0)


def count_training_texts(hashes: np.ndarray, run: str | Path) -> int | None:
    """How many of these ``hash_texts`` are those of texts that a run has learned from.

    None if unknown: a bundle without its run, or a dataset that is missing, damaged, changed or too large.
    """
    hashes = hashes[hashes != 0]
    is_training = np.zeros(len(hashes), bool)
    try:
        for split in list_learned_splits(run):
            blocks = (arrays.unpad_segments(block.ids, block.length) for block in split.blocks)
            is_training |= np.isin(hashes, np.concatenate([hash_texts(*block) for block in blocks]))
    except (ConfigError, DataError, KeyError):
        return None
    return int(is_training.sum())


def list_learned_splits(run: str | Path) -> Iterator[Split]:
    """The splits whose texts the weights of a run have learned from. Raises ``DataError`` if one is not there any more,
    has changed, or is too large. Of the run that the weights started from, if it is there and its ids are the same.
    """
    config, info = read_run_config(run), read_info(bundle_directory(run))
    data, manifest = config["data"], read_data(config["data"])
    if manifest.fingerprint != info.dataset:
        raise DataError(f"{data}: is not the dataset of {run} any more")
    has_unlabelled = info.task == LANGUAGE_MODEL or config.get("teacher") is not None
    manifest = hold_out(manifest, config.get("fold"), data)
    for name in (TRAIN, UNLABELLED) if has_unlabelled else (TRAIN,):
        if manifest.tokens(name) > MAX_TOKENS:
            raise DataError(f"{data}: has too many tokens to be compared")
        if manifest.rows(name):
            yield open_split(data, manifest, name).read_unmapped()
    if info.started_from is not None:
        with suppress(ConfigError, DataError, KeyError):
            first_run = config.get("init", {}).get("weights") or f"{config['run']}-pretrained"
            if read_info(bundle_directory(first_run)).text_hash == info.text_hash:
                yield from list_learned_splits(first_run)
