# SPDX-License-Identifier: Apache-2.0
"""Which evaluated rows are texts that a run has learned from: as labelled rows, as rows without labels that a teacher
taught, or as rows of the run whose weights it started from.

Shards hold ids, and every unknown word has the same one. So equal ids are equal texts only where all words are known
and nothing was cut; of other rows the originals are read again, and their tokens compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from harness.config import LANGUAGE_MODEL
from harness.data.run_rows import hold_out
from harness.data.targets import find_teacher_info
from harness.rundir.bundle_files import bundle_directory, read_info
from harness.rundir.records import read_run_config
from padless.core import arrays
from padless.core.errors import ConfigError, DataError
from padless.core.randomness import splitmix64
from padless.core.split_names import TRAIN, UNLABELLED
from preprocessing.dataset.originals import find_originals
from preprocessing.dataset.shards import Split
from preprocessing.dataset.views import open_split, read_data
from preprocessing.pipeline.tokenize import hash_tokens
from preprocessing.text.encoder import Encoder
from preprocessing.text.vocabulary import UNK

MAX_TOKENS = 1_000_000_000
"""Up to this many training tokens, texts are searched for overlap; that takes about a minute on one core."""
ReadTexts: TypeAlias = Callable[[Sequence[int]], tuple[dict[int, str], str | None]]
"""The texts of rows by their numbers, and why some are missing."""


@dataclass(frozen=True)
class HashedRows:
    """Rows of texts, by the hashes of their ids."""

    numbers: np.ndarray
    """int64 ``[rows]``: in the source."""
    hashes: np.ndarray
    """uint64 ``[rows]``: of the ids."""
    is_exact: np.ndarray
    """bool ``[rows]``: rows with these ids have the same tokens."""


@dataclass(frozen=True)
class Overlap:
    """The number of evaluated rows that are training texts."""

    num_rows: int
    num_uncertain: int = 0
    """Rows that may be, too, since their ids are those of training texts."""
    reason: str | None = None
    """Why the originals of the uncertain rows were not compared."""


def hash_rows(ids: np.ndarray, offsets: np.ndarray, numbers: np.ndarray, max_tokens: int) -> HashedRows:
    """Rows ``ids[offsets[i]:offsets[i + 1]]``, of at most ``max_tokens`` ids."""
    num_unknown = arrays.segment_sums((ids == UNK).astype(np.uint64), offsets)
    is_exact = (num_unknown == 0) & (np.diff(offsets) < max_tokens)
    return HashedRows(numbers, arrays.segment_hashes(splitmix64(ids), offsets), is_exact)


def join_rows(parts: Sequence[HashedRows]) -> HashedRows:
    """The rows of all parts, at least one."""
    return HashedRows(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def hash_split(split: Split) -> HashedRows:
    """The rows of a split, in the order of its blocks."""
    max_tokens = split.manifest.text["spec"]["max_tokens"]
    blocks = [(*arrays.unpad_segments(block.ids, block.length), block.row) for block in split.blocks]
    return join_rows([hash_rows(*block, max_tokens) for block in blocks])


def find_training_texts(rows: HashedRows, read_texts: ReadTexts, encoder: Encoder, run: str | Path) -> Overlap | None:
    """The evaluated rows, encoded by ``encoder``, that are texts that a run has learned from.

    None if unknown: a bundle without its run, or a dataset that is missing, damaged, changed or too large.
    """
    is_equal, are_ids_equal = np.zeros((2, len(rows.hashes)), bool)
    texts, reasons = list[str](), list[str | None]()
    try:
        for split in list_learned_splits(run):
            trained = hash_split(split)
            is_shared = np.isin(rows.hashes, trained.hashes)
            is_equal |= is_shared & rows.is_exact
            are_ids_equal |= is_shared & ~rows.is_exact
            numbers = trained.numbers[np.isin(trained.hashes, rows.hashes[is_shared & ~rows.is_exact])]
            text_by_row, reason = find_originals(split.manifest, numbers.tolist())
            texts += text_by_row.values()
            reasons.append(reason)
    except (ConfigError, DataError, KeyError):
        return None
    text_by_row, reason = read_texts(rows.numbers[are_ids_equal].tolist())
    hashes, hashes_of_training = (hash_tokens(encoder.tokenizer([*part])) for part in (text_by_row.values(), texts))
    num_equal = int(np.isin(hashes, hashes_of_training).sum())
    reason = next(filter(None, [reason, *reasons]), None)
    num_uncertain = int(are_ids_equal.sum()) - num_equal if reason else 0
    return Overlap(int(is_equal.sum()) + num_equal, num_uncertain, reason if num_uncertain else None)


def list_learned_splits(run: str | Path) -> Iterator[Split]:
    """The splits whose texts the weights of a run have learned from. Raises ``DataError`` if one is not there any more,
    has changed, or is too large. Of the run that the weights started from, if it is there and its ids are the same.
    """
    config, info = read_run_config(run), read_info(bundle_directory(run))
    data, manifest = config["data"], read_data(config["data"])
    if manifest.fingerprint != info.dataset:
        raise DataError(f"{data}: is not the dataset of {run} any more")
    teacher = find_teacher_info(config, manifest.fingerprint)
    has_unlabelled = info.task == LANGUAGE_MODEL or (teacher is not None and teacher.is_used)
    manifest = hold_out(manifest, config.get("fold"), data)
    for name in (TRAIN, UNLABELLED) if has_unlabelled else (TRAIN,):
        if manifest.tokens(name) > MAX_TOKENS:
            raise DataError(f"{data}: has too many tokens to be compared")
        if manifest.rows(name):
            yield open_split(data, manifest, name)
    if info.started_from is not None:
        with suppress(ConfigError, DataError, KeyError):
            first_run = config.get("init", {}).get("weights") or f"{config['run']}-pretrained"
            if read_info(bundle_directory(first_run)).text_hash == info.text_hash:
                yield from list_learned_splits(first_run)
