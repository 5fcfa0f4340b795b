# SPDX-License-Identifier: Apache-2.0
"""The second pass: count tokens, freeze the vocabulary or take it from a base, look up the ids of each part, and write
shards, each from one range of shuffle keys of all parts.

Labelled and unlabelled rows have separate ranges, so unlabelled rows change no shard of labelled ones.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.schema import typed
from preprocessing.base.split_names import (
    ALL_SPLITS,
    SPLITS,
    TRAIN_NUMBER,
    UNLABELLED,
    UNLABELLED_NUMBER,
    split_number,
)
from preprocessing.base.terminal import Screen, public
from preprocessing.base.untrusted import read_json
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses
from preprocessing.dataset import remote
from preprocessing.dataset.index import Index, ShardInfo, Totals, write_index
from preprocessing.dataset.shards import MANIFEST, VOCABULARY, id_dtype, read_manifest, write_shard
from preprocessing.job import engine, parts
from preprocessing.job.append import compared
from preprocessing.job.decisions import Decided
from preprocessing.job.executors import Workers
from preprocessing.job.parts import NO_FOLD
from preprocessing.text.encoder import truncated
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.vocabulary import (
    UNK,
    Counts,
    Vocabulary,
    freeze,
    freeze_pieces,
    in_pieces,
    merged,
)

BUNDLE, BUNDLE_INDEX = "bundle", "bundle.json"
"""A run's folder with its bundle, and the file that says what is in it."""
BASE = "vocabulary_base"
"""Key of ``vocabulary.base`` in a manifest's provenance."""
COUNTS_TOGETHER = 16
"""Counts that are held before they are merged."""
WIDTH_STEP = 4
MOST_PADDING = 0.15
"""Share of the ids of shards."""
LEAKS, LEAKED = "leaks", -2
"""In place of a split: rows that equal one of another split of the dataset that they are added to."""
REPEATS = "repeats"
"""Beside the splits: rows that equal one of the same split of that dataset."""
NUMBERS = {LEAKS: LEAKED} | {name: split_number(name) for name in ALL_SPLITS}
LEAST_SAVED, LEAST_IDS = 0.005, 2048
"""Share and number of the ids that a width must save; each makes more, smaller shards."""
IDS_TOGETHER, TASKS = 1 << 21, 64
"""Ids that a task holds while it makes shards, and how many tasks there are before one makes those of several buckets:
each task reads in all parts."""


def count_all(decided: Decided, workers: Workers, *, unlabelled: bool) -> Counts:
    """How often each token occurs in the training split, and with ``unlabelled`` in the unlabelled one too."""
    splits = [TRAIN_NUMBER, UNLABELLED_NUMBER] if unlabelled else [TRAIN_NUMBER]
    held: list[Counts] = []
    for _, counts in workers.map(partial(count, decided, splits), range(decided.parts), what="count"):
        held = [merged([*held, counts])] if len(held) == COUNTS_TOGETHER else [*held, counts]
    return merged(held)


def count(decided: Decided, splits: list[int], number: int) -> Counts:
    """``count_all`` of one part."""
    stored, types = parts.load(decided.work, number), parts.load_types(decided.work, number)
    per_token = np.repeat(np.isin(decided.of(number)["split"], splits), np.diff(stored["offsets"]))
    counts = np.bincount(stored["codes"][per_token], minlength=len(types))
    occurring = np.flatnonzero(counts)
    return Counts(types.take(occurring), counts[occurring])


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
            what = "there is no dataset, no bundle and no run that has finished an epoch; name the directory of one"
            raise ConfigError(f"vocabulary.base: {address}: {what}")
        mend = "restore it, or name another vocabulary.base"
        content: BundleIndex = typed(BundleIndex, read_json(index, mend), str(index), mend)
        text, digest = content["text"], content["vocabulary_hash"]
    base = TextPipeline.from_json(text, root)
    if base.hash != pipeline.hash:
        theirs, mine = ({**asdict(one.spec), **one.resources} for one in (base, pipeline))
        others = [
            f"text.{key} to {json.dumps(theirs.get(key))} (now {json.dumps(mine.get(key))})"
            for key in {**theirs, **mine}
            if theirs.get(key) != mine.get(key)
        ]
        different = " and ".join(others) or "text.stop_words to the same words"
        raise ConfigError(f"vocabulary.base: {address}: it was made with other text settings; set {different}")
    vocabulary = Vocabulary.read(root / VOCABULARY)
    if vocabulary.hash != digest:
        raise DataError(f"{root / VOCABULARY}: not the vocabulary of its dataset or bundle; restore it")
    return vocabulary


def frozen(
    words: Counts, config: PreprocessConfig, base: Vocabulary | None, screen: Screen, before: dict[str, int] | None
) -> tuple[Vocabulary, dict[str, int]]:
    """The vocabulary for texts with these ``words``, and their ``statistics.vocabulary``: how many tokens there are,
    words or pieces of words, and how many have no id.

    Prints on ``screen`` the share that a base covers, and that of the old texts by their statistics. Raises
    ``DataError`` when no token of the texts is in it.
    """
    of, in_words, vocabulary = config.vocabulary, config.text.subwords == "none", base
    if vocabulary is None:
        vocabulary = (freeze if in_words else freeze_pieces)(words, int(of.min_count), of.max_size)
    counts = words if in_words else in_pieces(words, vocabulary)
    total, unknown = int(counts.counts.sum()), int(counts.counts[vocabulary.lookup(counts.types) == UNK].sum())
    if 0 < total == unknown:
        what = f"none of the {total:,} tokens to learn from is in"
        if before:
            raise DataError(f"append: {what} the vocabulary of the dataset; prepare all files together")
        raise DataError(f"{what} vocabulary.base {of.base}; name another")
    if base:
        cover = f"{1 - unknown / max(total, 1):.1%} of the tokens"
        if before:
            cover += f", and {1 - before['tokens_left_out'] / max(before['tokens_counted'], 1):.1%} of the old ones"
        screen.say(f"vocabulary: the {len(base):,} ids of {public(str(of.base))} cover {cover}")
    return vocabulary, {"tokens_counted": total, "tokens_left_out": unknown}


@dataclass(frozen=True)
class Buckets(engine.Part[list[ShardInfo]]):
    """The rows of some splits in neighbouring ranges of shuffle keys; each range becomes a shard per split, fold and
    width.
    """

    splits: tuple[str, ...]
    numbers: range
    of: int
    """How many buckets these splits have."""
    first: int
    """Number of the first bucket's shards."""
    decided: Decided
    widths: tuple[int, ...]

    result: ClassVar[Any] = list[ShardInfo]

    def make(self) -> tuple[list[ShardInfo], dict[str, str]]:
        """Write the shards."""
        table = self.rows()
        ids, rows = table["ids"].combine_chunks(), table.drop_columns("ids").to_pandas()
        values, offsets = ids.values.to_numpy(), ids.offsets.to_numpy()
        rows["length"] = np.diff(offsets)
        rows["width"] = np.array(self.widths, int)[np.searchsorted(self.widths, rows["length"])]
        begins = np.array([(number << 64) // self.of for number in self.numbers], np.uint64)
        rows["number"] = self.first + self.numbers.start - 1 + begins.searchsorted(rows["key"], side="right")
        shards = list[ShardInfo]()
        for (number, split, fold, width), chosen in rows.groupby(["number", "split", "fold", "width"]).indices.items():
            padded = arrays.padded(*arrays.take(values, offsets, chosen), int(width))
            others = (rows[name].to_numpy()[chosen] for name in ("length", "label", "row"))
            of_fold = None if fold == NO_FOLD else int(fold)
            shards.append(write_shard(self.root, ALL_SPLITS[split], int(number), padded, *others, fold=of_fold))
        return shards, {shard.path: shard.sha256 for shard in shards}

    def rows(self) -> pa.Table:
        """The rows of all parts in key order."""
        wanted, pieces = pa.array([split_number(name) for name in self.splits], pa.int8()), []
        for number in range(self.decided.parts):
            path = encoded_path(self.decided.work, number, self.key)
            piece = parts.within(path, "key", self.numbers.start, self.of, len(self.numbers))
            pieces.append(piece.filter(pc.is_in(piece["split"], wanted)))
        return pa.Table.from_batches(pieces).sort_by([("key", "ascending"), ("row", "ascending")])


def encode_all(
    decided: Decided,
    root: Path,
    config: PreprocessConfig,
    vocabulary: Vocabulary,
    workers: Workers,
    screen: Screen,
    before: Index | None,
    hashes: Path | None,
) -> tuple[dict[str, list[Totals]], str, dict[str, int], dict[str, Counter[int]]]:
    """Write shards of about ``shards.rows`` rows, and their index; returns what ``write_index`` does, and for each
    split its number of unknown tokens, and its number of rows by length before truncation.

    Progress is on ``screen``. With ``hashes`` of the rows of ``before``, the rows that leak are left out, and returned
    as the split ``LEAKS``; those that repeat a row are kept, and counted as ``REPEATS``.
    """
    rows = {SPLITS: decided.labelled, (UNLABELLED,): decided.unlabelled}
    buckets = {splits: -(-number // config.shards.rows) for splits, number in rows.items()}
    first = int(before.number.max()) + 1 if before else 0
    basis = [decided.hash, vocabulary.hash, list(buckets.values()), first]
    basis += [atomic.sha256_file(hashes)] if hashes else []
    key = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
    lengths, unknown = {name: Counter[int]() for name in (*NUMBERS, REPEATS)}, Counter[str]()
    for _, found in workers.map(
        partial(encode_part, decided, root, key, config.text, hashes), range(decided.parts), what="lookup"
    ):
        for name, (counts, number) in found.items():
            lengths[name].update(counts)
            unknown[name] += number
    tasks = []
    for splits, of in buckets.items():
        of_rows = sum((lengths[name] for name in splits), Counter())
        widths = ladder(of_rows, config.text.max_tokens)
        ids = sum(min(length, config.text.max_tokens) * number for length, number in of_rows.items())
        step = max(1, min(of // TASKS, of * IDS_TOGETHER // max(ids, 1)))
        for start in range(0, of, step):
            numbers = range(start, min(start + step, of))
            marker = decided.work / "shards" / f"{splits[0]}-{start:06d}.json"
            size = rows[splits] * len(numbers) // of
            tasks.append(Buckets(key, root, marker, size, splits, numbers, of, first, decided, widths))
    with engine.shown("encode", sum(rows.values()), screen.quiet) as progress:
        made = chain.from_iterable(shards for _, shards in engine.run(tasks, workers, progress))
        written, index = write_index(root, made, before)
    return written, index, unknown, lengths


def ladder(lengths: Counter[int], max_tokens: int) -> tuple[int, ...]:
    """The widths of shards for so many rows of each length, ascending: multiples of 4, each the one that saves most,
    until at most ``MOST_PADDING`` of the ids are padding or one more would save too few.
    """
    if not lengths:
        return ()
    rows = np.bincount(np.clip([*lengths], 1, max_tokens), [*lengths.values()], max_tokens + WIDTH_STEP)
    longest, up_to = int(np.flatnonzero(rows)[-1]), rows.cumsum()
    tokens = rows @ np.arange(len(rows))

    def ids(widths: list[int]) -> float:
        return float(sum(width * (up_to[width] - up_to[below]) for below, width in itertools.pairwise([0, *widths])))

    widths = [min(-(-longest // WIDTH_STEP) * WIDTH_STEP, max_tokens)]
    while tokens < (1 - MOST_PADDING) * (now := ids(widths)):
        more = [sorted({*widths, width}) for width in range(WIDTH_STEP, widths[-1], WIDTH_STEP)]
        before, widths = widths, min(more, key=ids, default=widths)
        if now - ids(widths) < max(LEAST_SAVED * now, LEAST_IDS):
            return tuple(before)
    return tuple(widths)


def encode_part(
    decided: Decided, root: Path, key: str, spec: TextSpec, hashes: Path | None, number: int
) -> dict[str, tuple[Counter[int], int]]:
    """Store the ids of a part's rows, truncated, beside what was decided on them; ``key`` changes with either.

    Returns for each split its number of rows by their number of tokens before truncation, and how many of the ids are
    ``<unk>``, without those that stand for an empty text.
    """
    path = encoded_path(decided.work, number, key)
    if not path.exists():
        vocabulary = engine.kept(key, lambda: Vocabulary.read(root / VOCABULARY))
        stored, types = parts.load(decided.work, number), parts.load_types(decided.work, number)
        if spec.subwords == "none":
            ids, offsets = vocabulary.lookup(types)[stored["codes"]], stored["offsets"]
        else:
            pieces = [vocabulary.pieces(word) for word in types.to_pylist()]
            ids, ends = (
                vocabulary.lookup(pa.array(chain(*pieces), pa.large_string())),
                np.cumsum([0, *map(len, pieces)]),
            )
            ids, ends = arrays.take(ids, ends, stored["codes"])
            offsets = ends[stored["offsets"]]
        rows = truncated(ids, offsets, spec)
        lists = pa.LargeListArray.from_arrays(rows.offsets, rows.ids.astype(id_dtype(len(vocabulary))))
        columns = {"key": stored["key"], "row": stored["row"], "num_tokens": rows.num_tokens, "ids": lists}
        columns |= decided.of(number)
        if hashes:
            leaks, columns[REPEATS] = compared(hashes, rows, columns["split"])
            columns["split"] = np.where(leaks, np.int8(LEAKED), columns["split"])
        arrays.write_batch(path, columns)
    table = parts.read_batch(path)
    tokens, split, ids = table["num_tokens"].to_numpy(), table["split"].to_numpy(), table["ids"]
    unknown = arrays.segment_sums(ids.values.to_numpy() == UNK, ids.offsets.to_numpy()) * (tokens > 0)
    found = dict[str, tuple[Counter[int], int]]()
    for name, number in NUMBERS.items():
        inside = split == number
        found[name] = Counter(tokens[inside].tolist()), int(unknown[inside].sum())
    if hashes:
        found[REPEATS] = Counter(tokens[table[REPEATS].to_numpy(zero_copy_only=False)].tolist()), 0
    return found


def encoded_path(work: Path, number: int, key: str) -> Path:
    """The file of ``encode_part``."""
    return work / "parts" / f"{number:06d}-ids-{key[:16]}.arrow"
