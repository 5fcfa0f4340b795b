# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of a dataset, the ids of each part, and the shards, each from one range of shuffle keys of all parts.

Labelled and unlabelled rows have separate ranges, so unlabelled rows change no shard of labelled ones.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from padless.core import arrays, atomic, jobs
from padless.core.errors import ConfigError, DataError
from padless.core.jobs import Workers
from padless.core.schema import convert_json
from padless.core.split_names import ALL_SPLITS, SPLITS, TRAIN_NUMBER, UNLABELLED, UNLABELLED_NUMBER, split_number
from padless.core.untrusted import read_json
from preprocessing.config import PreprocessConfig
from preprocessing.dataset import remote
from preprocessing.dataset.index import ShardInfo, Totals, write_index
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, Block, id_dtype, read_manifest, write_shard
from preprocessing.pipeline import tokenize
from preprocessing.pipeline.assign import AssignedParts
from preprocessing.pipeline.parts import hash_of
from preprocessing.text.encoder import mask_kept, truncate
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.vocabulary import UNK, TokenCounts, Vocabulary, freeze, merge_counts

BUNDLE, BUNDLE_INDEX = "bundle", "bundle.json"
"""A run's folder with its bundle, and the file that describes it."""
BASE = "vocabulary_base"
"""Key of ``vocabulary.base`` in a manifest's provenance."""
MAX_COUNTS_IN_MEMORY = 16
"""Counts of parts that are held before they are merged."""
NO_FOLD = -1
"""The fold of rows that have none: test rows, unlabelled rows, rows that are left out."""
WIDTH_STEP = 4
MAX_PADDING = 0.15
"""Share of the ids of shards."""
MIN_SAVED_SHARE, MIN_SAVED_IDS = 0.005, 2048
"""Share and number of the ids that a width must save; each makes more, smaller shards."""
MAX_IDS_IN_MEMORY = 1 << 21
"""Of a task that makes shards."""
MIN_TASKS = 64
"""How many tasks there are before one makes the shards of several ranges: each task reads in all parts."""

Lengths = dict[str, tuple[dict[int, int], int]]
"""Split -> its rows by their number of tokens before truncation, and how many of its ids are ``<unk>``."""


def count_part(assigned: AssignedParts, spec: TextSpec, number: int) -> TokenCounts:
    """How often each token of a part occurs in rows of training and without a label, as far as shards hold them."""
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
    root = remote.local(address)
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
    counts: TokenCounts, config: PreprocessConfig, base: Vocabulary | None
) -> tuple[Vocabulary, dict[str, int]]:
    """The vocabulary for texts with these tokens, and their ``statistics.vocabulary``: how many tokens there are, and
    how many have no id.

    Raises ``DataError`` when no token of the texts is in it.
    """
    settings = config.vocabulary
    vocabulary = base or freeze(counts, int(settings.min_count), settings.max_size)
    num_tokens, is_unknown = int(counts.counts.sum()), vocabulary.lookup(counts.types) == UNK
    num_unknown = int(counts.counts[is_unknown].sum())
    if 0 < num_tokens == num_unknown:
        problem = f"none of the {num_tokens:,} tokens to learn from is in vocabulary.base {settings.base}"
        raise DataError(f"{problem}; name another")
    return vocabulary, {"tokens_counted": num_tokens, "tokens_left_out": num_unknown}


@dataclass(frozen=True)
class EncodedPart(jobs.Task[Lengths]):
    """The ids of a part's rows, to be looked up; those that stand for an empty text are not counted as ``<unk>``."""

    number: int
    vocabulary: Path
    assigned: AssignedParts
    spec: TextSpec

    result: ClassVar[Any] = Lengths

    def run(self) -> tuple[Lengths, dict[str, str]]:
        """Store the ids, truncated, beside what was assigned to the rows."""
        vocabulary = jobs.open_once(self.key, lambda: Vocabulary.read(self.vocabulary))
        rows, assigned = tokenize.load_part(self.root, self.number), self.assigned.load(self.number)
        types = tokenize.load_types(self.root, self.number)
        encoded = truncate(vocabulary.lookup(types)[rows["codes"]], rows["offsets"], self.spec)
        ids = encoded.ids.astype(id_dtype(len(vocabulary)))
        lists = pa.LargeListArray.from_arrays(encoded.offsets, ids)
        path = tokenize.part_path(self.root, self.number, "ids")
        columns = {"key": rows["key"], "row": rows["row"], "ids": lists, **assigned}
        arrays.write_batch(path, columns, lasting=False)
        num_unknown = arrays.segment_sums(ids == UNK, encoded.offsets) * (encoded.num_tokens > 0)
        lengths = Lengths()
        for split, name in enumerate(ALL_SPLITS):
            is_inside = assigned["split"] == split
            rows_by_length = dict(Counter(encoded.num_tokens[is_inside].tolist()))
            lengths[name] = rows_by_length, int(num_unknown[is_inside].sum())
        return lengths, {path.name: atomic.sha256_file(path)}


@dataclass(frozen=True)
class ShardRange(jobs.Task[list[ShardInfo]]):
    """The rows of some splits in neighbouring ranges of shuffle keys; each range becomes a shard per split, fold and
    width.
    """

    splits: tuple[str, ...]
    numbers: range
    num_ranges: int
    """How many ranges these splits have."""
    assigned: AssignedParts
    widths: tuple[int, ...]

    result: ClassVar[Any] = list[ShardInfo]

    def run(self) -> tuple[list[ShardInfo], dict[str, str]]:
        """Write the shards."""
        table = self.read_rows()
        ids, rows = table["ids"].combine_chunks(), table.drop_columns("ids").to_pandas()
        values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
        rows["length"] = np.diff(offsets)
        rows["width"] = np.array(self.widths, int)[np.searchsorted(self.widths, rows["length"])]
        begins = np.array([(number << 64) // self.num_ranges for number in self.numbers], np.uint64)
        rows["number"] = self.numbers.start - 1 + begins.searchsorted(rows["key"], side="right")
        shards = list[ShardInfo]()
        for (number, split, fold, width), chosen in rows.groupby(["number", "split", "fold", "width"]).indices.items():
            padded = arrays.pad_segments(*arrays.take(values, offsets, chosen), int(width))
            columns = (rows[name].to_numpy()[chosen] for name in ("length", "label", "row"))
            content = Block(padded, *columns)
            shard_fold = None if fold == NO_FOLD else int(fold)
            shards.append(write_shard(self.root, ALL_SPLITS[split], int(number), content, fold=shard_fold))
        return shards, {shard.path: shard.sha256 for shard in shards}

    def read_rows(self) -> pa.Table:
        """The rows of all parts in key order."""
        split_numbers, batches = pa.array([split_number(name) for name in self.splits], pa.int8()), []
        low, past = ((number << 64) // self.num_ranges for number in (self.numbers.start, self.numbers.stop))
        for number in range(len(self.assigned.rows_per_part)):
            batch = arrays.read_batch(tokenize.part_path(self.assigned.folder, number, "ids"))
            key = batch["key"].to_numpy()
            begin, end = key.searchsorted(np.uint64(low)), key.searchsorted(np.uint64(past - 1), side="right")
            batch = batch.slice(begin, end - begin)
            batches.append(batch.filter(pc.is_in(batch["split"], split_numbers)))
        return pa.Table.from_batches(batches).sort_by([("key", "ascending"), ("row", "ascending")])


@dataclass(frozen=True)
class WrittenShards:
    """The shards of a dataset."""

    splits: dict[str, list[Totals]]
    """Those of the manifest; none for a share that another one completes."""
    index_hash: str
    """The sha256 of the index."""
    lengths: dict[str, Counter[int]]
    """Split -> its rows by their number of tokens before truncation."""
    num_unknown: dict[str, int]
    """Split -> its ids that are ``<unk>``."""


def write_all(
    assigned: AssignedParts,
    root: Path,
    config: PreprocessConfig,
    vocabulary: Vocabulary,
    workers: Workers,
) -> WrittenShards:
    """Write shards of about ``shards.rows`` rows, and their index, unless another share completes the dataset."""
    key, folder = hash_of((assigned.hash, vocabulary.hash, config.shards.rows)), assigned.folder
    lookups = [
        EncodedPart(
            key, folder, folder / f"{number:06d}-ids.json", num_rows, number, root / VOCABULARY, assigned, config.text
        )
        for number, num_rows in enumerate(assigned.rows_per_part)
    ]
    lengths, num_unknown = {name: Counter[int]() for name in ALL_SPLITS}, Counter[str]()
    for _, lengths_of_part in jobs.run_tasks("lookup", folder, lookups, workers):
        for name, (counts, unknown_of_part) in lengths_of_part.items():
            lengths[name].update(counts)
            num_unknown[name] += unknown_of_part
    splits, index_hash = dict[str, list[Totals]](), ""
    ranges = plan_ranges(key, root, config, assigned, lengths)
    results = jobs.run_tasks("encode", folder.with_name("shards"), ranges, workers, wait=workers.share.is_leader)
    shards = (shard for _, shards_of_range in results for shard in shards_of_range)
    if workers.share.is_leader:
        splits, index_hash = write_index(root, shards)
    else:
        deque(shards, maxlen=0)
    return WrittenShards(splits, index_hash, lengths, num_unknown)


def plan_ranges(
    key: str, root: Path, config: PreprocessConfig, assigned: AssignedParts, lengths: dict[str, Counter[int]]
) -> list[ShardRange]:
    """The tasks that write all shards."""
    tasks, max_tokens = list[ShardRange](), config.text.max_tokens
    num_unlabelled = assigned.num_rows - assigned.num_labelled
    for splits, num_rows in ((SPLITS, assigned.num_labelled), ((UNLABELLED,), num_unlabelled)):
        num_ranges = -(-num_rows // config.shards.rows)
        rows_by_length = sum((lengths[name] for name in splits), Counter())
        widths = choose_widths(rows_by_length, max_tokens)
        num_ids = sum(min(length, max_tokens) * rows for length, rows in rows_by_length.items())
        step = max(1, min(num_ranges // MIN_TASKS, num_ranges * MAX_IDS_IN_MEMORY // max(num_ids, 1)))
        for start in range(0, num_ranges, step):
            numbers = range(start, min(start + step, num_ranges))
            marker = assigned.folder.with_name("shards") / f"{splits[0]}-{start:06d}.json"
            size = num_rows * len(numbers) // num_ranges
            tasks.append(ShardRange(key, root, marker, size, splits, numbers, num_ranges, assigned, widths))
    return tasks


def choose_widths(lengths: Counter[int], max_tokens: int) -> tuple[int, ...]:
    """The widths of shards for so many rows of each length, ascending: multiples of 4, each the one that saves most,
    until at most ``MAX_PADDING`` of the ids are padding or one more would save too few.
    """
    if not lengths:
        return ()
    rows = np.bincount(np.clip([*lengths], 1, max_tokens), [*lengths.values()], max_tokens + WIDTH_STEP)
    longest, rows_up_to = int(np.flatnonzero(rows)[-1]), rows.cumsum()
    num_tokens = rows @ np.arange(len(rows))

    def count_ids(widths: list[int]) -> float:
        bounds = itertools.pairwise([0, *widths])
        return float(sum(width * (rows_up_to[width] - rows_up_to[narrower]) for narrower, width in bounds))

    widths = [min(-(-longest // WIDTH_STEP) * WIDTH_STEP, max_tokens)]
    num_ids = count_ids(widths)
    while num_tokens < (1 - MAX_PADDING) * num_ids:
        candidates = [sorted({*widths, width}) for width in range(WIDTH_STEP, widths[-1], WIDTH_STEP)]
        better = min(candidates, key=count_ids, default=widths)
        saved_ids = num_ids - count_ids(better)
        if saved_ids < max(MIN_SAVED_SHARE * num_ids, MIN_SAVED_IDS):
            break
        widths, num_ids = better, num_ids - saved_ids
    return tuple(widths)
