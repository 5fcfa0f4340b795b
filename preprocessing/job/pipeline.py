# SPDX-License-Identifier: Apache-2.0
"""From a corpus to a dataset directory. Content and configuration decide every byte; a run can resume at any moment.

1. cut the source into parts; read and tokenize each once, into a compact intermediate form     (parallel)
2. decide each row's split, and what becomes of suspect rows                                    (parallel)
3. count the tokens that are learned from, merge, freeze the vocabulary                         (parallel, then here)
4. write the shards: each takes a range of shuffle keys out of every part                       (parallel)
5. the manifest, last

Each finished part has a marker file with the hash of its inputs. A rerun makes what is missing or has changed. A
manifest's statistics and provenance hold no times and no machine names, so equal runs write equal bytes.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import unicodedata
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.base import processes
from preprocessing.base.atomic import temporary_folder
from preprocessing.base.errors import DataError
from preprocessing.base.installed import VERSION
from preprocessing.base.split_names import SPLITS, TEST, VALIDATION
from preprocessing.base.terminal import Screen, counted, public, public_values
from preprocessing.config import PreprocessConfig
from preprocessing.corpus import sources
from preprocessing.corpus.columns import resolved, settled
from preprocessing.corpus.parquet import decoded
from preprocessing.corpus.sources import Plan
from preprocessing.dataset.index import INDEX, Totals
from preprocessing.dataset.inspect import lines_on_classes, lines_on_rows, lines_on_splits, rows_in_words
from preprocessing.dataset.shards import (
    BLOCK_ROWS,
    MANIFEST,
    NEAR_DUPLICATES,
    VOCABULARY,
    Manifest,
    id_dtype,
    write_manifest,
)
from preprocessing.job import near, output, parts
from preprocessing.job.append import CUT, Before
from preprocessing.job.decisions import Decided, Ranges, check_splits, summed
from preprocessing.job.encode import BASE, LEAKS, REPEATS, count_all, encode_all, frozen, read_base
from preprocessing.job.executors import Workers, workers
from preprocessing.job.grouping import apportioned
from preprocessing.job.parts import Classes, Summary, TokenizedPart
from preprocessing.text.cleaning import encode
from preprocessing.text.encoder import text_hash
from preprocessing.text.resources import resolve
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.vocabulary import RESERVED, Vocabulary
from preprocessing.text.words import classes_of

if TYPE_CHECKING:
    import pandas as pd

MANY_CLASSES = 20
"""So many may have one or two rows each, as in a first trial."""
LETTER_ALONE = re.compile("am*")
"""The classes of a letter of a script without spaces, with its marks, which is a token."""


def build(config: PreprocessConfig, frame: Path | None = None) -> Manifest:
    """Build the dataset that ``config`` describes, continue an interrupted job, or find it complete. ``frame``: the
    Parquet file of the source ``FRAME``.

    Raises ``ConfigError``, ``DataError`` or ``UserError``.
    """
    screen = Screen(errors=True, quiet=config.quiet)
    with output.claimed(config) as (root, target), ExitStack() as stack:
        kept = f"what is finished is kept in {root / output.WORK}; the same command goes on"
        stack.enter_context(processes.keeping(kept))
        crew = stack.enter_context(workers(config.executor, quiet=config.quiet))
        there = output.existing(config.output, config.overwrite)
        before = Before(target.absolute(), there) if there and config.append else None
        if before:
            config, pipeline = before.settings(config), TextPipeline.from_json(before.manifest.text, target)
        else:
            pipeline = resolve(config.text)
        base, on_base = None, dict[str, Any]()
        if config.vocabulary.base is not None:
            base = read_base(config.vocabulary.base, pipeline)
            source = public(config.vocabulary.base)
            on_base = {BASE: {"source": source, "vocabulary_hash": base.hash, "size": len(base)}}
        found = resolved(list(sources.files(config.source, config.splits, frame)))
        config = settled(config, found.chosen, found.column)
        for line in (*found.lines, *(() if before else found.hints)):
            screen.say(line)
        plans = parts.scan(config, found.files, crew, root.absolute() / output.WORK, before.rows if before else 0)
        text = pipeline.to_json()
        if there and (before.has(plans) if before else output.is_current(there, config, text, plans, on_base)):
            screen.say(f"{public(config.output)}: already complete for this configuration and source; nothing to do")
            manifest = there
        else:
            manifest = make(config, root.absolute(), pipeline, plans, base, on_base, crew, screen, before)
        if left := output.finish(root, target, config, fresh=manifest is not there):
            screen.say(left)
        return manifest


def make(
    config: PreprocessConfig,
    root: Path,
    pipeline: TextPipeline,
    plans: list[Plan],
    base: Vocabulary | None,
    on_base: dict[str, Any],
    crew: Workers,
    screen: Screen,
    before: Before | None,
) -> Manifest:
    """The five passes; of rows to add to the dataset ``before``, if there is one."""
    work, hashes, index, others = root / output.WORK, None, None, dict[str, Any]()
    for name in (MANIFEST, NEAR_DUPLICATES):
        (root / name).unlink(missing_ok=True)
    if before:
        index, others = before.manifest.shards(before.root), before.manifest.statistics
        before.link(index.paths(), root)
        if config.quality.leaks != "keep":
            hashes = before.write_hashes(index, work, crew)
    tasks, summaries = parts.tokenize_all(config, pipeline, plans, crew, work, screen)
    classes = Classes.of(config.source, summaries)
    written, found = decided(config, work, classes, plans, tasks, summaries, crew, screen)
    words = count_all(written, crew, unlabelled=config.vocabulary.count_unlabelled)
    config = replace(config, vocabulary=config.vocabulary.of(int(words.counts.sum())))
    vocabulary, in_vocabulary = frozen(words, config, base, screen, others.get("vocabulary"))
    vocabulary.write(root / VOCABULARY)
    if not before:
        for line in lines_on_tokens(vocabulary, config.text):
            screen.say(line)
    report = found["found"] | {"vocabulary": in_vocabulary}
    splits, digest, unknown, lengths = encode_all(written, root, config, vocabulary, crew, screen, index, hashes)
    if leaks := lengths.pop(LEAKS):
        report["leaks"] += leaks.total()
        report["dropped"]["leaks"] = report["dropped"].get("leaks", 0) + leaks.total()
    if repeats := lengths.pop(REPEATS):
        Screen(errors=True).say(f"kept: {counted(repeats.total(), 'new row')} with a text that its split has already")
    facts = statistics(config, report, summaries, splits, lengths, unknown, others)
    origin = provenance(config, plans) | on_base | {CUT: found["fractions"]}
    origin = before.provenance(origin, config) if before else origin
    manifest = Manifest(
        labels=classes.names,
        splits=splits,
        index=digest,
        id_dtype=str(id_dtype(len(vocabulary))),
        block_rows=BLOCK_ROWS,
        vocabulary_size=len(vocabulary),
        vocabulary_hash=vocabulary.hash,
        text=pipeline.to_json(),
        text_hash=text_hash(pipeline, vocabulary.hash),
        statistics=facts,
        provenance=origin,
        label_type=before.manifest.label_type if before else classes.type,
    )
    output.remove_files(root, {VOCABULARY, INDEX, NEAR_DUPLICATES, *manifest.shards(root).paths()})
    write_manifest(root, manifest)
    return manifest


def decided(
    config: PreprocessConfig,
    work: Path,
    classes: Classes,
    plans: list[Plan],
    tasks: list[TokenizedPart],
    summaries: list[Summary],
    crew: Workers,
    screen: Screen,
) -> tuple[Decided, dict[str, Any]]:
    """The decisions on all rows, and what was found: that of ``Ranges.settle`` of all ranges together; ``fractions`` of
    the rows that the seed is to put into validation and test.

    Raises ``DataError`` for an unusable split.
    """
    check_files(plans, tasks, summaries)
    rows = sum(summary.rows for summary in summaries)
    ranges = Ranges.over(work, config, classes, rows)
    before = summed(crew.ordered(ranges.survey, range(ranges.of), what="survey"))
    named, labelled = before["named"][1:], int(before["named"].sum())
    files = ", ".join(plan.file.name for plan in plans if not plan.file.is_unlabelled)
    if not labelled:
        what = f"no row has a label in {config.source.label_column!r}"
        raise DataError(f"{files}: {what}, and a classifier needs some; check source.label_column")
    if before["empty"] == labelled:
        raise DataError(f"{files}: no token is left of any text; check text.stop_words")
    if before["texts"] == 1 < labelled:
        raise DataError(f"{files}: all {labelled:,} texts are equal; check source.text_column")
    if MANY_CLASSES < len(classes.names) > labelled // 2:
        what = f"{config.source.label_column!r} has {len(classes.names):,} different labels in {labelled:,} rows"
        mend = "name another source.label_column, or turn numbers into a few classes first"
        raise DataError(f"{files}: {what}, and a classifier needs labels that repeat; {mend}")
    fractions = {VALIDATION: config.splits.validation, TEST: config.splits.test}
    fractions = {name: 0.0 if named[SPLITS.index(name)] else fraction for name, fraction in fractions.items()}
    for name, values in config.splits.names.items():
        if name in SPLITS and not named[SPLITS.index(name)]:
            raise DataError(
                f"splits.names.{name}: no row has one of these in {config.splits.column!r}: "
                f"{', '.join(map(repr, values))}; correct the key"
            )
    shares = apportioned(np.stack(before["pool"]), **fractions)
    found = summed(crew.ordered(partial(ranges.settle, fractions), enumerate(shares), what="decide"))
    hashes = crew.ordered(ranges.gather, range(len(tasks)), what="gather")
    digest = hashlib.sha256("".join([*(task.key for task in tasks), *hashes]).encode()).hexdigest()
    written = Decided(work, len(tasks), labelled, rows - labelled, digest)
    if config.quality.near_duplicates == "drop":
        written = near.leave_out(written, found, crew, screen)
    if not config.append:
        check_splits(found["labels"], named, rows, classes.names, config.splits)
    return written, found | {"fractions": fractions}


def check_files(plans: list[Plan], tasks: list[TokenizedPart], summaries: list[Summary]) -> None:
    """Raise ``DataError`` if no row is left of the source, or of the files that it names for a split."""
    left = {task.part.file.split for task, summary in zip(tasks, summaries, strict=True) if summary.rows}
    for plan in plans:
        if plan.file.split not in left:
            why = "it holds none, or source.where, source.neutral and source.missing_label leave out all"
            raise DataError(f"{plan.file.name}: no row is left: {why}; change these keys, or name another file")


def statistics(
    config: PreprocessConfig,
    found: dict[str, Any],
    summaries: list[Summary],
    splits: dict[str, list[Totals]],
    lengths: dict[str, Counter[int]],
    unknown: dict[str, int],
    before: dict[str, Any],
) -> dict[str, Any]:
    """The manifest's statistics: what was read, left out and ``found`` (``pipeline.decided``), and each split with its
    ``lengths`` (rows by tokens before truncation) and ``unknown`` tokens; added to those ``before``.
    """
    left_out = {name: sum(getattr(summary, name) for summary in summaries) for name in ("neutral", "filtered")}
    if config.source.missing_label == "drop":
        left_out["without_label"] = sum(summary.without_label for summary in summaries)
    dropped, most = found.pop("dropped"), config.text.max_tokens
    new = {
        "rows_read": sum(summary.rows for summary in summaries) + sum(left_out.values()),
        "rows_kept": sum(its.total() for its in lengths.values()),
        "dropped": {**left_out, **dropped},
        **found,
        "splits": {
            name: {
                "tokens": sum(length * rows for length, rows in its.items()),
                "truncated": sum(rows for length, rows in its.items() if length > most),
                "empty": its[0],
                "unknown": unknown[name],
            }
            for name, its in lengths.items()
            if its
        },
    }
    facts = summed([before, new])
    for name, of in facts["splits"].items():
        kept = sum(part.tokens for part in splits[name]) - of["empty"]
        of["unknown_rate"] = round(of["unknown"] / max(kept, 1), 6)
    return facts


def provenance(config: PreprocessConfig, plans: list[Plan]) -> dict[str, Any]:
    """Sources with their sizes and fingerprints, the configuration, and the versions of packages."""
    entries = []
    for plan in plans:
        entry: dict[str, Any] = {"name": plan.file.name, "format": plan.file.format, "split": plan.file.split}
        if read_as := plan.file.form.recorded:
            entry["read_as"] = read_as
        if plan.file.is_unlabelled and plan.file.source.text_column != config.source.text_column:
            entry["text_column"] = plan.file.source.text_column
        entry |= {"bytes": plan.bytes, "rows": plan.rows, "first_row": plan.before + 1, "fingerprint": plan.fingerprint}
        entries.append(entry)
    versions = {"padless": VERSION, "numpy": np.__version__, "pyarrow": pa.__version__}
    return {"sources": entries, "config": public_values(config.deciding()), "versions": versions}


def lines_on_tokens(vocabulary: Vocabulary, spec: TextSpec) -> list[str]:
    """A line on what a token is, with the share of letters that are tokens, and perhaps one on rules of another
    language.
    """
    tokens, counts = vocabulary.tokens.to_pylist()[len(RESERVED) :], vocabulary.counts[len(RESERVED) :]
    alone = counts[[bool(LETTER_ALONE.fullmatch(classes_of(token))) for token in tokens]].sum()
    share = (
        f", {100 * alone / counts.sum():.0f} % letters of scripts without spaces" if 100 * alone > counts.sum() else ""
    )
    lines = [f"tokens: {spec.in_words()}{share}"]
    asked = {"text.stop_words": spec.stop_words in ("nltk", "stop-words"), "text.lemmatizer": spec.lemmatizer != "none"}
    if spec.language == "en" and any(asked.values()):
        foreign = [token[0].isalpha() and "LATIN" not in unicodedata.name(token[0], "") for token in tokens]
        if 2 * counts[np.array(foreign, bool)].sum() > counts.sum():
            keys = " and ".join(key for key, is_asked in asked.items() if is_asked)
            lines.append(f"{keys}: text.language is en, but most tokens are not in Latin letters; set text.language")
    return lines


def run(config: PreprocessConfig) -> None:
    """``padless prepare``: build a dataset; run it again to continue after an interruption."""
    manifest, screen = build(config), Screen(quiet=config.quiet)
    notes = Screen(errors=True, quiet=config.quiet)
    for line in (*lines_on_classes(manifest), *lines_on_splits(manifest)):
        notes.say(line)
    screen.say(f"read: {rows_in_words(manifest)}")
    for line in lines_on_rows(manifest):
        Screen(errors=True).say(line)
    screen.say(f"{public(config.output)}: {manifest.in_words()}, vocabulary {manifest.vocabulary_size:,}")
    screen.say(f"next: padless train {shlex.quote(public(config.output))}")


GROUP_ROWS = 16384


def build_from_frame(config: PreprocessConfig, frame: Any) -> Manifest:
    """``build``, where ``config.source.path`` is ``FRAME``, from the rows of ``frame``, numbered from 1.

    The job reads them from a temporary Parquet file. Raises ``StorageError`` too, if that cannot be written.
    """
    with temporary_folder() as folder:
        path = folder / "frame.parquet"
        pq.write_table(arrow_of(frame), path, row_group_size=GROUP_ROWS, compression="lz4")
        return build(config, path)


def arrow_of(frame: Any) -> pa.Table:
    """A frame of pandas, or of another library by Arrow's protocol, as a table that Parquet can hold."""
    if hasattr(frame, "iloc") and hasattr(frame, "columns"):
        columns = [column_of(frame.iloc[:, place]) for place in range(len(frame.columns))]
        return pa.Table.from_arrays(columns, names=[str(name) for name in frame.columns])
    try:
        return decoded(pa.table(frame))
    except (pa.ArrowException, ValueError, TypeError):
        what = f"a {type(frame).__name__} is no table; give a frame with a column of texts, or the names of files"
        raise DataError(what) from None


def column_of(values: pd.Series) -> pa.Array | pa.ChunkedArray:
    """One column as an Arrow array; mixed types and lone surrogates become strings, as in CSV."""
    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowException, ValueError, TypeError):
        texts = values.astype(object).map(lambda value: encode(str(value)).decode(), na_action="ignore")
        return pa.Array.from_pandas(texts, type=pa.large_string())
