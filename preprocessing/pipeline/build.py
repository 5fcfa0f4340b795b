# SPDX-License-Identifier: Apache-2.0
"""From a corpus to a dataset directory. Content and configuration decide every byte; a job can resume at any moment.

1. convert: each source becomes parts of one schema            ``preprocessing.pipeline.tokenize``
2. tokenize: each part becomes codes of tokens, and facts      ``preprocessing.pipeline.tokenize``
3. assign: each row gets a split, or is left out               ``preprocessing.pipeline.assign``
4. count: the vocabulary of what is learned from               ``preprocessing.pipeline.write``
5. write: ids are looked up and written to shards              ``preprocessing.pipeline.write``
6. the manifest, last

Each finished part of a step has a marker file with the hash of its inputs (``padless.core.jobs``). A rerun
makes what is missing or has changed. A manifest's statistics and provenance hold no times and no machine names, so
equal jobs write equal bytes.
"""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from padless.core import jobs
from padless.core.errors import ConfigError, DataError
from padless.core.installed import VERSION
from padless.core.jobs import Workers, open_workers
from padless.core.signals import COMMAND
from padless.core.terminal import Screen, public, public_values
from preprocessing.config import PreprocessConfig
from preprocessing.dataset.index import INDEX
from preprocessing.dataset.inspect import lines_on_classes, lines_on_rows, lines_on_splits, rows_in_words
from preprocessing.dataset.shards import (
    BLOCK_ROWS,
    MANIFEST,
    VOCABULARY,
    Manifest,
    id_dtype,
    write_manifest,
)
from preprocessing.pipeline import work_folder
from preprocessing.pipeline.assign import AssignedParts, Assignment, check_splits
from preprocessing.pipeline.parts import Classes, Source, hash_of
from preprocessing.pipeline.tokenize import TokenizedPart, tokenize_all
from preprocessing.pipeline.write import BASE, WrittenShards, count_all, freeze_vocabulary, read_base, write_all
from preprocessing.sources.columns import apply_columns, resolve_source
from preprocessing.sources.sources import File, fingerprint_of, list_files
from preprocessing.text import resources
from preprocessing.text.encoder import text_hash
from preprocessing.text.spec import TextPipeline
from preprocessing.text.vocabulary import Vocabulary


def build_dataset(config: PreprocessConfig, frame: str | None = None) -> Manifest | None:
    """Build the dataset that ``config`` describes, continue an interrupted job, or find it complete. ``frame`` is the
    Parquet file of the source ``FRAME``.

    Returns None for a share of a job (``executor.share``) that another share completes. Raises ``ConfigError``,
    ``DataError`` or ``UserError``.
    """
    screen = Screen(errors=True, quiet=config.quiet)
    with work_folder.claim_output(config) as (root, target), ExitStack() as stack:
        advice = f"what is finished is kept in {root / work_folder.WORK}; the same command goes on"
        stack.enter_context(COMMAND.advising(advice))
        workers = stack.enter_context(open_workers(config.executor, quiet=config.quiet))
        existing = work_folder.read_existing(target, config.overwrite)
        pipeline = resources.resolve_pipeline(config.text)
        resolved = resolve_source(list(list_files(config.source, config.splits, frame)))
        config = apply_columns(config, resolved.chosen, resolved.split_column)
        base = read_base(config.vocabulary.base, pipeline)
        job = DatasetJob(config, root.absolute(), pipeline, base, resolved.files, workers, screen)
        if existing and job.is_complete(existing):
            screen.print_text(
                f"{public(config.output)}: already complete for this configuration and source; nothing to do"
            )
            manifest: Manifest | None = existing
        else:
            for line in resolved.lines:
                screen.print_text(line)
            manifest = job.make()
        if manifest and workers.share.count == 1:  # the last share to end removes what they needed
            work_folder.finish(root, target, is_fresh=manifest is not existing)
        return manifest


@dataclass(frozen=True)
class DatasetJob:
    """The making of one dataset."""

    config: PreprocessConfig
    root: Path
    """Absolute: the directory to write in."""
    pipeline: TextPipeline
    base: Vocabulary | None
    """``vocabulary.base``."""
    files: list[File]
    """The files of the source, with their columns."""
    workers: Workers
    screen: Screen

    @property
    def base_provenance(self) -> dict[str, Any]:
        """The provenance of ``vocabulary.base``, if there is one."""
        if self.base is None:
            return {}
        source = public(str(self.config.vocabulary.base))
        return {BASE: {"source": source, "vocabulary_hash": self.base.hash, "size": len(self.base)}}

    def hash_inputs(self, fingerprints: list[dict[str, str]]) -> str:
        """The hash of everything that decides the bytes of the dataset."""
        config = public_values(self.config.deciding())
        return hash_of((config, self.pipeline.to_json(), fingerprints, self.base_provenance))

    def is_complete(self, manifest: Manifest) -> bool:
        """Whether the dataset of ``manifest`` holds the rows of these files already, in this configuration.

        Raises ``ConfigError`` if it does not and may not be replaced.
        """
        inputs = self.hash_inputs([fingerprint_of(file) for file in self.files])
        if manifest.provenance.get("inputs") == inputs:
            return True
        if not self.config.overwrite:
            problem = "holds a dataset of another configuration, or of a source that is another now"
            raise ConfigError(f"output: {self.config.output}: {problem}; {work_folder.REPLACE}")
        return False

    def make(self) -> Manifest | None:
        """All steps; None for a share that another one completes."""
        share, work = self.workers.share, self.root / work_folder.WORK
        if share.count > 1:
            work_folder.check_shares(work, [self.config.deciding(), share.count])
        if share.is_leader:
            (self.root / MANIFEST).unlink(missing_ok=True)
        sources, tasks = tokenize_all(self.config, self.pipeline, self.files, self.workers, work)
        check_files(sources)
        classes = Classes.merge(self.config.source, sources)
        assigned, observed = self.assign(classes, tasks)
        words = count_all(assigned, self.config.text, self.workers)
        config = replace(self.config, vocabulary=self.config.vocabulary.resolve_min_count(int(words.counts.sum())))
        vocabulary, token_counts = freeze_vocabulary(words, config, self.base)
        vocabulary.write(self.root / VOCABULARY)
        self.screen.print_text(f"tokens: {config.text.summary()}")
        shards = write_all(assigned, self.root, config, vocabulary, self.workers)
        if not share.is_leader:
            return None
        report = observed["report"] | {"vocabulary": token_counts}
        inputs = self.hash_inputs([source.converted.fingerprint for source in sources])
        manifest = Manifest(
            labels=classes.names,
            splits=shards.splits,
            index=shards.index_hash,
            id_dtype=str(id_dtype(len(vocabulary))),
            block_rows=BLOCK_ROWS,
            vocabulary_size=len(vocabulary),
            vocabulary_hash=vocabulary.hash,
            text=self.pipeline.to_json(),
            text_hash=text_hash(self.pipeline, vocabulary.hash),
            statistics=statistics(config, report, sources, assigned.num_rows, shards),
            provenance=provenance(config, sources) | self.base_provenance | {"inputs": inputs},
            label_type=classes.type,
            label_sets=classes.label_sets,
        )
        work_folder.remove_files(self.root, {VOCABULARY, INDEX, *manifest.shards(self.root).paths()})
        write_manifest(self.root, manifest)
        return manifest

    def assign(self, classes: Classes, tasks: list[TokenizedPart]) -> tuple[AssignedParts, dict[str, Any]]:
        """Assign all rows; returns what was observed too, as ``Assignment`` does. Raises ``DataError`` for an unusable
        split.
        """
        config, rows_per_part = self.config, [task.size for task in tasks]
        num_rows = sum(rows_per_part)
        numbers = sorted(classes.numbers.items())  # their order is that of a set, another one in each process
        settings = config.splits, config.quality, config.seed, numbers, classes.label_sets
        key = hash_of(([task.key for task in tasks], settings))
        folder = self.root / work_folder.WORK / "parts"
        names = ", ".join(file.name for file in self.files if not file.is_unlabelled)
        task = Assignment(key, folder, folder / "assigned.json", num_rows, config, classes, len(tasks), names)
        ((_, observed),) = jobs.run_tasks("assign", folder, [task], self.workers)
        check_splits(observed, num_rows, classes, config.splits)
        return AssignedParts(folder, rows_per_part, observed["labelled"], key), observed


def check_files(sources: list[Source]) -> None:
    """Raise ``DataError`` if no row is left of the source, or of the files that it names for a split."""
    splits = {source.file.split for source in sources if source.converted.parts}
    for source in sources:
        if source.file.split not in splits:
            reason = "it holds none, or source.where and source.missing_label leave out all"
            raise DataError(f"{source.file.name}: no row is left: {reason}; change these keys, or name another file")


def statistics(
    config: PreprocessConfig, report: dict[str, Any], sources: list[Source], num_rows: int, shards: WrittenShards
) -> dict[str, Any]:
    """The manifest's statistics: what was read and left out, the ``report`` of ``Assignment``, and each split."""
    converted = [source.converted for source in sources]
    left_out = {"filtered": sum(source.filtered for source in converted)}
    if config.source.missing_label == "drop":
        left_out["without_label"] = sum(source.without_label for source in converted)
    splits = dict[str, dict[str, float]]()
    for name, rows_by_length in shards.lengths.items():
        if rows_by_length:
            num_empty, num_unknown = rows_by_length[0], shards.num_unknown[name]
            num_ids = sum(total.tokens for total in shards.splits[name]) - num_empty
            num_truncated = sum(rows for length, rows in rows_by_length.items() if length > config.text.max_tokens)
            splits[name] = {
                "tokens": sum(length * rows for length, rows in rows_by_length.items()),
                "truncated": num_truncated,
                "empty": num_empty,
                "unknown": num_unknown,
                "unknown_rate": round(num_unknown / max(num_ids, 1), 6),
            }
    return {
        "rows_read": num_rows + sum(left_out.values()),
        "rows_kept": sum(rows_by_length.total() for rows_by_length in shards.lengths.values()),
        **report,
        "dropped": left_out | report["dropped"],
        "splits": splits,
    }


def provenance(config: PreprocessConfig, sources: list[Source]) -> dict[str, Any]:
    """Sources with their sizes and fingerprints, the configuration, and the versions of packages."""
    entries = []
    for source in sources:
        file, converted = source.file, source.converted
        entry: dict[str, Any] = {"name": file.name, "format": file.format, "split": file.split}
        if converted.read_as:
            entry["read_as"] = converted.read_as
        if file.is_unlabelled and file.source.text_column != config.source.text_column:
            entry["text_column"] = file.source.text_column
        entry |= {"bytes": converted.bytes, "rows": converted.rows_read, "first_row": source.offset + 1}
        entries.append(entry | {"fingerprint": converted.fingerprint})
    versions = {"padless": VERSION, "numpy": np.__version__, "pyarrow": pa.__version__}
    return {"sources": entries, "config": public_values(config.deciding()), "versions": versions}


def prepare_dataset(config: PreprocessConfig) -> None:
    """``padless prepare``: build a dataset; run it again to continue after an interruption."""
    manifest, screen = build_dataset(config), Screen(quiet=config.quiet)
    if manifest is None:
        screen.print_text(
            f"{public(config.output)}: share {config.executor.share} is done; share 0 completes the dataset"
        )
        return
    notes = Screen(errors=True, quiet=config.quiet)
    for line in (*lines_on_classes(manifest), *lines_on_splits(manifest)):
        notes.print_text(line)
    screen.print_text(f"read: {rows_in_words(manifest)}")
    for line in lines_on_rows(manifest):
        Screen(errors=True).print_text(line)
    screen.print_text(f"{public(config.output)}: {manifest.summary()}, vocabulary {manifest.vocabulary_size:,}")
    screen.print_text(f"next: padless train {shlex.quote(public(config.output))}")
