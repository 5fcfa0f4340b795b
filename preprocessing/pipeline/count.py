# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of a dataset: counts the tokens that are learned from, or takes the vocabulary of another one."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from padless.core.errors import ConfigError, DataError
from padless.core.jobs import Workers
from padless.core.schema import convert_json
from padless.core.split_names import TRAIN_NUMBER, UNLABELLED_NUMBER
from padless.core.untrusted import read_json
from preprocessing.config import PreprocessConfig
from preprocessing.dataset import remote
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, read_manifest
from preprocessing.pipeline import tokenize
from preprocessing.pipeline.assign import AssignedParts
from preprocessing.sources import addresses
from preprocessing.text.encoder import mask_kept
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.vocabulary import (
    UNK,
    TokenCounts,
    Vocabulary,
    count_pieces,
    freeze,
    freeze_pieces,
    merge_counts,
)

BUNDLE, BUNDLE_INDEX = "bundle", "bundle.json"
"""A run's folder with its bundle, and the file that describes it."""
BASE = "vocabulary_base"
"""Key of ``vocabulary.base`` in a manifest's provenance."""
MAX_COUNTS_IN_MEMORY = 16
"""Counts of parts that are held before they are merged."""


def count_part(assigned: AssignedParts, spec: TextSpec, number: int) -> TokenCounts:
    """How often each token of a part occurs in rows of training and without a label, as far as shards hold them.

    Of words that become pieces, those are counted that shards would hold if each were one piece.
    """
    rows, types = tokenize.load_part(assigned.folder, number), tokenize.load_types(assigned.folder, number)
    is_counted = np.isin(assigned.load(number)["split"], (TRAIN_NUMBER, UNLABELLED_NUMBER))
    is_token_counted = np.repeat(is_counted, np.diff(rows["offsets"])) & mask_kept(rows["offsets"], spec)
    counts = np.bincount(rows["codes"][is_token_counted], minlength=len(types))
    occurring = np.flatnonzero(counts)
    return TokenCounts(types.take(occurring), counts[occurring])


def count_all(assigned: AssignedParts, spec: TextSpec, workers: Workers) -> TokenCounts:
    """How often each token occurs in the splits that are learned from: training, and unlabelled."""
    merged = list[TokenCounts]()
    numbers = range(len(assigned.rows_per_part))
    for _, counts in workers.map(partial(count_part, assigned, spec), numbers, step="count"):
        merged.append(counts)
        if len(merged) > MAX_COUNTS_IN_MEMORY:
            merged = [merge_counts(merged)]
    return merge_counts(merged)


class BundleIndex(TypedDict):
    """The fields of ``bundle.json`` that are read here; the harness defines the format."""

    text: dict[str, Any]
    vocabulary_hash: str


def read_base(address: str | None, pipeline: TextPipeline) -> Vocabulary | None:
    """``vocabulary.base``: the vocabulary of a run, a bundle or a dataset, for texts that go through ``pipeline``.

    Raises ``ConfigError`` for what is no base or has other text settings, ``DataError`` for a damaged one.
    """
    if address is None:
        return None
    root = remote.local(address) if addresses.is_remote(address) else Path(address)
    if (root / MANIFEST).exists():
        manifest = read_manifest(root)
        text, vocabulary_hash = manifest.text, manifest.vocabulary_hash
    else:
        root = root if (root / BUNDLE_INDEX).exists() else root / BUNDLE
        if not (root / BUNDLE_INDEX).exists():
            problem = "there is no dataset, no bundle and no run that has finished an epoch; name the directory of one"
            raise ConfigError(f"vocabulary.base: {address}: {problem}")
        path, hint = root / BUNDLE_INDEX, "restore it, or name another vocabulary.base"
        index: BundleIndex = convert_json(BundleIndex, read_json(path, hint), str(path), hint)
        text, vocabulary_hash = index["text"], index["vocabulary_hash"]
    base = TextPipeline.from_json(text, root)
    if base.hash != pipeline.hash:
        settings, base_settings = asdict(pipeline.spec), asdict(base.spec)
        different = [key for key in settings if settings[key] != base_settings[key]]
        keys = [f"text.{key} to {json.dumps(base_settings[key])}" for key in different or ["stop_words"]]
        problem = f"it was made with other text settings; set {' and '.join(keys)}"
        raise ConfigError(f"vocabulary.base: {address}: {problem}")
    vocabulary = Vocabulary.read(root / VOCABULARY)
    if vocabulary.hash != vocabulary_hash:
        raise DataError(f"{root / VOCABULARY}: not the vocabulary of its dataset or bundle; restore it")
    return vocabulary


def freeze_vocabulary(
    words: TokenCounts, config: PreprocessConfig, base: Vocabulary | None
) -> tuple[Vocabulary, dict[str, int]]:
    """The vocabulary for texts with these ``words``, and their ``statistics.vocabulary``: how many tokens there are,
    words or pieces of words, and how many have no id.

    Raises ``DataError`` when no token of the texts is in it.
    """
    settings, is_of_words, vocabulary = config.vocabulary, config.text.subwords == "none", base
    if vocabulary is None:
        make = freeze if is_of_words else freeze_pieces
        vocabulary = make(words, int(settings.min_count), settings.max_size)
    counts = words if is_of_words else count_pieces(words, vocabulary)
    num_tokens, is_unknown = int(counts.counts.sum()), vocabulary.lookup(counts.types) == UNK
    num_unknown = int(counts.counts[is_unknown].sum())
    if 0 < num_tokens == num_unknown:
        problem = f"none of the {num_tokens:,} tokens to learn from is in vocabulary.base {settings.base}"
        raise DataError(f"{problem}; name another")
    return vocabulary, {"tokens_counted": num_tokens, "tokens_left_out": num_unknown}
