# SPDX-License-Identifier: Apache-2.0
"""From a corpus to a dataset directory, resumable at any moment; the bytes depend on the content and the configuration only.

1. cut the source into parts; read and tokenize each once, into a compact intermediate form     (parallel)
2. decide each row's split, and what becomes of suspect rows                                    (here)
3. count the training split's tokens, merge, freeze the vocabulary                              (parallel, then here)
4. write the shards: each takes a range of shuffle keys out of every part                       (parallel)
5. the manifest, last

Whatever is finished carries a marker with the hash of all that decided it: a rerun does what is missing or changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing import atomic, parts, sources
from preprocessing.config import PreprocessConfig
from preprocessing.encode import ShardTask, write_bucket
from preprocessing.errors import ConfigError, DataError, UserError
from preprocessing.executors import Workers, workers
from preprocessing.labels import LabelMap
from preprocessing.progress import Progress
from preprocessing.quality import Rows, check_splits, decide, statistics
from preprocessing.shards import BLOCK_ROWS, MANIFEST, VOCABULARY, Manifest, ShardInfo, id_dtype, write_manifest
from preprocessing.sources import SPLITS, Part, Plan
from preprocessing.splits import TRAIN
from preprocessing.text import Encoder, TextPipeline, Tokenizer, resolve
from preprocessing.vocabulary import Counts, Vocabulary, freeze

WORK = ".work"
COUNT_TOGETHER = 16


@dataclass(frozen=True)
class TokenTask:
    """Work of the first pass: one part."""

    number: int
    part: Part
    work: Path
    pipeline: dict[str, Any]
    seed: int
    key: str


@dataclass(frozen=True)
class CountTask:
    """Work of the vocabulary: the training tokens of some parts."""

    numbers: tuple[int, ...]
    starts: tuple[int, ...]
    work: Path


@lru_cache(maxsize=1)
def tokenizer_of(pipeline: str) -> Tokenizer:
    """A worker's tokenizer; it remembers what it has seen, so one is kept between parts."""
    return Tokenizer(TextPipeline.from_json(json.loads(pipeline)))


def tokenize(task: TokenTask) -> parts.Summary:
    """Read and tokenize one part."""
    tokenizer = tokenizer_of(json.dumps(task.pipeline))
    return parts.make(task.part, task.number, task.work, tokenizer, task.seed, task.key)


def count(task: CountTask) -> Counts | None:
    """How often each token occurs in the training rows of some parts."""
    decision = np.load(task.work / "decision.npy", mmap_mode="r")
    found = []
    for number, start in zip(task.numbers, task.starts, strict=True):
        stored, types = parts.load(task.work, number), parts.load_types(task.work, number)
        training = decision[start : start + len(stored.row)] == TRAIN
        per_token = np.repeat(training, np.diff(stored.offsets))
        counts = np.bincount(stored.codes[per_token], minlength=len(types)).astype(np.int64)
        occurring = np.flatnonzero(counts)
        found.append(Counts(types.take(occurring), counts[occurring]))
    return found[0].merge(found[1:]) if found else None


class Job:
    """One run: a configuration, an output directory and the workers."""

    def __init__(self, config: PreprocessConfig) -> None:
        """Nothing happens yet."""
        self.config = config
        self.root = Path(config.output)
        self.work = self.root / WORK
        self.names = LabelMap(config.source.labels, config.source.neutral).names

    def run(self) -> Manifest:
        """Build the dataset, or find that it is there. Raises ``ConfigError``, ``DataError`` or ``UserError``."""
        pipeline = resolve(self.config.text)
        refuse_foreign(self.root)
        with locked(self.work), workers(self.config.executor) as found:
            plans = self.scan(found)
            done = self.already(plans, pipeline)
            if done:
                print(
                    f"{self.root}: already complete for this configuration and source; nothing to do", file=sys.stderr
                )
                self.finish(done)
                return done
            manifest = self.build(plans, pipeline, found)
        return manifest

    def scan(self, found: Workers) -> list[Plan]:
        """Look through every file of the source."""
        files = list(sources.files(self.config.source, self.config.splits))
        if len(files) == 1:
            return [sources.scan(files[0], self.work / "unpacked")]
        tasks = [(number, file, self.work / "unpacked") for number, file in enumerate(files)]
        plans: list[Plan | None] = [None] * len(files)
        for task, plan in found.map(scan_file, tasks, what="scan", tick=lambda alive: None):
            plans[task[0]] = plan
        return [plan for plan in plans if plan]

    def already(self, plans: list[Plan], pipeline: TextPipeline) -> Manifest | None:
        """The manifest that is there, if it is what this run would make. Raises ``ConfigError`` for another one's."""
        from preprocessing.shards import read_manifest

        if not (self.root / MANIFEST).exists():
            return None
        try:
            manifest = read_manifest(self.root)
            known = manifest.provenance
        except DataError as error:
            if self.config.overwrite:
                return None
            raise ConfigError(f"{error}; or replace it with --overwrite true") from None
        unchanged = [entry.get("fingerprint") for entry in known["sources"]] == [plan.fingerprint for plan in plans]
        if known["config"] == self.config.deciding() and unchanged and manifest.text == pipeline.to_json():
            return manifest
        if not self.config.overwrite:
            what = "another configuration" if unchanged else "a source that has changed since"
            raise ConfigError(
                f"{self.root}: holds a dataset of {what}; choose another --output, or replace it with --overwrite true"
            )
        return None

    def build(self, plans: list[Plan], pipeline: TextPipeline, found: Workers) -> Manifest:
        """The five passes."""
        (self.root / MANIFEST).unlink(missing_ok=True)
        cut = sources.numbered(plans)
        summaries = self.tokenize(cut, pipeline, found)
        stored = [parts.load(self.work, number) for number in range(len(cut))]
        starts = np.concatenate([[0], np.cumsum([len(part.row) for part in stored])]).tolist()
        rows = gathered(stored)
        self.check_any(rows, plans)
        decision, report = decide(
            rows, self.config.quality, self.config.splits, self.config.seed, lambda row: locate(plans, row)
        )
        check_splits(decision, rows.label, self.names, self.wanted(rows))
        save_array(self.work / "decision.npy", decision)
        vocabulary = self.freeze(len(cut), starts, found)
        encoder = Encoder(pipeline, vocabulary)
        infos, unknown = self.encode(starts, summaries, decision, vocabulary, pipeline, found)
        manifest = Manifest(
            labels=self.names,
            splits=infos,
            id_dtype=str(id_dtype(len(vocabulary))),
            block_rows=BLOCK_ROWS,
            vocabulary_size=len(vocabulary),
            vocabulary_hash=vocabulary.hash,
            text=pipeline.to_json(),
            text_hash=encoder.hash,
            statistics=self.statistics(rows, decision, report, summaries, infos, unknown, vocabulary),
            provenance=self.provenance(plans, cut, summaries),
        )
        remove_strangers(self.root, infos)
        write_manifest(self.root, manifest)
        self.finish(manifest)
        return manifest

    def tokenize(self, cut: list[Part], pipeline: TextPipeline, found: Workers) -> list[parts.Summary]:
        """The first pass over every part that is not done yet."""
        keys = [parts.part_key(part, pipeline.hash, self.config.seed) for part in cut]
        done = {number: parts.finished(self.work, number, key) for number, key in enumerate(keys)}
        described = pipeline.to_json()
        tasks = [
            TokenTask(number, part, self.work, described, self.config.seed, keys[number])
            for number, part in enumerate(cut)
            if done[number] is None
        ]
        if len(tasks) < len(cut):
            print(f"tokenize: {len(cut) - len(tasks)} of {len(cut)} parts were done before", file=sys.stderr)
        progress = Progress("tokenize", sum(task.part.bytes for task in tasks))
        for task, summary in found.map(tokenize, tasks, what="tokenize", tick=progress.tick):
            done[task.number] = summary
            progress.advance(summary.rows, task.part.bytes)
        if tasks:
            progress.close()
        return [summary for _, summary in sorted(done.items()) if summary is not None]

    def check_any(self, rows: Rows, plans: list[Plan]) -> None:
        """Refuse a corpus of which every row is left out."""
        if not len(rows.row):
            names = ", ".join(plan.file.name for plan in plans)
            raise DataError(f"{names}: every row is left out by source.where or source.neutral; loosen them")

    def wanted(self, rows: Rows) -> list[int]:
        """The splits that must not be empty."""
        fractions = (1.0, self.config.splits.validation, self.config.splits.test)
        return [number for number in range(len(SPLITS)) if fractions[number] > 0 or (rows.named == number).any()]

    def freeze(self, number_of_parts: int, starts: list[int], found: Workers) -> Vocabulary:
        """Count the training split, merge and freeze. The result does not depend on the order of merging."""
        numbers = range(number_of_parts)
        tasks = [
            CountTask(tuple(numbers[at : at + COUNT_TOGETHER]), tuple(starts[:-1][at : at + COUNT_TOGETHER]), self.work)
            for at in range(0, number_of_parts, COUNT_TOGETHER)
        ]
        total: Counts | None = None
        for _, counts in found.map(count, tasks, what="count", tick=lambda alive: None):
            total = counts if total is None or counts is None else total.merge([counts])
        assert total is not None
        settings = self.config.vocabulary
        vocabulary = freeze(total, settings.min_count, settings.max_size)
        vocabulary.write(self.root / VOCABULARY)
        return vocabulary

    def encode(
        self,
        starts: list[int],
        summaries: list[parts.Summary],
        decision: np.ndarray,
        vocabulary: Vocabulary,
        pipeline: TextPipeline,
        found: Workers,
    ) -> tuple[dict[str, list[ShardInfo]], dict[str, int]]:
        """Write every shard; and how many unknown tokens each split has."""
        number_of_buckets = max(1, -(-starts[-1] // self.config.shards.rows))
        basis = [
            [summary.key for summary in summaries],
            hashlib.sha256(decision.tobytes()).hexdigest(),
            vocabulary.hash,
            pipeline.hash,
            self.config.widths,
            number_of_buckets,
        ]
        key = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
        tasks = [
            ShardTask(
                bucket,
                number_of_buckets,
                tuple(starts),
                self.work,
                self.root,
                pipeline.to_json(),
                tuple(self.config.widths),
                key,
            )
            for bucket in range(number_of_buckets)
        ]
        progress = Progress("encode", int(starts[-1]))
        infos: dict[str, list[ShardInfo]] = {name: [] for name in SPLITS}
        unknown = dict.fromkeys(SPLITS, 0)
        for _, written in found.map(write_bucket, tasks, what="encode", tick=progress.tick):
            for name, entries in written.shards.items():
                infos[name] += entries
                unknown[name] += written.unknown.get(name, 0)
            number = sum(entry.rows for entries in written.shards.values() for entry in entries)
            progress.advance(number, number)
        progress.close()
        ordered = {name: sorted(entries, key=lambda info: info.path) for name, entries in infos.items() if entries}
        return ordered, unknown

    def statistics(
        self,
        rows: Rows,
        decision: np.ndarray,
        report: dict[str, Any],
        summaries: list[parts.Summary],
        infos: dict[str, list[ShardInfo]],
        unknown: dict[str, int],
        vocabulary: Vocabulary,
    ) -> dict[str, Any]:
        """What is known about the quality of the dataset."""
        splits = statistics(rows, decision, self.names, self.config.text.max_tokens)
        for name, entry in splits.items():
            tokens = sum(info.tokens for info in infos[name])
            cells = sum(info.rows * info.width for info in infos[name])
            entry["tokens_kept"] = tokens
            entry["padding_on_disk"] = round(1 - tokens / cells, 6)
            entry["unknown"] = unknown[name]
            entry["unknown_rate"] = round(unknown[name] / max(tokens - entry["empty"], 1), 6)
        left_out = {
            "neutral": sum(summary.neutral for summary in summaries),
            "filtered": sum(summary.filtered for summary in summaries),
            **report.pop("dropped"),
        }
        read = len(rows.row) + left_out["neutral"] + left_out["filtered"]
        return {
            "rows_read": read,
            "rows_kept": int((decision >= 0).sum()),
            "dropped": left_out,
            **report,
            "vocabulary": {
                "size": len(vocabulary),
                "tokens_counted": int(vocabulary.counts.sum()),
                "tokens_left_out": int(vocabulary.counts[1]),
            },
            "splits": splits,
        }

    def provenance(self, plans: list[Plan], cut: list[Part], summaries: list[parts.Summary]) -> dict[str, Any]:
        """What the dataset was made of and with. No times: equal runs write equal bytes."""
        content: dict[str, Any] = {}
        for part, summary in zip(cut, summaries, strict=True):
            content.setdefault(part.file.address, hashlib.sha256()).update(summary.content.encode())
        entries, first = [], 1
        for plan in plans:
            entry = {
                "name": plan.file.name,
                "format": plan.file.format,
                "bytes": plan.bytes,
                "rows": plan.rows,
                "first_row": first,
                "fingerprint": plan.fingerprint,
            }
            if plan.file.address in content and not plan.fingerprint:
                entry["content"] = content[plan.file.address].hexdigest()
            entries.append(entry)
            first += plan.rows
        versions = {name: version_of(name) for name in ("padless", "numpy", "pyarrow")}
        return {"sources": entries, "config": self.config.deciding(), "versions": versions}

    def finish(self, manifest: Manifest) -> None:
        """Take the scaffolding away; the dataset is whole without it."""
        shutil.rmtree(self.work, ignore_errors=True)


def version_of(distribution: str) -> str:
    """The installed version of a package, or that it runs from a checkout."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def scan_file(task: tuple[int, sources.File, Path]) -> Plan:
    """Look through one file."""
    return sources.scan(task[1], task[2])


def gathered(stored: list[parts.Stored]) -> Rows:
    """The columns of all parts, one after the other."""
    names = {"row": "row", "label": "label", "named": "split", "missing": "missing"}
    names |= {"text_hash": "text_hash", "exact_hash": "exact_hash"}
    columns = {name: parts.gather(stored, column) for name, column in names.items()}
    return Rows(**columns, num_tokens=np.concatenate([np.diff(part.offsets) for part in stored]))


def locate(plans: list[Plan], row: int) -> str:
    """``FILE: row N`` of a row's number in the source."""
    for plan in plans:
        if row <= plan.rows:
            if plan.file.format == "folder":
                return next(p.texts[row - p.cut.first_row][0] for p in plan.parts if row < p.cut.first_row + p.cut.rows)
            return f"{plan.file.name}: row {row}"
        row -= plan.rows
    raise AssertionError(f"row {row} lies beyond the source")


def save_array(path: Path, array: np.ndarray) -> None:
    """One array in numpy's format, whole or not at all."""
    with atomic.replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
        file.flush()


def refuse_foreign(root: Path) -> None:
    """Do not write a dataset among files that are not one's."""
    try:
        there = sorted(path.name for path in root.iterdir())
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"output: {root}: {error.strerror}; name a directory that can be written") from None
    if there and MANIFEST not in there and WORK not in there:
        raise ConfigError(f"output: {root}: holds {there[0]!r} and no dataset; name an empty or a new directory")


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """One run at a time per output directory; the lock goes with the process that holds it."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = open(work / "lock", "w")  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"output: {work.parent}: {error.strerror}; name a directory that can be written") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{work.parent}: another run is writing this dataset; wait for it, or stop it") from None
        yield


def remove_strangers(root: Path, infos: dict[str, list[ShardInfo]]) -> None:
    """Shards of an earlier configuration do not stay beside a manifest that does not name them."""
    named = {root / info.path for entries in infos.values() for info in entries}
    for split in SPLITS:
        for path in (root / split).glob("*.arrow*"):
            if path not in named:
                path.unlink()
        if (root / split).is_dir() and not any((root / split).iterdir()):
            (root / split).rmdir()


def summary_line(manifest: Manifest) -> str:
    """Rows per split, for people."""
    return ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits) + " rows"


__all__ = ["Job", "asdict", "summary_line"]
