# SPDX-License-Identifier: Apache-2.0
"""From a corpus to a dataset directory. Content and configuration decide every byte; a run can resume at any moment.

1. cut the source into parts; read and tokenize each once, into a compact intermediate form     (parallel)
2. decide each row's split, and what becomes of suspect rows                                    (here)
3. count the training split's tokens, merge, freeze the vocabulary                              (parallel, then here)
4. write the shards: each takes a range of shuffle keys out of every part                       (parallel)
5. the manifest, last

What is finished has a marker file with the hash of all that decided it. A rerun does what is missing or has changed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.base import atomic
from preprocessing.base.errors import DataError
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import SPLITS, TRAIN_NUMBER, VALIDATION_NUMBER
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import addresses, sources
from preprocessing.corpus.hints import hints
from preprocessing.corpus.readers import check_number
from preprocessing.corpus.sources import Part, Plan
from preprocessing.dataset import groups
from preprocessing.dataset.shards import BLOCK_ROWS, MANIFEST, VOCABULARY, Manifest, ShardInfo, id_dtype, write_manifest
from preprocessing.job import classes, output, parts
from preprocessing.job.encode import LookupTask, ShardTask, lookup, write_bucket
from preprocessing.job.executors import Workers, workers
from preprocessing.job.progress import Progress
from preprocessing.job.provenance import provenance
from preprocessing.job.quality import check_splits, dataset_statistics, decide
from preprocessing.job.rows import Rows, gathered
from preprocessing.text.encoder import Encoder
from preprocessing.text.resolve import resolve
from preprocessing.text.spec import TextPipeline
from preprocessing.text.tokenizer import Tokenizer
from preprocessing.text.vocabulary import Counts, Vocabulary, freeze

TOGETHER = 8
"""Parts whose tokens one task counts, or looks up."""
MERGE_TOGETHER = 16
"""Counts that are held before they are merged."""


@dataclass(frozen=True)
class TokenTask:
    """Work of the first pass: one part."""

    number: int
    part: Part
    work: Path
    pipeline: str
    """The text pipeline as JSON."""
    seed: int
    key: str


@dataclass(frozen=True)
class CountTask:
    """Work of the vocabulary: the training tokens of some parts."""

    numbers: tuple[int, ...]
    starts: tuple[int, ...]
    work: Path


UNPACKED = "unpacked"
"""Folder for the unpacked copies of compressed files."""
KEPT = threading.local()
"""The tokenizer of each thread, kept between parts."""
LOADING = threading.Lock()
"""One thread at a time loads language data."""


def tokenizer_of(pipeline: str) -> Tokenizer:
    """This thread's tokenizer. It remembers the words it has seen, so it is kept from one part to the next."""
    kept: tuple[str, Tokenizer] | None = getattr(KEPT, "tokenizer", None)
    if kept is None or kept[0] != pipeline:
        with LOADING:
            kept = pipeline, Tokenizer(TextPipeline.from_json(json.loads(pipeline)))
        KEPT.tokenizer = kept
    return kept[1]


def tokenize(task: TokenTask) -> parts.Summary:
    """Read and tokenize one part."""
    tokenizer = tokenizer_of(task.pipeline)
    return parts.make(task.part, task.number, task.work, tokenizer, task.seed, task.key)


def count(task: CountTask) -> Counts:
    """How often each token occurs in the training rows of some parts."""
    decision = np.load(task.work / "decision.npy", mmap_mode="r")
    found = []
    for number, start in zip(task.numbers, task.starts, strict=True):
        stored, types = parts.load(task.work, number), parts.load_types(task.work, number)
        training = decision[start : start + len(stored.row)] == TRAIN_NUMBER
        per_token = np.repeat(training, np.diff(stored.offsets))
        counts = np.bincount(stored.codes[per_token], minlength=len(types)).astype(np.int64)
        occurring = np.flatnonzero(counts)
        found.append(Counts(types.take(occurring), counts[occurring]))
    return found[0].merge(found[1:])


class Job:
    """One run: a configuration, an output directory, a resolved text pipeline and the workers."""

    def __init__(self, config: PreprocessConfig, found: Workers) -> None:
        """Raises ``DataError`` where the text pipeline needs something that is not installed."""
        self.config = config
        self.workers = found
        self.root = output.build_directory(config).absolute()
        self.work = self.root / output.WORK
        self.names: list[str] = []
        """The classes; known when all labels are read."""
        self.pipeline = resolve(config.text)
        self.screen = Screen(errors=True, quiet=config.quiet)

    def run(self) -> Manifest:
        """Build the dataset, or find that it is there already."""
        files = list(sources.files(self.config.source, self.config.splits))
        there = output.existing(self.config.output, self.config.overwrite)
        plans = self.scan(files) if there or len(files) > 1 else []
        if there and output.is_current(there, self.config, self.pipeline.to_json(), plans):
            done = "already complete for this configuration and source; nothing to do"
            self.screen.say(f"{self.config.output}: {done}")
            manifest = there
        else:
            manifest = self.build(files, plans)
        output.finish(self.root, self.config, fresh=manifest is not there)
        return manifest

    def scan(self, files: list[sources.File]) -> list[Plan]:
        """Count and cut every file of the source."""
        tasks = [(number, file, self.work / UNPACKED) for number, file in enumerate(files)]
        plans = {}
        for (number, _, _), plan in self.workers.map(scan_file, tasks, what="scan", tick=lambda alive: None):
            plans[number] = plan
        return [plans[number] for number in range(len(tasks))]

    def build(self, files: list[sources.File], plans: list[Plan]) -> Manifest:
        """The five passes. A single file is scanned during the first pass, several were scanned before it."""
        (self.root / MANIFEST).unlink(missing_ok=True)
        cut, summaries = self.tokenize(files, plans)
        stored = [parts.load(self.work, number) for number in range(len(cut))]
        starts = np.concatenate([[0], np.cumsum([len(part.row) for part in stored])]).tolist()
        found = classes.Classes.of(self.config.source, summaries)
        self.names = found.names
        rows = gathered(stored, found.numbers)
        decision, report = self.decide(rows, plans)
        vocabulary = self.freeze(starts)
        self.comment(cut, found, rows, decision, report)
        infos, unknown = self.encode(starts, summaries, decision, rows.label, vocabulary)
        left_out = {name: sum(getattr(summary, name) for summary in summaries) for name in ("neutral", "filtered")}
        statistics = dataset_statistics(
            rows, decision, report, left_out, infos, unknown, self.names, self.config.text.max_tokens
        )
        counted, unknown_in_training = int(vocabulary.counts.sum()), int(vocabulary.counts[1])
        statistics["vocabulary"] = {"tokens_counted": counted, "tokens_left_out": unknown_in_training}
        manifest = Manifest(
            labels=self.names,
            splits=infos,
            id_dtype=str(id_dtype(len(vocabulary))),
            block_rows=BLOCK_ROWS,
            vocabulary_size=len(vocabulary),
            vocabulary_hash=vocabulary.hash,
            text=self.pipeline.to_json(),
            text_hash=Encoder(self.pipeline, vocabulary).hash,
            statistics=statistics,
            provenance=provenance(self.config, plans, cut, summaries, self.names),
        )
        output.remove_stale_shards(self.root, infos)
        write_manifest(self.root, manifest)
        return manifest

    def tokenize(self, files: list[sources.File], plans: list[Plan]) -> tuple[list[Part], list[parts.Summary]]:
        """The first pass: read and tokenize every part that is not done yet. Fills ``plans`` if it is empty."""
        cut: list[Part] = []
        done: dict[int, parts.Summary] = {}
        total = sum(addresses.identity(file.address)["bytes"] or 0 for file in files) if not plans else 0
        progress = Progress(
            "tokenize", total or sum(part.bytes for plan in plans for part in plan.parts), screen=self.screen
        )
        described = json.dumps(self.pipeline.to_json())

        def tasks() -> Iterator[TokenTask]:
            for number, part in enumerate(find_parts(files, plans, self.work / UNPACKED)):
                cut.append(part)
                key = parts.part_key(part, self.pipeline.hash, self.config.seed)
                summary = parts.finished(self.work, number, key)
                if summary:
                    done[number] = summary
                    progress.skip(part.bytes)
                else:
                    yield TokenTask(number, part, self.work, described, self.config.seed, key)

        found: set[str] = set()
        for task, summary in self.workers.map(tokenize, tasks(), what="tokenize", tick=progress.tick):
            done[task.number] = summary
            if self.config.source.label_map() is None:
                found.update(summary.classes)
                check_number(found, task.part.file)
            progress.advance(summary.rows, task.part.bytes)
        progress.close()
        if not cut:
            raise DataError(f"{', '.join(file.name for file in files)}: the corpus is empty: no row to learn from")
        return cut, [done[number] for number in range(len(cut))]

    def decide(self, rows: Rows, plans: list[Plan]) -> tuple[np.ndarray, dict[str, Any]]:
        """Each row's split, on disk for the workers, and what was found. Raises ``DataError`` for an unusable split."""
        config = self.config
        if not len(rows.row):
            names = ", ".join(plan.file.name for plan in plans)
            raise DataError(f"{names}: every row is left out by source.where or source.neutral; loosen them")
        decision, report = decide(
            rows, config.quality, config.splits, config.seed, lambda row: locate(plans, row), self.group_name
        )
        if "off" in report.get("groups", {}):
            report["groups"]["off"]["label"] = self.names[report["groups"]["off"]["label"]]
        fractions = (1.0, config.splits.validation, config.splits.test)
        wanted = [number for number in range(len(SPLITS)) if fractions[number] > 0 or (rows.named == number).any()]
        mend = "leave it out in source.neutral" if config.source.label_map() is None else "take it out of source.labels"
        check_splits(decision, rows.label, self.names, wanted, mend)
        for name, values_of_rows in (("decision", decision), ("label", rows.label)):
            with atomic.replacing(self.work / f"{name}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, values_of_rows)
        return decision, report

    def group_name(self, hash_of_group: int) -> str:
        """What the source calls a group."""
        return parts.group_name(self.work, hash_of_group) or "(rows of one text)"

    def comment(
        self, cut: list[Part], found: classes.Classes, rows: Rows, decision: np.ndarray, report: dict[str, Any]
    ) -> None:
        """Say what was found of classes and groups, and which columns might have been used."""
        validation_is_cut = self.config.splits.validation > 0 and not (rows.named == VALIDATION_NUMBER).any()
        lines = classes.in_words(found, rows.label, decision)
        lines += [f"splits: {line}" for line in groups.in_words(report["groups"])] if "groups" in report else []
        for line in [*lines, *hints(cut, validation_is_cut)]:
            self.screen.say(line)

    def freeze(self, starts: list[int]) -> Vocabulary:
        """Count the training split, merge and freeze. The result does not depend on the order of merging."""
        tasks = [CountTask(group, tuple(starts[number] for number in group), self.work) for group in grouped(starts)]
        held: list[Counts] = []
        for _, counts in self.workers.map(count, tasks, what="count", tick=lambda alive: None):
            held.append(counts)
            if len(held) == MERGE_TOGETHER:
                held = [held[0].merge(held[1:])]
        vocabulary = freeze(held[0].merge(held[1:]), self.config.vocabulary.min_count, self.config.vocabulary.max_size)
        vocabulary.write(self.root / VOCABULARY)
        return vocabulary

    def encode(
        self,
        starts: list[int],
        summaries: list[parts.Summary],
        decision: np.ndarray,
        label: np.ndarray,
        vocabulary: Vocabulary,
    ) -> tuple[dict[str, list[ShardInfo]], dict[str, int]]:
        """Write every shard; and how many unknown tokens each split has."""
        buckets = max(1, -(-starts[-1] // self.config.shards.rows))
        widths, decided = self.config.widths, hashlib.sha256(decision.tobytes() + label.tobytes()).hexdigest()
        basis = [[summary.key for summary in summaries], decided, vocabulary.hash, self.pipeline.hash, widths, buckets]
        key = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
        lookups = [LookupTask(group, self.work, self.root, key) for group in grouped(starts)]
        for _ in self.workers.map(lookup, lookups, what="lookup", tick=lambda alive: None):
            pass
        common = (tuple(starts), self.work, self.root, self.pipeline.spec, tuple(widths), key)
        tasks = [ShardTask(bucket, buckets, *common) for bucket in range(buckets)]
        progress = Progress("encode", starts[-1], unit="documents", screen=self.screen)
        infos: dict[str, list[ShardInfo]] = {name: [] for name in SPLITS}
        unknown = dict.fromkeys(SPLITS, 0)
        for _, written in self.workers.map(write_bucket, tasks, what="encode", tick=progress.tick):
            for name, entries in written.shards.items():
                infos[name] += entries
                unknown[name] += written.unknown[name]
            progress.advance(sum(entry.rows for entries in written.shards.values() for entry in entries))
        progress.close()
        ordered = {name: sorted(entries, key=lambda info: info.path) for name, entries in infos.items() if entries}
        return ordered, unknown


def run(config: PreprocessConfig) -> Manifest:
    """Build the dataset that ``config`` describes, or continue, or find that it is there.

    Raises ``ConfigError``, ``DataError`` or ``UserError``, each a sentence.
    """
    with output.writable(output.build_directory(config)), workers(config.executor, quiet=config.quiet) as found:
        return Job(config, found).run()


def find_parts(files: list[sources.File], plans: list[Plan], stage: Path) -> Iterator[Part]:
    """Every part in order. Without plans there is one file: it is scanned meanwhile, its plan put into ``plans``."""
    if plans:
        yield from sources.numbered(plans)
        return
    found = sources.iter_parts(files[0], stage)
    while True:
        try:
            part = next(found)
        except StopIteration as stop:
            plans.append(stop.value)
            return
        if part.cut.rows:
            yield part


def grouped(starts: list[int]) -> list[tuple[int, ...]]:
    """The numbers of all parts, some at a time."""
    numbers = tuple(range(len(starts) - 1))
    return [numbers[at : at + TOGETHER] for at in range(0, len(numbers), TOGETHER)]


def scan_file(task: tuple[int, sources.File, Path]) -> Plan:
    """Count and cut one file."""
    return sources.scan(task[1], task[2])


def locate(plans: list[Plan], row: int) -> str:
    """``FILE: row N`` of a row's number in the source; of a folder, the text file."""
    for plan in plans:
        if row <= plan.rows:
            for part in plan.parts:
                if part.texts and row < part.cut.first_row + part.cut.rows:
                    return part.texts[row - part.cut.first_row][0]
            return f"{plan.file.name}: row {row}"
        row -= plan.rows
    raise AssertionError(f"row {row} lies beyond the source")


def summary_line(manifest: Manifest) -> str:
    """Rows per split, for people."""
    return ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits) + " rows"
