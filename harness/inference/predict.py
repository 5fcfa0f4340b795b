# SPDX-License-Identifier: Apache-2.0
"""``padless predict``: predicts texts, or every row of files, in parts, by processes here or on other machines.

1. convert each file to Parquet parts: errors are reported before anything is predicted        (parallel)
2. predict the missing parts, and write a marker for each                                      (parallel)
3. put them together

Where the input is cut depends only on the input and the settings, so every worker makes the same part at any time. An
interrupted prediction continues with the missing parts; finished ones are in ``OUTPUT.parts/``. Several commands with a
share each (``--share``) work on one prediction.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.config import WRITTEN, PredictConfig
from harness.inference.rows import POSITION_BY_COLUMN, Layout, find_files, lines_of_stdin, refuse_input
from harness.inference.scorer import Scorer, engine_of, local, open_scorer, scorer_class, unknown_shares
from harness.ranks.devices import check_device
from harness.rundir.bundle_files import BundleInfo, bundle_directory, identity, read_classifier
from harness.rundir.json_files import read_object
from harness.rundir.results import probability_column
from preprocessing.base import atomic, processes
from preprocessing.base.atomic import check_replaced, storing
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.base.terminal import Screen, cells, percent, plain_line, shortened, tell
from preprocessing.base.untrusted import listed
from preprocessing.corpus import parquet
from preprocessing.corpus.convert import Converted, convert, read_part
from preprocessing.corpus.readers import TEXT, parse_object, row_error, table_of_json
from preprocessing.corpus.sources import File, identity_of, list_texts
from preprocessing.job import engine
from preprocessing.job.executors import ROWS, Share, Workers, open_workers
from preprocessing.job.parts import ConvertedFile
from preprocessing.labels import as_found

VERSION = 3
"""Increase it when the same input and settings give other bytes."""
FEWEST = 20
"""Minimum width of a text in a readable line."""
BEGUN, LOCK = "begun.json", "lock"
OTHERWISE = "name another --output"
ANEW = f"{OTHERWISE}, or set --overwrite true"
BLOCK_ROWS = 2048
"""Maximum rows that are encoded and scored at once."""
GROUP_ROWS = 1 << 16
"""Maximum rows of a Parquet row group."""


class Input(msgspec.Struct, frozen=True):
    """A converted file of the input."""

    converted: Converted
    types: dict[str, str]
    """Column -> its type, of JSON: as Arrow names it."""


@dataclass(frozen=True)
class InputFile(ConvertedFile):
    """A file of the input, to be converted with all its columns."""

    result: ClassVar[type] = Input

    def make(self) -> tuple[Any, dict[str, str]]:
        """Check and write the rows. Raises ``DataError`` for the first one that cannot be used."""
        prefix = f"{self.key[:24]}-"
        converted = convert(self.file, self.root, prefix, keep_columns=True, on_rows=ROWS.add)
        schema = pa.schema([])
        if self.file.format == "jsonl":
            for part in converted.parts:
                schema = unify_schemas(schema, self.schema_of(read_part(self.root, part)))
        types = {column.name: str(column.type) for column in schema}
        return Input(converted, types), {part.path: part.sha256 for part in converted.parts}

    def schema_of(self, rows: pa.Table) -> pa.Schema:
        """The columns of some rows of JSON."""
        lines = zip(rows["line"].to_pylist(), rows["row"].to_pylist(), strict=True)
        records = [parse_object(line, self.file, number) for line, number in lines]
        names = dict.fromkeys(key for record in records for key in record)
        parquet.check_width(self.file.name, len(names))
        return table_of_json(records, [*names, *self.file.source.text_columns]).schema


def unify_schemas(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """The columns of two tables of JSON, each of a type for the values of both."""
    field_by_name = {column.name: column for column in one}
    for column in other:
        pair = [pa.schema([field_by_name.get(column.name, column)]), pa.schema([column])]
        try:
            field_by_name[column.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
        except pa.ArrowTypeError:
            field_by_name[column.name] = pa.field(column.name, TEXT)
    return pa.schema(field_by_name.values())


@dataclass(frozen=True)
class Made:
    """Facts of a finished part."""

    rows: int
    without_known_word: int
    """Number of texts without a token in the vocabulary."""


@dataclass(frozen=True)
class ScoredPart(engine.Part[Made]):
    """One part of the input, which is written with its predictions.

    The result depends only on its rows and the task.
    """

    number: int
    file: File
    rows: Path
    """Absolute: the converted part."""
    layout: Layout
    opened: partial[Scorer]
    """Calls ``open_scorer``; each thread of a worker does so once."""

    result: ClassVar[type] = Made

    @property
    def path(self) -> Path:
        """The file to write."""
        return self.root / f"{self.number:05d}.{self.layout.kind}"

    def make(self) -> tuple[Made, dict[str, str]]:
        """Raises ``DataError`` if reading fails, ``OSError`` if writing fails."""
        scorer: Scorer = engine.open_once(self.key, self.opened)
        file, layout = self.file, self.layout
        rows = pq.read_table(self.rows, use_threads=False)
        unread = 0
        tables: list[pa.Table] = []
        with atomic.replacing(self.path) as temporary, open(temporary, "wb") as output:
            for block, encoded in encode_ahead(rows, scorer):
                added = list(scorer.predict(encoded).values())
                if layout.kind == "parquet":
                    tables.append(layout.table(file, block, added))
                else:
                    output.write(layout.write_lines(file, block, added))
                unread += int((unknown_shares(encoded) == 1).sum())
            if layout.kind == "parquet":
                pq.write_table(pa.concat_tables(tables), output)
        return Made(len(rows), unread), {self.path.name: atomic.sha256_file(self.path)}


def encode_ahead(rows: pa.Table, scorer: Scorer) -> Iterator[tuple[pa.Table, list[np.ndarray]]]:
    """Blocks of rows with their ids; another thread encodes the next block meanwhile."""
    blocks = (rows.slice(start, BLOCK_ROWS) for start in range(0, len(rows), BLOCK_ROWS))
    steps = ((block, scorer.encode([text or "" for text in block["text"].to_pylist()])) for block in blocks)
    with ThreadPoolExecutor(1) as pool:
        next_step = pool.submit(next, steps, None)
        # cannot hang: the thread encodes rows in memory
        while (step := next_step.result()) is not None:
            next_step = pool.submit(next, steps, None)
            yield step


def main(config: PredictConfig) -> None:
    """Predict the texts given, or every row of the input, with the best weights of a run."""
    check_device(config.device)
    config = replace(config, run=str(local(config.run)))
    if config.output is not None:
        predict_here(config)
        return
    scorer = open_scorer(config.run, config.engine, config.batch, device=config.device, precision=config.precision)
    for some in [config.texts] if config.texts else lines_of_stdin():
        show(scorer, some, config.json)


def show(scorer: Scorer, texts: list[str], as_json: bool) -> None:
    """Print a line for each text."""
    encoded, screen = scorer.encode(texts), Screen()
    columns, unknown = scorer.predict(encoded), unknown_shares(encoded)
    rows = zip(*columns.values(), strict=True)
    for text, row, share in zip(texts, rows, unknown.tolist(), strict=True):
        values = dict(zip(columns, row, strict=True))
        if as_json:
            print(json.dumps({"text": text, **values, "unknown_share": round(share, 4)}))
            continue
        label = as_found(values["predicted"]) or ""
        head = f"{plain_line(label)}  {values[probability_column(label)]:.4f}  "
        head += "(no known word)  " if share == 1 else ""
        screen.write([head + shortened(text, max(screen.width - cells(head), FEWEST))])
    sys.stdout.flush()


def predict_here(config: PredictConfig) -> None:
    """Predict with the processes of this machine, or the workers of a Dask cluster; or one share of the parts.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    target, share = target_of(config), Share.parse(config.share)
    with claim(target, share) as work, ExitStack() as stack:
        stack.enter_context(
            processes.keeping(f"finished parts are kept in {work}; the same command, without --overwrite, goes on")
        )
        prediction = Prediction.begin(config, target, work)
        workers = stack.enter_context(open_workers(config.executor_config(prediction.num_workers), quiet=config.quiet))
        parts = prediction.cut(prediction.convert(workers))
        with engine.show_progress("predicting", sum(part.size for part in parts), config.quiet) as progress:
            results = [made for _, made in engine.run(parts, workers, progress, wait=share.is_leader)]
        if share.is_leader:
            finish(parts, results, target, config.quiet)
        else:
            Screen(quiet=config.quiet).say(f"{target}: share {share} is done; share 0 writes the file")


def target_of(config: PredictConfig) -> Path:
    """The file to write. Raises ``ConfigError`` for an unusable ``--output``."""
    assert config.output is not None
    target = Path(config.output).expanduser()
    if config.output.endswith("/") or (target.exists() and not target.is_file()):
        raise ConfigError(f"--output {config.output}: is not a file; name one, as in predicted.parquet")
    if target.suffix.lower() not in WRITTEN:
        raise ConfigError(f"--output {target}: unknown ending; use .parquet, .csv, .tsv or .jsonl")
    return target


@contextmanager
def claim(target: Path, share: Share) -> Iterator[Path]:
    """Lock an output for this command, or this share of several; yield the absolute folder of its settings, parts and
    markers, which is deleted after an error if no prediction was begun.

    Raises ``ConfigError`` for a folder that no prediction made, ``StorageError`` if it is not writable, ``UserError``
    while another process predicts to it.
    """
    work = target.with_name(f"{target.name}.parts").absolute()
    if os.path.lexists(work) and not atomic.is_signed(work, target):
        problem = "would hold the parts of this prediction, but was not made by one"
        raise ConfigError(f"{work}: {problem}; rename it, or {OTHERWISE}")
    is_shared = share.count > 1
    with storing(target, otherwise=OTHERWISE), ExitStack() as locks:
        if not work.exists():
            # another process may have made it
            with suppress(FileExistsError, IsADirectoryError), atomic.new_folder(work) as made:
                atomic.sign(made, target)
        refusal = UserError(f"{target}: another process is predicting to it; wait for it, or stop it")
        locks.enter_context(locked(work / LOCK, 0, refusal, shared=is_shared))
        if is_shared:
            refusal = UserError(f"{target}: another process makes share {share} of it; wait for it, or stop it")
            locks.enter_context(locked(work / f"{LOCK}-{share.index}", 0, refusal))
        atomic.sweep(target)
        try:
            yield work
        except UserError:
            if not (is_shared or (work / BEGUN).exists()):
                atomic.vanish(work)
            raise


@dataclass(frozen=True)
class Prediction:
    """A prediction of files, new or interrupted."""

    config: PredictConfig
    target: Path
    work: Path
    files: list[File]
    info: BundleInfo
    settings: dict[str, Any]
    """Everything but the input that determines the predictions, as JSON values."""
    how: dict[str, str]
    """Device and precision."""

    @classmethod
    def begin(cls, config: PredictConfig, target: Path, work: Path) -> Prediction:
        """Find the files. Raises ``ConfigError`` if a prediction with other settings was begun there."""
        directory, kind = bundle_directory(config.run), WRITTEN[target.suffix.lower()]
        name, info = engine_of(directory, config.engine), read_classifier(directory)
        how = scorer_class(name).settle(info, config.device, config.precision)
        if how["precision"] == "bf16" and not config.quiet:
            tell(
                f"computed in bf16, in which {info.bf16:.1%} of validation keep their label; --precision fp32 is exact"
            )
        if config.overwrite:
            for path in work.iterdir():
                if path.name not in (LOCK, atomic.MARK):
                    atomic.remove(path)
        source = replace(config.given, part_mb=config.part_mb)
        settings = {
            "version": VERSION,
            "weights": identity(info),
            **{name: getattr(config, name) for name in ("format", "missing", "prefix", "batch")},
            **{"output": kind, "engine": name, **how, "source": asdict(source)},
        }
        files = find_files(config.inputs, config.format, source, info.source, work)
        refuse_input(target, files)
        check_begun(config, target, work, settings)
        return cls(config, target, work, files, info, settings, how)

    @property
    def num_workers(self) -> int:
        """Processes on this machine, unless the user says how many: starting one takes seconds."""
        num_bytes = sum(identity_of(file)["bytes"] for file in self.files)
        worth = max(1, int(num_bytes / (self.config.part_mb * 1e6)))
        return 1 if self.how["device"] == "cuda" else min(processes.available_cores(), worth)

    def convert(self, workers: Workers) -> list[Input]:
        """The files as Parquet, in order. Raises ``DataError`` for the first row that cannot be predicted."""
        tasks = [InputFile.of(self.work, file) for file in self.files]
        input_by_key = dict[str, Input]()
        with engine.show_progress("checking the input", 0, quiet=True) as progress:
            for task, result in engine.run({task.key: task for task in tasks}.values(), workers, progress):
                input_by_key[task.key] = result
        for task in tasks:
            number = input_by_key[task.key].converted.first_without_text
            if number is not None and self.config.missing == "error" and task.file.format != "txt":
                columns = listed(task.file.source.text_columns)
                raise missing_text_error(task.file, number, f"column {columns} holds no text")
        return [input_by_key[task.key] for task in tasks]

    def cut(self, inputs: Sequence[Input]) -> list[ScoredPart]:
        """All parts, at least one. Raises ``ConfigError`` if a prediction of another input was begun."""
        files = list(zip(self.files, inputs, strict=True))
        fingerprints = [[file.name, file.format, given.converted.fingerprint] for file, given in files]
        basis = self.settings | {"input": fingerprints}
        check_begun(self.config, self.target, self.work, basis)
        if not any(given.converted.parts for given in inputs):
            raise DataError(f"{self.files[0].name}: holds no rows")
        names = [self.config.prefix + name for name in ("predicted", *map(probability_column, self.info.labels))]
        layout = choose_layout(self.settings["output"], names, files)
        atomic.write_json(self.work / BEGUN, basis)
        key = hashlib.sha256(atomic.canonical_json(basis)).hexdigest()
        how = self.how | ({"threads": 1} if self.how["device"] == "cpu" else {})  # nothing depends on their number
        opened = partial(open_scorer, self.config.run, self.settings["engine"], self.config.batch, **how)
        parts = list[ScoredPart]()
        for task, given in zip([InputFile.of(self.work, file) for file in self.files], inputs, strict=True):
            for part in given.converted.parts:
                number, rows = len(parts), task.root / part.path
                marker = self.work / f"{number:05d}.json"
                parts.append(ScoredPart(key, self.work, marker, part.rows, number, task.file, rows, layout, opened))
        return parts


def missing_text_error(file: File, number: int, problem: str) -> DataError:
    """The error for a row without a text; of a folder it names the text file."""
    sentence = f"{problem}; fill or remove the row, or set --missing keep"
    if file.format == "folder":
        return DataError(f"{file.name.rstrip('/')}/{list_texts(file)[number - 1].path}: {sentence}")
    return row_error(file, number, sentence)


def check_begun(config: PredictConfig, target: Path, work: Path, basis: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if a prediction with other settings was begun, or the file to replace holds no predictions.

    ``basis`` has what determines the predictions, as JSON values.
    """
    begun = read_object(work / BEGUN, ANEW)
    if begun is None:
        words = (config.prefix + name for name in ("predicted", probability_column("")))
        check_replaced(target, config.overwrite, words)
    elif other := next((name for name, value in basis.items() if begun.get(name) != value), None):
        raise ConfigError(f"{work}: a prediction was begun with other {other}; {ANEW} to start again")


def choose_layout(kind: str, names: list[str], files: Sequence[tuple[File, Input]]) -> Layout:
    """How the predictions of all files are written.

    Raises ``DataError`` for files with other columns than the first file, and for columns named like the new ones.
    """
    file, given = files[0]
    for other, other_input in files:
        if (described := describe_columns(other, other_input)) != (expected := describe_columns(file, given)):
            problem = f"its columns ({described}) are not those of {file.name} ({expected})"
            raise DataError(f"{other.name}: {problem}; predict them in two commands")
    columns, schema = given.converted.columns, pa.schema([])
    if file.format == "jsonl":
        for _, other_input in files:
            types = {name: pa.type_for_alias(alias) for name, alias in other_input.types.items()}
            schema = unify_schemas(schema, pa.schema(types))
        columns = schema.names
    elif file.format == "parquet":
        _, schema = parquet.read_footer(file.address, file.name)
    elif file.format == "folder":
        columns = list(POSITION_BY_COLUMN)
    if taken := next((name for name in names if name in columns), None):
        raise DataError(
            f"{file.name}: already has a column {taken!r}; rename it, or set --prefix, which is put before the names "
            "of the new columns"
        )
    delimiter = "\t" if kind == "tsv" else given.converted.delimiter.replace("\t", ",")
    return Layout(kind, names, columns, delimiter, given.converted.has_mark, schema)


def describe_columns(file: File, given: Input) -> str:
    """The format and the columns that all files must have: with types for Parquet, none for JSON lines and texts."""
    columns = [] if file.format in ("jsonl", "txt", "folder") else given.converted.columns
    if file.format == "parquet":
        _, schema = parquet.read_footer(file.address, file.name)
        columns = [f"{column.name} {column.type}" for column in schema]
    return f"{file.format}: {', '.join(columns)}"


def finish(parts: Sequence[ScoredPart], results: Sequence[Made], target: Path, quiet: bool) -> None:
    """Join the parts, and print a summary. Raises ``DataError`` for a missing part."""
    if missing := next((part.path for part in parts if not part.path.exists()), None):
        problem = "cannot be seen here; name an --output on a disk that all processes share"
        raise DataError(f"{missing}: {problem}")
    with storing(target, otherwise=OTHERWISE):
        with atomic.replacing(target) as temporary:
            join(parts, temporary)
        atomic.vanish(parts[0].root)
    rows, unread = sum(made.rows for made in results), sum(made.without_known_word for made in results)
    Screen(quiet=quiet).say(f"{rows:,} predictions written to {target}")
    if unread:
        share = percent(unread / rows)
        tell(f"warning: {unread:,} of {rows:,} texts ({share}) hold no word that the model knows")


def join(parts: Sequence[ScoredPart], target: Path) -> None:
    """Join all parts into one file: row groups for Parquet; else the header, then the parts."""
    with open(target, "wb") as file:
        if parts[0].layout.kind == "parquet":
            with pq.ParquetWriter(file, pq.read_schema(parts[0].path)) as writer:
                for part in parts:
                    with pq.ParquetFile(part.path) as rows:
                        writer.write_table(rows.read(), GROUP_ROWS)
            return
        file.write(parts[0].layout.header())
        for part in parts:
            with open(part.path, "rb") as lines:
                shutil.copyfileobj(lines, file)
