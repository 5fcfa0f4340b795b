# SPDX-License-Identifier: Apache-2.0
"""From a corpus to a dataset directory. Content and configuration decide every byte; a run can resume at any moment.

1. cut the source into parts; read and tokenize each once, into a compact intermediate form     (parallel)
2. decide each row's split, and what becomes of suspect rows                                    (here)
3. count the tokens that are learned from, merge, freeze the vocabulary                         (parallel, then here)
4. write the shards: each takes a range of shuffle keys out of every part                       (parallel)
5. the manifest, last

What is finished has a marker file with the hash of all that decided it. A rerun does what is missing or has changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from preprocessing.base import arrays, atomic, stopping
from preprocessing.base.errors import DataError
from preprocessing.base.printable import public
from preprocessing.base.screen import Screen
from preprocessing.base.split_names import SPLITS, UNLABELLED, UNLABELLED_NUMBER, VALIDATION_NUMBER
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import sources
from preprocessing.corpus.columns import hints, resolved
from preprocessing.corpus.sources import Part, Plan
from preprocessing.dataset.shards import BLOCK_ROWS, MANIFEST, VOCABULARY, Manifest, id_dtype, write_manifest
from preprocessing.dataset.statistics import folds_in_words, groups_in_words, unlabelled_in_words
from preprocessing.job import classes, output, parts, unlabelled
from preprocessing.job.counting import count_all
from preprocessing.job.encode import Basis, buckets_for, encode_all, key_of
from preprocessing.job.executors import Workers, workers
from preprocessing.job.folds import decide_folds
from preprocessing.job.provenance import BASE, provenance
from preprocessing.job.quality import check_splits, dataset_statistics
from preprocessing.job.rows import Rows, gathered
from preprocessing.job.tokenizing import scan, tokenize_all
from preprocessing.job.vocabulary_base import frozen, read_base, unknown_among
from preprocessing.text.encoder import Encoder
from preprocessing.text.resolve import resolve


class Job:
    """One run: a configuration, an output directory, a resolved text pipeline and the workers."""

    def __init__(self, config: PreprocessConfig, found: Workers, place: output.Place) -> None:
        """Raises ``DataError`` where the text pipeline needs something that is not installed."""
        self.config = config
        self.workers = found
        self.place = place
        self.root = place.root.absolute()
        self.work = self.root / output.WORK
        self.names: list[str] = []
        """The classes; known when all labels are read."""
        self.pipeline = resolve(config.text)
        self.base = read_base(config.vocabulary, self.pipeline)
        self.on_base = {} if self.base is None else {BASE: self.base.facts}
        self.screen = Screen(errors=True, quiet=config.quiet)

    def run(self) -> Manifest:
        """Build the dataset, or find that it is there already."""
        found = resolved(list(sources.files(self.config.source, self.config.splits)))
        files, self.config = found.files, found.applied(self.config)
        for line in found.lines:
            self.screen.say(line)
        there = output.existing(self.config.output, self.config.overwrite)
        plans = scan(files, self.workers, self.work) if there or len(files) > 1 else []
        if there and output.is_current(there, self.config, self.pipeline.to_json(), plans, self.on_base):
            done = "already complete for this configuration and source; nothing to do"
            self.screen.say(f"{public(self.config.output)}: {done}")
            manifest = there
        else:
            manifest = self.build(files, plans)
        if left := output.finish(self.place, self.config, fresh=manifest is not there):
            self.screen.say(left)
        return manifest

    def build(self, files: list[sources.File], plans: list[Plan]) -> Manifest:
        """The five passes. A single file is scanned during the first pass, several were scanned before it."""
        (self.root / MANIFEST).unlink(missing_ok=True)
        cut, summaries = tokenize_all(self.config, self.pipeline, self.workers, self.work, files, plans, self.screen)
        stored = [parts.load(self.work, number) for number in range(len(cut))]
        starts = np.concatenate([[0], np.cumsum([len(part.row) for part in stored])]).tolist()
        found = classes.Classes.of(self.config.source, summaries)
        self.names = found.names
        rows = gathered(stored, found.numbers)
        decision, report = self.decide(rows, plans)
        fold = self.cut_into_folds(rows, decision, report)
        counted_too = self.config.vocabulary.count_unlabelled
        counts = count_all(starts, self.work, self.workers, unlabelled=counted_too)
        vocabulary = frozen(counts, self.config.vocabulary, self.base, self.screen)
        vocabulary.write(self.root / VOCABULARY)
        self.comment(cut, found, rows, decision, report)
        widths, buckets = self.config.widths, buckets_for(rows.label, self.config.shards.rows)
        key = key_of(summaries, decision, rows.label, vocabulary, self.pipeline, widths, buckets, fold)
        basis = Basis(starts, self.work, self.root, self.pipeline.spec, widths, buckets, key, self.config.splits.folds)
        infos, unknown = encode_all(basis, self.workers, self.screen)
        left_out = {name: sum(getattr(summary, name) for summary in summaries) for name in ("neutral", "filtered")}
        if self.config.source.missing_label == "drop":
            left_out["without_label"] = sum(summary.without_label for summary in summaries)
        statistics = dataset_statistics(
            rows, decision, report, left_out, infos, unknown, self.names, self.config.text.max_tokens
        )
        counted = int(counts.counts.sum())
        statistics["vocabulary"] = {"tokens_counted": counted, "tokens_left_out": unknown_among(counts, vocabulary)}
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
            provenance=provenance(
                replace(self.config, vocabulary=self.config.vocabulary.of(counted)), plans, cut, summaries
            )
            | self.on_base,
            label_type=found.type,
        )
        output.remove_stale_shards(self.root, infos)
        write_manifest(self.root, manifest)
        return manifest

    def decide(self, rows: Rows, plans: list[Plan]) -> tuple[np.ndarray, dict[str, Any]]:
        """Each row's split, on disk for the workers, and what was found. Raises ``DataError`` for an unusable split."""
        config = self.config
        check_files(plans, rows, config.source.missing_label)
        if (rows.named == UNLABELLED_NUMBER).all():
            names = ", ".join(plan.file.name for plan in plans if not plan.file.is_unlabelled)
            what = f"no row has a label in {config.source.label_column!r}"
            raise DataError(f"{names}: {what}, and a classifier needs some; check source.label_column")
        decision, report = unlabelled.decide(
            rows, config.quality, config.splits, config.seed, lambda row: locate(plans, row), self.group_name
        )
        if "off" in report.get("groups", {}):
            report["groups"]["off"]["label"] = self.names[report["groups"]["off"]["label"]]
        fractions = (1.0, config.splits.validation, config.splits.test)
        wanted = [number for number in range(len(SPLITS)) if fractions[number] > 0 or (rows.named == number).any()]
        mend = "leave it out in source.neutral" if config.source.label_map() is None else "take it out of source.labels"
        check_splits(rows, decision, report["dropped"], self.names, wanted, mend)
        unlabelled.check(decision, rows, plans)
        for name, values_of_rows in (("decision", decision), ("label", rows.label)):
            self.keep(name, values_of_rows)
        return decision, report

    def cut_into_folds(self, rows: Rows, decision: np.ndarray, report: dict[str, Any]) -> np.ndarray | None:
        """Each row's fold, on disk for the workers; ``report`` hears of them. None where no folds are asked for.

        Raises ``DataError`` for folds that cannot be used.
        """
        splits = self.config.splits
        if not splits.folds:
            return None
        column = splits.group_column
        fold, report["folds"] = decide_folds(rows, decision, splits.folds, self.config.seed, self.names, column)
        self.keep("fold", fold)
        return fold

    def keep(self, name: str, values_of_rows: np.ndarray) -> None:
        """Write what was decided of every row where the workers find it."""
        with atomic.replacing(self.work / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            arrays.save(file, values_of_rows)

    def group_name(self, hash_of_group: int) -> str:
        """What the source calls a group."""
        return parts.group_name(self.work, hash_of_group) or "(rows of one text)"

    def comment(
        self, cut: list[Part], found: classes.Classes, rows: Rows, decision: np.ndarray, report: dict[str, Any]
    ) -> None:
        """Say what was found of classes and groups, and which columns might have been used."""
        validation_is_cut = self.config.splits.validation > 0 and not (rows.named == VALIDATION_NUMBER).any()
        lines = classes.in_words(found, rows.label, decision)
        lines += [f"splits: {line}" for line in groups_in_words(report["groups"])] if "groups" in report else []
        lines += [f"folds: {folds_in_words(report['folds'])}"] if "folds" in report else []
        if UNLABELLED in report:
            kept = int((decision == UNLABELLED_NUMBER).sum())
            lines.append(f"unlabelled: {unlabelled_in_words(report[UNLABELLED], kept)}")
        elif self.config.source.has_unlabelled:
            lines.append("unlabelled: every row has a label")
        for line in [*lines, *hints({part.file.address: part.file for part in cut}.values(), validation_is_cut)]:
            self.screen.say(line)


def run(config: PreprocessConfig) -> Manifest:
    """Build the dataset that ``config`` describes, or continue, or find that it is there.

    Raises ``ConfigError``, ``DataError`` or ``UserError``, each a sentence.
    """
    with output.claimed(config) as place:
        kept = f"what is finished is kept in {place.root / output.WORK}; the same command goes on"
        with stopping.keeping(kept), workers(config.executor, quiet=config.quiet) as found:
            return Job(config, found, place).run()


def check_files(plans: list[Plan], rows: Rows, missing_label: str) -> None:
    """Refuse a source, or files that it names for a split, of which no row is left. Raises ``DataError``."""
    ends = np.cumsum([plan.rows for plan in plans])
    left = np.bincount(np.searchsorted(ends, rows.row), minlength=len(plans))
    for split in (None, *SPLITS):
        files = [(plan, left[at]) for at, plan in enumerate(plans) if split in (None, plan.file.split)]
        if files and not any(count for _, count in files):
            keys = ("source.missing_label, " if missing_label == "drop" else "") + "source.where or source.neutral"
            why = f"every row is left out by {keys}; loosen them"
            if not any(plan.rows for plan, _ in files):
                why = f"holds no row; give it some, or leave it out of source.{split}_path"
            raise DataError(f"{', '.join(plan.file.name for plan, _ in files)}: {why}")


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
    return (
        ", ".join(f"{name} {manifest.rows(name):,}" for name in manifest.splits)
        + " rows"
        + (f" in {manifest.folds} folds" if manifest.folds else "")
    )
