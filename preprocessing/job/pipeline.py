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
import json
import re
import shlex
import sys
import unicodedata
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from preprocessing.base import processes
from preprocessing.base.atomic import temporary_folder
from preprocessing.base.errors import DataError
from preprocessing.base.installed import VERSION
from preprocessing.base.terminal import Screen, public, public_values
from preprocessing.config import PreprocessConfig
from preprocessing.corpus.columns import apply_columns, resolve
from preprocessing.corpus.parquet import value_type
from preprocessing.corpus.sources import File, fingerprint_of, list_files
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
from preprocessing.job import engine, near, output, parts
from preprocessing.job.append import CUT, Before
from preprocessing.job.assign import AssignedParts, Assignment, check_splits
from preprocessing.job.encode import BASE, LEAKS, count_all, encode_all, frozen, read_base
from preprocessing.job.executors import Workers, workers
from preprocessing.job.parts import Classes, Source, TokenizedPart
from preprocessing.text import resources
from preprocessing.text.cleaning import encode
from preprocessing.text.encoder import text_hash
from preprocessing.text.spec import TextPipeline, TextSpec
from preprocessing.text.vocabulary import RESERVED, Vocabulary
from preprocessing.text.words import classes_of

if TYPE_CHECKING:
    import pandas as pd

LETTER_ALONE = re.compile("am*")
"""The classes of a letter of a script without spaces, with its marks, which is a token."""


def build(config: PreprocessConfig, frame: str | None = None) -> Manifest:
    """Build the dataset that ``config`` describes, continue an interrupted job, or find it complete. ``frame`` is the
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
            pipeline = resources.resolve(config.text)
        base, on_base = None, dict[str, Any]()
        if config.vocabulary.base is not None:
            base = read_base(config.vocabulary.base, pipeline)
            source = public(config.vocabulary.base)
            on_base = {BASE: {"source": source, "vocabulary_hash": base.hash, "size": len(base)}}
        found = resolve(list(list_files(config.source, config.splits, frame)))
        config, files = apply_columns(config, found.chosen, found.split_column), found.files
        for line in (*found.lines, *(() if before else found.hints)):
            screen.say(line)
        if there and is_complete(config, files, pipeline, there, before, on_base, crew):
            screen.say(f"{public(config.output)}: already complete for this configuration and source; nothing to do")
            manifest = there
        else:
            manifest = make(config, root.absolute(), pipeline, files, base, on_base, crew, screen, before)
        if left := output.finish(root, target, config, fresh=manifest is not there):
            screen.say(left)
        return manifest


def is_complete(
    config: PreprocessConfig,
    files: list[File],
    pipeline: TextPipeline,
    manifest: Manifest,
    before: Before | None,
    on_base: dict[str, Any],
    crew: Workers,
) -> bool:
    """Whether the dataset of ``manifest`` holds these files already, in this configuration."""
    fingerprint = partial(fingerprint_of, is_quick_look=config.limit is not None)
    fingerprints = list(crew.ordered(fingerprint, files, what="compare"))
    if before:
        return before.has(files, fingerprints)
    return output.is_current(manifest, config, pipeline.to_json(), fingerprints, on_base)


def make(
    config: PreprocessConfig,
    root: Path,
    pipeline: TextPipeline,
    files: list[File],
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
    sources = parts.convert_all(config, files, crew, work, before.rows if before else 0)
    tasks = parts.tokenize_all(config, pipeline, sources, crew, work, screen)
    check_files(sources)
    classes = Classes.of(config.source, sources)
    assigned, observed = assign_all(config, work, classes, files, tasks, crew, screen)
    words = count_all(assigned, crew, unlabelled=config.vocabulary.count_unlabelled)
    config = replace(config, vocabulary=config.vocabulary.of(int(words.counts.sum())))
    vocabulary, in_vocabulary = frozen(words, config, base, screen, others.get("vocabulary"))
    vocabulary.write(root / VOCABULARY)
    if not before:
        for line in lines_on_tokens(vocabulary, config.text):
            screen.say(line)
    report = observed["report"] | {"vocabulary": in_vocabulary}
    splits, digest, unknown, lengths = encode_all(assigned, root, config, vocabulary, crew, screen, index, hashes)
    if leaks := lengths.pop(LEAKS):
        report["leaks"] += leaks.total()
        report["dropped"]["leaks"] = report["dropped"].get("leaks", 0) + leaks.total()
    facts = statistics(config, report, sources, sum(task.size for task in tasks), splits, lengths, unknown, others)
    origin = provenance(config, sources) | on_base | {CUT: observed["fractions"]}
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


def assign_all(
    config: PreprocessConfig,
    work: Path,
    classes: Classes,
    files: list[File],
    tasks: list[TokenizedPart],
    crew: Workers,
    screen: Screen,
) -> tuple[AssignedParts, dict[str, Any]]:
    """Assign all rows; returns what was observed too, as ``Assignment`` does. Raises ``DataError`` for an unusable
    split.
    """
    rows_per_part = tuple(task.size for task in tasks)
    num_rows = sum(rows_per_part)
    settings = [asdict(config.splits), asdict(config.quality), config.seed, classes.numbers]
    content = [*(task.key for task in tasks), json.dumps(settings, sort_keys=True)]
    key = hashlib.sha256("".join(content).encode()).hexdigest()
    folder, names = work / "parts", ", ".join(file.name for file in files if not file.is_unlabelled)
    task = Assignment(key, folder, folder / "assigned.json", num_rows, config, classes.numbers, rows_per_part, names)
    with engine.shown("assign", num_rows, screen.quiet) as progress:
        ((_, observed),) = engine.run([task], crew, progress)
    assigned = AssignedParts(work, len(tasks), observed["labelled"], num_rows - observed["labelled"], key)
    if config.quality.near_duplicates == "drop":
        assigned = near.leave_out(assigned, observed, crew, screen)
    if not config.append:
        check_splits(observed, num_rows, classes.names, config.splits)
    return assigned, observed


def check_files(sources: list[Source]) -> None:
    """Raise ``DataError`` if no row is left of the source, or of the files that it names for a split."""
    splits = {source.file.split for source in sources if source.converted.parts}
    for source in sources:
        if source.file.split not in splits:
            why = "it holds none, or source.where, source.neutral and source.missing_label leave out all"
            raise DataError(f"{source.file.name}: no row is left: {why}; change these keys, or name another file")


def statistics(
    config: PreprocessConfig,
    found: dict[str, Any],
    sources: list[Source],
    rows: int,
    splits: dict[str, list[Totals]],
    lengths: dict[str, Counter[int]],
    unknown: dict[str, int],
    before: dict[str, Any],
) -> dict[str, Any]:
    """The manifest's statistics: what was read, left out and ``found`` (the report of ``Assignment``), and each split
    with its ``lengths`` (rows by tokens before truncation) and ``unknown`` tokens; added to those ``before``.
    """
    converted = [source.converted for source in sources]
    left_out = {name: sum(getattr(source, name) for source in converted) for name in ("neutral", "filtered")}
    if config.source.missing_label == "drop":
        left_out["without_label"] = sum(source.without_label for source in converted)
    dropped, most = found.pop("dropped"), config.text.max_tokens
    new = {
        "rows_read": rows + sum(left_out.values()),
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
    facts = add_counts(before, new)
    for name, of in facts["splits"].items():
        kept = sum(part.tokens for part in splits[name]) - of["empty"]
        of["unknown_rate"] = round(of["unknown"] / max(kept, 1), 6)
    return facts


def add_counts(first: Any, second: Any) -> Any:
    """Two reports as one: numbers are added, lists appended, dictionaries merged."""
    if not isinstance(first, dict):
        return first + second
    added = {name: add_counts(first[name], value) if name in first else value for name, value in second.items()}
    return first | added


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


def prepare(config: PreprocessConfig, frame: Any) -> Manifest:
    """``build`` for ``padless.prepare``: worker processes do not run the caller's script again.

    If ``config.source.path`` is ``FRAME``, the rows are those of ``frame``, numbered from 1; the job reads them from a
    temporary Parquet file. Raises ``StorageError`` too, if that cannot be written.
    """
    with ExitStack() as stack:
        path = None
        if frame is not None:
            path = str(stack.enter_context(temporary_folder()) / "frame.parquet")
            pq.write_table(arrow_of(frame), path, row_group_size=GROUP_ROWS, compression="lz4")
        stack.callback(sys.modules.__setitem__, "__main__", sys.modules["__main__"])
        sys.modules["__main__"] = ModuleType("__main__")  # workers need nothing of it, and it may lack the guard
        return build(config, path)


def arrow_of(frame: Any) -> pa.Table:
    """A frame of pandas, or of another library by Arrow's protocol, as a table that Parquet can hold."""
    if hasattr(frame, "iloc"):
        columns = [column_of(frame.iloc[:, place]) for place in range(len(frame.columns))]
        return pa.Table.from_arrays(columns, names=[str(name) for name in frame.columns])
    table = pa.table(frame)
    types = [(field.name, value_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(types, table.schema.metadata))


def column_of(values: pd.Series) -> pa.Array | pa.ChunkedArray:
    """One column as an Arrow array; mixed types and lone surrogates become strings, as in CSV."""
    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowException, ValueError, TypeError):
        texts = values.astype(object).map(lambda value: encode(str(value)).decode(), na_action="ignore")
        return pa.Array.from_pandas(texts, type=pa.large_string())
