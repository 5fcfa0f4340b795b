# SPDX-License-Identifier: Apache-2.0
"""The second pass: one range of shuffle keys, out of every part, becomes one shard per split and width.

Rows with and without labels have ranges of their own, so that shards of labelled rows are as large, and the same, as if
there were no others.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np

from preprocessing.base import arrays, atomic
from preprocessing.base.errors import DataError
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import ALL_SPLITS, NO_LABEL, SPLITS, UNLABELLED, split_number
from preprocessing.base.typed import Count, typed
from preprocessing.base.untrusted import confined, read_json
from preprocessing.dataset.shards import VOCABULARY, ShardInfo, id_dtype, write_shard
from preprocessing.job import parts
from preprocessing.job.executors import Workers
from preprocessing.job.folds import NO_FOLD
from preprocessing.job.progress import Progress
from preprocessing.text.encoder import Encoded, encode_tokens
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.tokens import Tokens
from preprocessing.text.vocabulary import UNK, Vocabulary

Splits: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class Basis:
    """What the shards are made of: parts, decisions and a vocabulary, and the directories where these lie."""

    starts: Sequence[int]
    """``[parts + 1]``: where each part's rows begin in the array of decisions."""
    work: Path
    root: Path
    spec: TextSpec
    widths: Sequence[int]
    buckets: dict[Splits, int]
    """Into how many ranges of keys the rows of some splits are cut."""
    key: str
    """The hash that a finished bucket must carry to be used again."""
    folds: int = 0
    """Into how many folds rows of training and validation are cut; 0: into none."""


@dataclass(frozen=True)
class ShardTask:
    """Write one bucket: the rows of some splits in one range of shuffle keys."""

    splits: Splits
    bucket: int
    buckets: int
    starts: tuple[int, ...]
    """``[parts + 1]``: where each part's rows begin in the array of decisions."""
    work: Path
    root: Path
    spec: TextSpec
    widths: tuple[int, ...]
    key: str
    folds: int = 0


@dataclass(frozen=True)
class Written:
    """The shards of one bucket."""

    shards: dict[str, list[ShardInfo]]
    unknown: dict[str, int]
    """Per split: kept tokens that are ``<unk>``, without those that stand for an empty text."""


@dataclass(frozen=True)
class Done:
    """What the completion marker of a bucket says."""

    key: str
    shards: dict[str, list[ShardInfo]]
    unknown: dict[str, Count]


def buckets_for(label: np.ndarray, rows: int) -> dict[Splits, int]:
    """Into how many ranges of about ``rows`` rows the rows with these labels are cut: those with one, those without."""
    without = int((label == NO_LABEL).sum())
    found: dict[Splits, int] = {SPLITS: max(1, -(-(len(label) - without) // rows))}
    return found | ({(UNLABELLED,): -(-without // rows)} if without else {})


def key_of(
    summaries: Sequence[parts.Summary],
    decision: np.ndarray,
    label: np.ndarray,
    vocabulary: Vocabulary,
    pipeline: TextPipeline,
    widths: list[int],
    buckets: dict[Splits, int],
    fold: np.ndarray | None = None,
) -> str:
    """The hash over all that decides the shards; ``fold`` is each row's, None in a dataset without folds."""
    decided = hashlib.sha256(decision.tobytes() + label.tobytes()).hexdigest()
    basis = [[summary.key for summary in summaries], decided, vocabulary.hash, pipeline.hash, widths]
    basis.append(list(buckets.values()))
    if fold is not None:
        basis.append(hashlib.sha256(fold.tobytes()).hexdigest())
    return hashlib.sha256(json.dumps(basis).encode()).hexdigest()


def encode_all(basis: Basis, workers: Workers, screen: Screen) -> tuple[dict[str, list[ShardInfo]], dict[str, int]]:
    """Write every shard; and how many unknown tokens each split has. Progress is on ``screen``."""
    lookups = [LookupTask(group, basis.work, basis.root, basis.key) for group in parts.grouped(basis.starts)]
    for _ in workers.map(lookup, lookups, what="lookup", tick=lambda alive: None):
        pass
    common = (tuple(basis.starts), basis.work, basis.root, basis.spec, tuple(basis.widths), basis.key, basis.folds)
    tasks = [
        ShardTask(splits, bucket, buckets, *common)
        for splits, buckets in basis.buckets.items()
        for bucket in range(buckets)
    ]
    progress = Progress("encode", basis.starts[-1], unit="documents", screen=screen)
    infos: dict[str, list[ShardInfo]] = {name: [] for name in ALL_SPLITS}
    unknown = dict.fromkeys(ALL_SPLITS, 0)
    for _, written in workers.map(write_bucket, tasks, what="encode", tick=progress.tick):
        for name, entries in written.shards.items():
            infos[name] += entries
            unknown[name] += written.unknown[name]
        progress.advance(sum(entry.rows for entries in written.shards.values() for entry in entries))
    progress.close()
    ordered = {name: sorted(entries, key=lambda info: info.path) for name, entries in infos.items() if entries}
    return ordered, unknown


@lru_cache(maxsize=1)
def vocabulary_of(path: Path, key: str) -> Vocabulary:
    """The vocabulary, which a worker reads once per run."""
    return Vocabulary.read(path)


@dataclass(frozen=True)
class LookupTask:
    """Look the types of some parts up in the vocabulary."""

    numbers: tuple[int, ...]
    work: Path
    root: Path
    key: str


def lookup(task: LookupTask) -> None:
    """Store each part's ids, so that no bucket has to look the same types up again."""
    vocabulary = vocabulary_of(task.root / VOCABULARY, task.key)
    for number in task.numbers:
        path = ids_path(task.work, number, task.key)
        if not path.exists():
            ids = vocabulary.lookup(parts.load_types(task.work, number))
            with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
                arrays.save(file, ids)


def ids_path(work: Path, number: int, key: str) -> Path:
    """int32 per type of a part: its id. The name says for which vocabulary."""
    return work / "parts" / f"{number:06d}-ids-{key[:16]}.npy"


def write_bucket(task: ShardTask) -> Written:
    """Write the shards of one bucket, unless they are there already."""
    marker = task.work / "shards" / f"{task.splits[0]}-{task.bucket:06d}.json"
    done = finished(marker, task)
    if done:
        return done
    vocabulary = vocabulary_of(task.root / VOCABULARY, task.key)
    tokens, columns = collect(task, vocabulary)
    encoded = encode_tokens(tokens, vocabulary, task.spec)
    lengths = np.diff(encoded.offsets)
    rung = np.searchsorted(task.widths, lengths)
    unknown_before = np.concatenate([[0], np.cumsum(encoded.ids == UNK)])
    unknown = np.diff(unknown_before[encoded.offsets]) * (encoded.num_tokens > 0)
    written = Written({}, {})
    for name in task.splits:
        split = split_number(name)
        inside = columns["split"] == split
        if inside.any():
            written.unknown[name] = int(unknown[inside].sum())
            written.shards[name] = []
        for fold, (step, width) in itertools.product(folds_of(columns, inside), enumerate(task.widths)):
            chosen = inside & (rung == step)
            chosen = np.flatnonzero(chosen if fold is None else chosen & (columns["fold"] == fold))
            if len(chosen):
                of_fold = "" if fold is None else f"-f{fold:02d}"
                path = f"{name}/{task.bucket:05d}{of_fold}-w{width:04d}.arrow"
                ids = padded(encoded, chosen, width, id_dtype(len(vocabulary)))
                order = (lengths[chosen], columns["label"][chosen], columns["row"][chosen])
                written.shards[name].append(replace(write_shard(task.root, path, ids, *order), fold=fold))
    shards = {name: [asdict(info) for info in infos] for name, infos in written.shards.items()}
    atomic.write_json(marker, {"key": task.key, "shards": shards, "unknown": written.unknown})
    return written


def folds_of(columns: dict[str, np.ndarray], inside: np.ndarray) -> list[int | None]:
    """The folds that rows of a split are in, ascending; None alone where they are in none."""
    if "fold" not in columns:
        return [None]
    found = np.unique(columns["fold"][inside]).tolist()
    return [None if fold == NO_FOLD else fold for fold in found]


def finished(marker: Path, task: ShardTask) -> Written | None:
    """What an earlier run wrote of this bucket, if it is whole and still wanted."""
    try:
        done = typed(Done, read_json(marker, ""), str(marker), "")
        if done.key != task.key:
            return None
        for info in (info for infos in done.shards.values() for info in infos):
            if atomic.sha256_file(confined(task.root, info.path)) != info.sha256:
                return None
        return Written(done.shards, done.unknown)
    except (OSError, ValueError, DataError):
        return None


def collect(task: ShardTask, vocabulary: Vocabulary) -> tuple[Tokens, dict[str, np.ndarray]]:
    """The bucket's rows out of every part, in the order of their keys; tokens are coded by the vocabulary itself."""
    low, high = ((task.bucket + step << 64) // task.buckets for step in (0, 1))
    wanted = [split_number(name) for name in task.splits]
    decision = np.load(task.work / "decision.npy", mmap_mode="r")
    label = np.load(task.work / "label.npy", mmap_mode="r")
    fold = np.load(task.work / "fold.npy", mmap_mode="r") if task.folds else None
    names = ("key", "row", "label", "split", "ids", "size", *(() if fold is None else ("fold",)))
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for number, start in enumerate(task.starts[:-1]):
        stored = parts.load(task.work, number)
        first = int(np.searchsorted(stored.key, np.uint64(low)))
        last = len(stored.key) if high >> 64 else int(np.searchsorted(stored.key, np.uint64(high)))
        split = decision[start + first : start + last]
        kept = np.flatnonzero(np.isin(split, wanted))
        if not len(kept):
            continue
        codes, offsets = arrays.take(stored.codes, stored.offsets, kept + first)
        pieces["ids"].append(np.load(ids_path(task.work, number, task.key), mmap_mode="r")[codes])
        pieces["size"].append(np.diff(offsets))
        pieces["split"].append(split[kept])
        pieces["label"].append(label[start + first : start + last][kept])
        if fold is not None:
            pieces["fold"].append(fold[start + first : start + last][kept])
        for name in ("key", "row"):
            pieces[name].append(getattr(stored, name)[first:last][kept])
    columns = {name: np.concatenate(values) if values else np.zeros(0, np.int64) for name, values in pieces.items()}
    order = np.lexsort((columns["row"], columns["key"]))
    offsets = np.concatenate([[0], np.cumsum(columns.pop("size"))]).astype(np.int64)
    ids, offsets = arrays.take(columns.pop("ids"), offsets, order)
    tokens = Tokens(vocabulary.tokens, ids, offsets)
    return tokens, {name: values[order] for name, values in columns.items()}


def padded(encoded: Encoded, rows: np.ndarray, width: int, dtype: np.dtype) -> np.ndarray:
    """``[rows, width]``: the ids of some texts, 0 beyond their length."""
    return arrays.padded(*arrays.take(encoded.ids, encoded.offsets, rows), width, dtype)
