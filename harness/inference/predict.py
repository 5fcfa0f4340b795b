# SPDX-License-Identifier: Apache-2.0
"""``padless predict``: predicts texts, or every row of files, in parts, by processes of this machine.

1. convert each file to Arrow files: errors are reported before anything is predicted        (parallel)
2. predict the missing parts, and write a marker for each                                      (parallel)
3. put them together

Where the input is cut depends only on the input and the settings, so every process makes the same part at any time. An
interrupted prediction continues with the missing parts; finished ones are in ``OUTPUT.parts/``. Several commands with a
share each (``--share``) work on one prediction.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.distributed.devices import check_device
from harness.inference.config import PredictConfig, resolve_prediction
from harness.inference.rows import find_texts, iter_parts, iter_texts, refuse_input
from harness.inference.scorer import Scorer, open_scorer, unknown_shares
from harness.rundir.bundle_files import BundleInfo
from harness.rundir.json_files import seal_of
from harness.rundir.results import join_label_column, probability_column
from padless.core import arrays, atomic, jobs
from padless.core.atomic import check_replaced, storage_errors
from padless.core.errors import ConfigError, DataError, UserError
from padless.core.jobs import Share, open_workers
from padless.core.processes import available_cores
from padless.core.signals import COMMAND
from padless.core.terminal import Screen, percent, plain_line, print_stderr
from preprocessing.config import ReadingOptions
from preprocessing.labels import AUTO, LIST, name_label_value
from preprocessing.pipeline.parts import Source, convert_all
from preprocessing.pipeline.tokenize import hash_types
from preprocessing.sources import parquet
from preprocessing.sources.convert import read_part
from preprocessing.sources.sources import FORMAT_BY_SUFFIX, identity_of
from preprocessing.sources.text_files import BYTE_ORDER_MARK
from preprocessing.text.characters import encode

VERSION = 4
"""Increase it when the same input and settings give other bytes."""
LOCK_S = 30
"""Longest wait of a share for another command."""
OTHERWISE = "name another --output"
FOLDER_POSITIONS = (3, 0)
"""The file and the text of a folder's row among the columns that the reader gives."""
BLOCK_ROWS = 2048
"""Maximum rows that are written at once."""
Part: TypeAlias = tuple[pa.Table, pa.Table]
"""The rows of a converted part, and the new columns."""


@dataclass(frozen=True)
class PartFacts:
    """Facts of a predicted part."""

    rows: int
    without_known_word: int
    """Number of texts without a token in the vocabulary."""
    without_label: int = 0
    """Number of texts whose label is left out."""


@dataclass(frozen=True)
class ScoredPart(jobs.Task[PartFacts]):
    """The predictions for one part of the input, as Parquet."""

    path: Path
    """Absolute: the file to write."""
    rows: Path
    """Absolute: the converted part."""
    open_model: partial[Scorer]
    """Calls ``open_scorer``; each thread of a worker does so once."""

    result: ClassVar[type] = PartFacts

    def run(self) -> tuple[PartFacts, dict[str, str]]:
        """Raises ``OSError`` if reading or writing fails."""
        scorer: Scorer = jobs.open_once(self.key, self.open_model)
        texts = arrays.read_batch(self.rows)["text"]
        num_unknown, tables = 0, list[pa.Table]()
        for encoded in encode_ahead(texts, scorer):
            tables.append(pa.table(scorer.columns(scorer.score(encoded))))
            num_unknown += int((unknown_shares(encoded) == 1).sum())
        table = pa.concat_tables(tables)
        with atomic.replacing(self.path) as temporary:
            pq.write_table(table, temporary)
        facts = PartFacts(len(texts), num_unknown, table["predicted"].null_count)
        return facts, {self.path.name: atomic.sha256_file(self.path)}


def encode_ahead(texts: pa.Array, scorer: Scorer) -> Iterator[list[np.ndarray]]:
    """The ids of blocks of texts; another thread encodes the next block meanwhile."""
    blocks = (texts.slice(start, BLOCK_ROWS).fill_null("") for start in range(0, len(texts), BLOCK_ROWS))
    steps = (scorer.encoder.encode_each(block) for block in blocks)
    with ThreadPoolExecutor(1) as pool:
        next_step = pool.submit(next, steps, None)
        # cannot hang: the thread encodes texts in memory
        while (encoded := next_step.result()) is not None:
            next_step = pool.submit(next, steps, None)
            yield encoded


def main(config: PredictConfig) -> None:
    """Predict the texts given, or every row of the input, with the best weights of a run."""
    config = resolve_prediction(config)
    check_device(config.device)
    options: dict[str, Any] = {"device": config.device, "precision": config.precision, "abstain": config.abstain}
    if config.output is not None:
        options["threads"] = 1  # so that nothing depends on their number
    scorer = open_scorer(config.run, config.engine, **options)
    if config.output is not None:
        predict_files(config, Path(config.output), scorer)
        return
    with atomic.temporary_folder() as folder:
        lines: Iterable[list[str]] = [config.texts]
        if config.inputs:
            lines = iter_texts(find_texts(config.inputs, config.source, ReadingOptions(), folder))
        for texts in lines:
            print_predictions(scorer, texts, config.json)


def print_predictions(scorer: Scorer, texts: list[str], as_json: bool) -> None:
    """Print a line for each text."""
    encoded, screen = scorer.encoder.encode_each(texts), Screen()
    rows = pa.table(scorer.columns(scorer.score(encoded))).to_pylist()
    for text, values, unknown_share in zip(texts, rows, unknown_shares(encoded).tolist(), strict=True):
        if as_json:
            print(json.dumps({"text": text, **values, "unknown_share": round(unknown_share, 4)}))
            continue
        labels = values["predicted"]
        labels = labels if isinstance(labels, list) else [labels]
        names = [name_label_value(label) or "" for label in labels if label is not None]
        answers = [f"{plain_line(name)}  {values[probability_column(name)]:.4f}  " for name in names]
        head = "".join(answers) or "(no label)  "
        head += "(no known word)  " if unknown_share == 1 else ""
        screen.print_excerpt(head, text)
    sys.stdout.flush()


def predict_files(config: PredictConfig, target: Path, scorer: Scorer) -> None:
    """Predict with the processes of this machine, all parts or one share of them, by models like ``scorer``.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    work = target.with_name(f"{target.name}.parts").absolute()
    share, screen = Share.parse(config.share), Screen(quiet=config.quiet)
    if share.count > 1 and target.exists():
        screen.print_text(
            f"{target}: is there already, so share {config.share} has nothing to do; remove it to predict anew"
        )
        return
    with claim_predictions(target, work, share), ExitStack() as stack:
        stack.enter_context(COMMAND.advising(f"finished parts are kept in {work}; the same command goes on"))
        info = scorer.info
        if config.rank and info.has_label_sets:
            raise ConfigError("rank: chooses rows where a text has one label, not several; leave this out")
        files = find_texts(config.inputs, config.source, info.source, work)
        refuse_input(target, files)
        check_replaced(target, config.overwrite)
        num_parts = int(sum(identity_of(file)["bytes"] for file in files) / (config.source.part_mb * 1e6))
        is_cpu = scorer.arithmetic["device"] == "cpu"
        num_processes = max(1, min(available_cores(), num_parts)) if is_cpu else 1  # a start of one takes seconds
        workers = stack.enter_context(open_workers(config.executor(num_processes), quiet=config.quiet))
        sources = convert_all(files, workers, work, keep_columns=True)
        output = plan_output(target, sources, info, has_label=config.rank is not None)
        parts = list_parts(sources, work, scorer, config.abstain)
        results = jobs.run_tasks("predicting", work, parts, workers, wait=share.is_leader)
        facts = [facts for _, facts in results]
        if not share.is_leader:
            screen.print_text(f"{target}: share {config.share} is done; share 0 writes the file")
            return

        def read_parts() -> Iterator[Part]:
            for (_, rows), part in zip(iter_parts(sources), parts, strict=True):
                yield rows, pq.read_table(part.path)

        with (
            storage_errors(target, otherwise=OTHERWISE),
            atomic.replacing(target) as temporary,
            open(temporary, "wb") as file,
        ):
            output.write(file, choose_rows(config.rank, read_parts) if config.rank else read_parts())
        print_outcome(config, target, facts, output.names[0])


def plan_output(target: Path, sources: Sequence[Source], info: BundleInfo, *, has_label: bool) -> Output:
    """The file of predictions; with ``has_label`` its first new column is for the label.

    Raises ``DataError`` for files with other columns than the first, and for columns named like the new ones,
    ``ConfigError`` for a format that the rows do not fit.
    """
    names = ["predicted", *map(probability_column, info.labels)]
    if has_label:
        names.insert(0, "label" if info.source.label_column == AUTO else info.source.label_column)
    first, schema, output_format = sources[0], read_schema(sources[0]), FORMAT_BY_SUFFIX[target.suffix.lower()]
    for source in sources:
        if source.file.format != first.file.format or not read_schema(source).equals(schema):
            problem = f"its format, columns or their types are not those of {first.file.name}"
            raise DataError(f"{source.file.name}: {problem}; predict them in two commands")
        if source.file.format == "jsonl":
            refuse_keys(source, names)
    for name in names:
        if name in schema.names:
            raise DataError(f"{first.file.name}: already has a column {name!r}; rename or remove it")
    if first.file.format == "jsonl" != output_format:
        raise ConfigError(f"--output {target}: the rows of JSON are written as JSON lines; name a .jsonl file")
    separator = info.source.labels_separator
    is_joined = output_format == "csv" and info.source.has_label_sets and separator != LIST
    return Output(first, schema, names, output_format, separator if is_joined else None)


def choose_rows(number: int, list_parts: Callable[[], Iterable[Part]]) -> Iterator[Part]:
    """The ``number`` rows of predicted parts to label next, with an empty column for the label before the others: those
    with the smallest margin between the two most probable classes (breaking ties; Luo et al. 2005), each text once.
    """
    import pandas as pd

    frames = []
    for rows, columns in list_parts():
        chances = np.sort(np.stack([column.to_numpy() for column in columns.columns[1:]], axis=1))
        hashes = hash_types(rows["text"].fill_null("").combine_chunks())
        frames.append(pd.DataFrame({"margin": chances[:, -1] - chances[:, -2], "hash": hashes}))
    texts = pd.concat(frames, ignore_index=True).sort_values("margin", kind="stable").drop_duplicates("hash")
    first_row = 0
    for rows, columns in list_parts():
        mask = pa.array(np.isin(np.arange(first_row, first_row + len(rows)), texts.index[:number]))
        first_row += len(rows)
        labelled = columns.add_column(0, "label", pa.array([""] * len(columns)))
        yield rows.filter(mask), labelled.filter(mask)


def print_outcome(config: PredictConfig, target: Path, facts: Sequence[PartFacts], first_column: str) -> None:
    """Print what was written, and how many texts have no label or no known word."""
    screen = Screen(quiet=config.quiet)
    if config.rank:
        screen.print_text(f"rows to label next written to {target}: fill in column {first_column!r}")
        return
    num_rows = sum(part.rows for part in facts)
    screen.print_text(f"{num_rows:,} predictions written to {target}")
    if config.abstain:
        num_unlabelled = sum(part.without_label for part in facts)
        screen.print_text(f"{num_unlabelled:,} texts ({percent(num_unlabelled / num_rows)}) have no label")
    if num_unknown := sum(part.without_known_word for part in facts):
        proportion = percent(num_unknown / num_rows)
        print_stderr(f"warning: {num_unknown:,} of {num_rows:,} texts ({proportion}) hold no known word")


def list_parts(sources: Sequence[Source], work: Path, scorer: Scorer, abstain: float | None) -> list[ScoredPart]:
    """All parts, at least one. Their key, which begins the names of their files, is the hash of all rows and of
    everything else that determines the predictions.
    """
    parts = [(source.folder / part.path, part) for source in sources for part in source.converted.parts]
    if not parts:
        raise DataError(f"{sources[0].file.name}: holds no rows")
    options = {**scorer.arithmetic, "abstain": abstain}
    settings = {"version": VERSION, "engine": scorer.engine, "weights": seal_of(scorer.info.to_json()), **options}
    content = atomic.canonical_json(settings | {"parts": [part.sha256 for _, part in parts]})
    key = hashlib.sha256(content).hexdigest()
    open_model = partial(open_scorer, scorer.directory, scorer.engine, threads=1, **options)
    names = [work / f"{key[:16]}-{number:05d}" for number in range(len(parts))]
    return [
        ScoredPart(key, work, name.with_suffix(".json"), part.rows, name.with_suffix(".parquet"), rows, open_model)
        for name, (rows, part) in zip(names, parts, strict=True)
    ]


@contextmanager
def claim_predictions(target: Path, work: Path, share: Share) -> Iterator[None]:
    """Lock an output for this command, or for shares, and make the folder ``work`` of its parts and markers. It is
    removed when the output is written, or after an error before the first part.

    Raises ``ConfigError`` for a folder that no prediction made, ``StorageError`` if it is not writable, ``UserError``
    while another process predicts to it.
    """
    if os.path.lexists(work) and not atomic.is_signed(work, target):
        problem = "would hold the parts of this prediction, but was not made by one"
        raise ConfigError(f"{work}: {problem}; rename it, or {OTHERWISE}")
    refusal = UserError(f"{target}: another process is predicting to it; wait for it, or stop it")
    with (
        storage_errors(target, otherwise=OTHERWISE),
        jobs.claim_folder(work, target, share, LOCK_S, refusal),
    ):
        atomic.sweep(target)
        try:
            yield
        except UserError:
            if share.count == 1 and not any(work.glob("*.parquet")):
                atomic.vanish(work)
            raise
        if share.is_leader:
            atomic.vanish(work)


@dataclass(frozen=True)
class Output:
    """A file of predictions: the columns of its sources, then the new ones; the rows stay as they were."""

    first: Source
    """The first of the sources, which are alike, converted with all columns."""
    schema: pa.Schema
    """Of the columns of all sources; of none for JSON, whose objects need not be alike."""
    names: Sequence[str]
    """The new columns."""
    format: str
    """As in ``FORMAT_BY_SUFFIX``."""
    labels_separator: str | None
    """Between several labels in a CSV file; None: they are written as JSON, or as lists."""

    def write(self, output: BinaryIO, parts: Iterable[Part]) -> None:
        """Write all rows of some parts, with their new columns."""
        if self.first.file.format == "jsonl":
            for rows, columns in parts:
                additions = columns.rename_columns(self.names).to_pylist()
                for line, members in zip(rows["line"].to_pylist(), additions, strict=True):
                    output.write(extend_object(line, members))
            return
        tables = itertools.starmap(self.join_columns, parts)
        match self.format:
            case "parquet":
                first = next(tables)
                with pq.ParquetWriter(output, first.schema) as writer:
                    for table in itertools.chain([first], tables):
                        writer.write_table(table)
            case "jsonl":
                for row in iter_rows(tables):
                    values = dict(zip([*self.schema.names, *self.names], map(finite, row), strict=True))
                    output.write(encode(as_json(values) + "\n"))
            case _:
                self.write_csv(output, iter_rows(tables))

    def write_csv(self, output: BinaryIO, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows with a header, with the delimiter and the byte order mark of the first source."""
        converted = self.first.converted
        output.write(BYTE_ORDER_MARK if converted.has_mark else b"")
        writer = csv.writer(CsvLines(output), delimiter=converted.delimiter.replace("\t", ","))
        writer.writerow([*self.schema.names, *self.names])
        for row in rows:
            writer.writerow(map(field_of, row))

    def join_columns(self, rows: pa.Table, columns: pa.Table) -> pa.Table:
        """The rows of a converted part as they were in its file, and the new columns."""
        positions = FOLDER_POSITIONS if self.first.file.format == "folder" else range(len(self.schema))
        table = pa.table([rows[f"column_{position}"] for position in positions], names=self.schema.names)
        table = table.replace_schema_metadata(self.schema.metadata)
        for name, column in zip(self.names, columns.columns, strict=True):
            separator = self.labels_separator
            table = table.append_column(name, join_label_column(column, separator) if separator else column)
        return table


def refuse_keys(source: Source, names: Sequence[str]) -> None:
    """Raise ``DataError`` for the first object of JSON lines that has one of these keys."""
    pattern = "|".join(re.escape(json.dumps(name, ensure_ascii=False)) for name in names) + r"|\\u"
    for part in source.converted.parts:
        table = read_part(source.folder, part)
        candidates = table.filter(pc.match_substring_regex(table["line"].cast(pa.large_binary()), pattern))
        for row, line in zip(candidates["row"].to_pylist(), candidates["line"].to_pylist(), strict=True):
            if keys := sorted({*names} & {*json.loads(line)}):
                raise DataError(f"{source.file.name}: row {row}: already has a key {keys[0]!r}; rename or remove it")


class CsvLines:
    """A file for ``csv.writer``, whose records end at newlines; a carriage return is quoted like its ends."""

    def __init__(self, output: BinaryIO) -> None:
        self.output = output

    def write(self, record: str) -> None:
        """Write a record."""
        self.output.write(encode(f"{record[:-2]}\n"))


def read_schema(source: Source) -> pa.Schema:
    """The columns of a file, of texts except from Parquet; none of JSON."""
    file = source.file
    if file.format == "parquet":
        return parquet.read_footer(file)[1]
    names = {"jsonl": [], "folder": ["file", *file.source.text_columns]}.get(file.format, source.converted.columns)
    return pa.schema([(name, pa.large_string()) for name in names])


def iter_rows(tables: Iterable[pa.Table]) -> Iterator[tuple[Any, ...]]:
    """The rows of tables as values of Python."""
    for table in tables:
        for batch in table.to_batches(max_chunksize=BLOCK_ROWS):
            yield from zip(*map(parquet.values_of, batch.columns), strict=True)


def extend_object(line: bytes, members: dict[str, Any]) -> bytes:
    """A JSON object on a line with more members; its own bytes stay."""
    start = line.rstrip()[:-1]
    separator = b"" if start.rstrip().endswith(b"{") else b", "
    return start + separator + as_json(members)[1:].encode() + b"\n"


def field_of(value: Any) -> Any:
    """A value for a CSV field: JSON unless it is a text, number or date."""
    if isinstance(value, list | dict | bool):
        return as_json(value)
    return as_text(value) if isinstance(value, bytes) else value


def as_json(value: Any) -> str:
    """A value as JSON; dates, times, decimals and bytes become strings."""
    return json.dumps(value, ensure_ascii=False, default=as_text)


def as_text(value: Any) -> str:
    """A value that JSON cannot represent, as a string."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def finite(value: Any) -> Any:
    """A value with NaN and infinities replaced by null, since JSON has neither."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
