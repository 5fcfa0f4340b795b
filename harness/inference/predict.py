# SPDX-License-Identifier: Apache-2.0
"""``padless predict``: predicts texts, or every row of files, in parts, by processes here or on other machines.

1. cut the input into parts, and check each row once: errors are reported before anything is predicted
2. predict the missing parts, and write a marker for each                                      (parallel)
3. put them together

Where the input is cut depends only on the input and the settings, so every worker makes the same part at any time. An
interrupted prediction continues with the missing parts; finished ones are in ``OUTPUT.parts/``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.config import WRITTEN, PredictConfig
from harness.inference.rows import (
    Layout,
    find,
    lines_of_stdin,
    refuse_input,
    texts_of,
    values_of,
)
from harness.inference.scorer import Scorer, engine_of, local, open_scorer, scorer_class, unknown_shares
from harness.ranks.devices import check_device
from harness.rundir.bundle_files import bundle_directory, identity, read_classifier
from harness.rundir.json_files import read_object
from harness.rundir.results import probability_column
from preprocessing.base import atomic, processes
from preprocessing.base.atomic import check_replaced, storing
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.base.terminal import Screen, cells, percent, plain_line, shortened, tell
from preprocessing.corpus import addresses, parquet, sources, tables
from preprocessing.corpus.sources import Part
from preprocessing.corpus.tables import Rows
from preprocessing.job import engine
from preprocessing.job.executors import ROWS, workers
from preprocessing.labels import as_found

VERSION = 2
"""Increase it when the same input and settings give other bytes."""
FEWEST = 20
"""Minimum width of a text in a readable line."""
BEGUN, LOCK = "begun.json", "lock"
OTHERWISE = "name another --output"
ANEW = f"{OTHERWISE}, or set --overwrite true"
GROUP_ROWS = 1 << 16
"""Maximum rows of a Parquet row group."""


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
    part: Part
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
        scorer: Scorer = engine.kept(self.key, self.opened)
        part, layout = self.part, self.layout
        unread = 0
        held: list[pa.Table] = []
        with atomic.replacing(self.path) as temporary, open(temporary, "wb") as file:
            for rows, encoded in encoded_ahead(part, layout, scorer):
                added = dict(zip(layout.names, scorer.predict(encoded).values(), strict=True))
                if layout.kind == "parquet":
                    held.append(layout.table(part, rows, added))
                else:
                    file.write(layout.lines(part, rows, added))
                unread += int((unknown_shares(encoded) == 1).sum())
            if layout.kind == "parquet":
                pq.write_table(pa.concat_tables(held), file)
        if part.file.format != "folder" and json.dumps(addresses.identity(part.file.address)) not in part.identity:
            raise DataError(f"{part.file.name}: it changed while it was read; start again when it is whole")
        return Made(part.cut.rows, unread), {self.path.name: atomic.sha256_file(self.path)}


def encoded_ahead(part: Part, layout: Layout, scorer: Scorer) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    """Blocks of rows with their ids; another thread reads and encodes the next block meanwhile."""
    pieces = tables.iter_rows(part, schema=layout.schema)
    steps = ((rows, scorer.encode(texts_of(rows, layout.missing))) for rows in pieces)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, steps, None)
        # cannot hang: the thread reads a regular file
        while (found := waiting.result()) is not None:
            waiting = pool.submit(next, steps, None)
            yield found


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
    """Predict with the processes of this machine, or those of other machines.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    target = target_of(config)
    with claimed(target) as work:
        parts = begin(config, target, work)
        size = sum(part.part.size for part in parts)
        worth = max(1, int(size / (config.part_mb * 1e6)))  # starting a process takes seconds
        default = 1 if parts[0].opened.keywords["device"] == "cuda" else min(processes.available_cores(), worth)
        kept = f"finished parts are kept in {work}; the same command, without --overwrite, goes on"
        with processes.keeping(kept), workers(config.workers(default), quiet=config.quiet) as crew:
            with engine.shown("predicting", sum(part.size for part in parts), config.quiet) as progress:
                deque(engine.run(parts, crew, progress), maxlen=0)
            finish(parts, target, config.quiet)


def target_of(config: PredictConfig) -> Path:
    """The file to write. Raises ``ConfigError`` for an unusable ``--output``."""
    assert config.output is not None
    target = Path(config.output)
    if config.output.endswith("/") or (target.exists() and not target.is_file()):
        raise ConfigError(f"--output {config.output}: is not a file; name one, as in predicted.parquet")
    if target.suffix.lower() not in WRITTEN:
        raise ConfigError(f"--output {target}: unknown ending; use .parquet, .csv, .tsv or .jsonl")
    return target


@contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """Lock an output and yield the absolute folder of its settings, parts and markers, which is deleted afterwards if
    no prediction was begun.

    Raises ``ConfigError`` for a folder that no prediction made, ``StorageError`` if it is not writable, ``UserError``
    while another process predicts to it.
    """
    work = target.with_name(f"{target.name}.parts").absolute()
    refusal = UserError(f"{target}: another process is predicting to it; wait for it, or stop it")
    if os.path.lexists(work) and not atomic.is_signed(work, target):
        what = "would hold the parts of this prediction, but was not made by one"
        raise ConfigError(f"{work}: {what}; rename it, or {OTHERWISE}")
    with storing(target, otherwise=OTHERWISE):
        if not work.exists():
            # another process may have made it
            with suppress(FileExistsError, IsADirectoryError), atomic.new_folder(work) as made:
                atomic.sign(made, target)
        with locked(work / LOCK, 0, refusal):
            atomic.sweep(target)
            try:
                yield work
            finally:
                if work.is_dir() and not (work / BEGUN).exists():
                    atomic.vanish(work)


def begin(config: PredictConfig, target: Path, work: Path) -> list[ScoredPart]:
    """All parts of a new or an interrupted prediction, at least one.

    Raises ``ConfigError`` if one with other settings was begun there, ``DataError`` for the first unreadable row.
    """
    directory, kind = bundle_directory(config.run), WRITTEN[target.suffix.lower()]
    name, info = engine_of(directory, config.engine), read_classifier(directory)
    settled = scorer_class(name).settle(info, config.device, config.precision)
    if settled["precision"] == "bf16" and not config.quiet:
        tell(f"computed in bf16, in which {info.bf16:.1%} of validation keep their label; --precision fp32 is exact")
    if config.overwrite:
        for path in work.iterdir():
            if path.name not in (LOCK, atomic.MARK):
                atomic.remove(path)
    source = replace(config.given, part_mb=config.part_mb)
    files = find(config.inputs, config.format, source, info.source, work)
    refuse_input(target, files)
    plans = [sources.scan(file, work) for file in files]
    basis: dict[str, Any] = {
        "version": VERSION,
        "weights": identity(info),
        "input": [[plan.file.name, plan.file.format, plan.fingerprint] for plan in plans],
        **{name: getattr(config, name) for name in ("format", "missing", "prefix", "batch")},
        **{"output": kind, "engine": name, **settled, "source": asdict(source)},
    }
    check_begun(config, target, work, basis)
    every = [part for plan in plans for part in plan.parts]
    if not every:
        raise DataError(f"{files[0].name}: holds no rows")
    names = [config.prefix + name for name in ("predicted", *map(probability_column, info.labels))]
    layout = looked_at(every, Layout(kind, names, config.missing == "keep"), config.quiet)
    atomic.write_json(work / BEGUN, basis)
    key = hashlib.sha256(atomic.canonical_json(basis)).hexdigest()
    how = settled | ({"threads": 1} if settled["device"] == "cpu" else {})  # so that nothing depends on their number
    opened = partial(open_scorer, config.run, name, config.batch, **how)
    return [
        ScoredPart(key, work, work / f"{number:05d}.json", part.cut.rows, number, part, layout, opened)
        for number, part in enumerate(every)
    ]


def check_begun(config: PredictConfig, target: Path, work: Path, basis: dict[str, Any]) -> None:
    """Raise ``ConfigError`` if a prediction with other settings was begun, or the file to replace holds no predictions.

    ``basis`` has everything that determines the predictions, as JSON values.
    """
    before = read_object(work / BEGUN, ANEW)
    if before is None:
        words = (config.prefix + name for name in ("predicted", probability_column("")))
        check_replaced(target, config.overwrite, words)
    elif before != basis:
        other = next((name for name, value in basis.items() if before.get(name) != value), "settings")
        raise ConfigError(f"{work}: a prediction was begun with other {other}; {ANEW} to start again")


def looked_at(every: Sequence[Part], layout: Layout, quiet: bool) -> Layout:
    """Check every row once; returns the layout of the output.

    Raises ``DataError`` for the first row that cannot be predicted, for files with other columns than the first file,
    and for columns named like the new ones.
    """
    first, of_json = every[0].file, every[0].file.format == "jsonl"
    schema, columns = pa.schema([]), list(every[0].columns)
    with engine.shown("checking the input", sum(part.cut.rows for part in every), quiet):
        for part in every:
            needed = part.file.source.text_columns if part.file.format == "parquet" else None
            for rows in tables.iter_rows(part, needed):
                texts_of(rows, layout.missing)
                whole = values_of(rows)
                columns = columns or whole.column_names
                ROWS.add(len(rows.table))
                schema = tables.common_schema(schema, rows.table.schema) if of_json else schema
    for part in (one for one in every if one.cut.first_row == 1):
        if (here := typed_columns(part)) != (there := typed_columns(every[0])):
            what = f"its columns ({here}) are not those of {first.name} ({there})"
            raise DataError(f"{part.file.name}: {what}; predict them in two commands")
    columns = schema.names if of_json else columns
    if taken := next((name for name in layout.names if name in columns), None):
        raise DataError(
            f"{first.name}: already has a column {taken!r}; rename it, or set --prefix, which is put before the names "
            "of the new columns"
        )
    delimiter = "\t" if layout.kind == "tsv" else first.form.dialect.delimiter.replace("\t", ",")
    return replace(layout, columns=columns, delimiter=delimiter, schema=schema if of_json else None)


def typed_columns(part: Part) -> str:
    """The format and the columns that all files must have: with types for Parquet, none for JSON lines and texts."""
    columns = list(part.columns)
    if part.file.format == "parquet":
        _, schema = parquet.footer_of(part.data, part.file.name)
        columns = [f"{field.name} {field.type}" for field in schema]
    return f"{part.file.format}: {', '.join(columns)}"


def finish(parts: Sequence[ScoredPart], target: Path, quiet: bool) -> None:
    """Join the parts, and print a summary. Raises ``DataError`` for a missing part."""
    rows = unread = 0
    for part in parts:
        made = engine.finished(part, verify=False)
        if made is None:
            what = "cannot be seen here; name an --output on a disk that all processes share"
            raise DataError(f"{part.path}: {what}")
        rows, unread = rows + made.rows, unread + made.without_known_word
    with storing(target, otherwise=OTHERWISE):
        with atomic.replacing(target) as temporary:
            join(parts, temporary)
        atomic.vanish(parts[0].root)
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
        file.write(parts[0].layout.header(parts[0].part))
        for part in parts:
            with open(part.path, "rb") as lines:
                shutil.copyfileobj(lines, file)
