# SPDX-License-Identifier: Apache-2.0
"""Counts the tokens of each part that are learned from, and makes the vocabulary of all."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.schema import typed
from preprocessing.base.split_names import TRAIN_NUMBER, UNLABELLED_NUMBER
from preprocessing.base.terminal import Screen, public
from preprocessing.base.untrusted import read_json
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, read_manifest
from preprocessing.job import engine, parts
from preprocessing.job.assign import AssignedParts
from preprocessing.job.executors import Workers
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import UNK, Counts, Vocabulary, count_pieces, freeze, freeze_pieces, merge_counts

BUNDLE, BUNDLE_INDEX = "bundle", "bundle.json"
"""A run's folder with its bundle, and the file that says what is in it."""
BASE = "vocabulary_base"
"""Key of ``vocabulary.base`` in a manifest's provenance."""
MAX_COUNTS_IN_MEMORY = 16
"""Counts of parts that are held before they are merged."""


@dataclass(frozen=True)
class CountedPart(engine.Part[int]):
    """The tokens of a part in some splits, to be counted; the result is how many different ones there are."""

    number: int
    assigned: AssignedParts
    splits: tuple[int, ...]

    result: ClassVar[type] = int

    def make(self) -> tuple[int, dict[str, str]]:
        """Store the tokens that occur, with their counts."""
        work = self.assigned.work
        rows, types = parts.load(work, self.number), parts.load_types(work, self.number)
        is_counted = np.isin(self.assigned.load(self.number)["split"], self.splits)
        is_token_counted = np.repeat(is_counted, np.diff(rows["offsets"]))
        counts = np.bincount(rows["codes"][is_token_counted], minlength=len(types))
        occurring = np.flatnonzero(counts)
        path = parts.file_of(self.root, self.number, "counts")
        arrays.write_batch(path, {"types": types.take(occurring), "counts": counts[occurring]})
        return len(occurring), {path.name: atomic.sha256_file(path)}


def count_all(assigned: AssignedParts, workers: Workers, screen: Screen, *, unlabelled: bool) -> Counts:
    """How often each token occurs in the training split, and with ``unlabelled`` in the unlabelled one too."""
    splits = (TRAIN_NUMBER, UNLABELLED_NUMBER) if unlabelled else (TRAIN_NUMBER,)
    key = hashlib.sha256(json.dumps([assigned.hash, splits]).encode()).hexdigest()
    folder, size = assigned.work / "parts", (assigned.num_labelled + assigned.num_unlabelled) // assigned.num_parts
    task = partial(CountedPart, key, folder, size=size, assigned=assigned, splits=splits)
    tasks = [task(folder / f"{number:06d}-counts.json", number=number) for number in range(assigned.num_parts)]
    with engine.show_progress("count", size * len(tasks), screen.quiet) as progress:
        deque(engine.run(tasks, workers, progress), maxlen=0)
    total = list[Counts]()
    for number in range(assigned.num_parts):
        batch = parts.read_batch(parts.file_of(folder, number, "counts"))
        total.append(Counts(batch["types"], batch["counts"].to_numpy()))
        if len(total) > MAX_COUNTS_IN_MEMORY:
            total = [merge_counts(total)]
    return merge_counts(total)


class BundleIndex(TypedDict):
    """The fields of ``bundle.json`` that are read here; the harness defines the format."""

    text: dict[str, Any]
    vocabulary_hash: str


def read_base(address: str, pipeline: TextPipeline) -> Vocabulary:
    """``vocabulary.base``: the vocabulary of a run, a bundle or a dataset, for texts that go through ``pipeline``.

    Raises ``ConfigError`` for what is no base or has other text settings, ``DataError`` for a damaged one.
    """
    root = remote.local(address) if addresses.is_remote(address) else Path(address)
    if (root / MANIFEST).exists():
        manifest = read_manifest(root)
        text, digest = manifest.text, manifest.vocabulary_hash
    else:
        root = root if (root / BUNDLE_INDEX).exists() else root / BUNDLE
        index = root / BUNDLE_INDEX
        if not index.exists():
            problem = "there is no dataset, no bundle and no run that has finished an epoch; name the directory of one"
            raise ConfigError(f"vocabulary.base: {address}: {problem}")
        hint = "restore it, or name another vocabulary.base"
        content: BundleIndex = typed(BundleIndex, read_json(index, hint), str(index), hint)
        text, digest = content["text"], content["vocabulary_hash"]
    base = TextPipeline.from_json(text, root)
    if base.hash != pipeline.hash:
        base_settings = {**asdict(base.spec), **base.resources}
        settings = {**asdict(pipeline.spec), **pipeline.resources}
        changes = [
            f"text.{key} to {json.dumps(base_settings.get(key))} (now {json.dumps(settings.get(key))})"
            for key in {**base_settings, **settings}
            if base_settings.get(key) != settings.get(key)
        ]
        advice = " and ".join(changes) or "text.stop_words to the same words"
        raise ConfigError(f"vocabulary.base: {address}: it was made with other text settings; set {advice}")
    vocabulary = Vocabulary.read(root / VOCABULARY)
    if vocabulary.hash != digest:
        raise DataError(f"{root / VOCABULARY}: not the vocabulary of its dataset or bundle; restore it")
    return vocabulary


def freeze_vocabulary(
    words: Counts, config: PreprocessConfig, base: Vocabulary | None, screen: Screen
) -> tuple[Vocabulary, dict[str, int]]:
    """The vocabulary for texts with these ``words``, and their ``statistics.vocabulary``: how many tokens there are,
    words or pieces of words, and how many have no id.

    Prints on ``screen`` the share that a base covers. Raises ``DataError`` when no token of the texts is in it.
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
    if base:
        cover = f"{1 - num_unknown / max(num_tokens, 1):.1%} of the tokens"
        screen.say(f"vocabulary: the {len(base):,} ids of {public(str(settings.base))} cover {cover}")
    return vocabulary, {"tokens_counted": num_tokens, "tokens_left_out": num_unknown}
