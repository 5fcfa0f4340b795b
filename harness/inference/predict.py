# SPDX-License-Identifier: Apache-2.0
"""``python -m harness predict``: texts, or every row of files, part by part, by processes, ranks or a Dask cluster.

1. cut the input into parts, and look at each row once: what cannot be predicted is refused before anything is
2. predict the parts that are not there yet, each with a marker that says so                    (parallel)
3. put them together

Where the input is cut is a pure function of the input and the settings, so a part is the same whoever makes it, and
whenever. An interrupted prediction goes on with the parts that are left: they and what was begun lie in
``OUTPUT.parts/``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.config import STDIN, PredictConfig
from harness.inference.rows import (
    KINDS,
    Layout,
    columns_of,
    find,
    lines_of_stdin,
    reading_by,
    refuse_input,
    texts_of,
)
from harness.inference.scorer import Scorer, engine_of, local, open_scorer, scorer_class, unknown_shares
from harness.rundir.bundle_files import BundleInfo, bundle_directory, check_classifier, read_info
from harness.rundir.json_files import read_object
from harness.rundir.results import probability_column
from harness.rundir.training_facts import DIALECT, Reading
from preprocessing.base import atomic, processes
from preprocessing.base.atomic import check_replaced, storing
from preprocessing.base.errors import ConfigError, DataError, UserError
from preprocessing.base.processes import locked
from preprocessing.base.terminal import Screen, cells, percent, plain_line, shortened, tell
from preprocessing.corpus import addresses, parquet, sources, tables
from preprocessing.corpus.forms import uncompressed
from preprocessing.corpus.sources import Part
from preprocessing.corpus.tables import Rows
from preprocessing.job import engine
from preprocessing.job.executors import available_cores, workers
from preprocessing.labels import as_found

if TYPE_CHECKING:
    from harness.ranks.distributed import World

VERSION = 1
"""Changes when the same input and settings give other bytes."""
FEWEST, MOST = 20, 80
"""Cells of a text that a line to read shows at least, and where its output is no terminal."""
BEGUN, LOCK = "begun.json", "lock"
OTHERWISE = "name another --output"
ANEW = f"{OTHERWISE}, or set --overwrite true"
GROUP_ROWS = 1 << 16
"""Most rows of a row group of Parquet."""
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Opening:
    """How the weights are opened."""

    engine: str
    run: str
    settled: dict[str, str]
    batch: int

    def scorer(self) -> Scorer:
        """This thread's scorer: opened once, and kept from one part to the next."""
        return engine.kept(self, partial(open_scorer, self.run, self.engine, self.batch, self.settled))


@dataclass(frozen=True)
class Made:
    """What is known of a part that is whole."""

    rows: int
    without_known_word: int
    """Texts of which no token is in the vocabulary."""


@dataclass(frozen=True)
class ScoredPart(engine.Part[Made]):
    """One part of the input, to be written with its predictions.

    What comes of it depends on its rows and the task alone, whoever makes it.
    """

    number: int
    part: Part
    layout: Layout
    opening: Opening

    result: ClassVar[type] = Made

    @property
    def path(self) -> Path:
        """The file to write."""
        return self.root / f"{self.number:05d}.{self.layout.kind}"

    def make(self) -> tuple[Made, dict[str, str]]:
        """Raises ``DataError`` for what cannot be read, ``OSError`` for what cannot be written."""
        scorer, part, layout = self.opening.scorer(), self.part, self.layout
        if not part.texts and json.dumps(addresses.identity(part.file.address)) not in part.identity:
            raise DataError(f"{part.file.name}: it changed while it was read; start again when it is whole")
        count = unread = 0
        held: list[pa.Table] = []
        with atomic.replacing(self.path) as temporary, open(temporary, "wb") as file:
            for rows, encoded in encoded_ahead(part, layout, scorer):
                added = dict(zip(layout.names, map(list_of, scorer.predict(encoded).values()), strict=True))
                if layout.kind == "parquet":
                    held.append(layout.table(part, rows, added))
                else:
                    file.write(layout.lines(part, rows, added))
                count += len(encoded)
                unread += int((unknown_shares(encoded) == 1).sum())
            if layout.kind == "parquet":
                pq.write_table(pa.concat_tables(held), file, row_group_size=GROUP_ROWS)
        if count != part.cut.rows:
            raise DataError(f"{part.file.name}: {count:,} rows where there were {part.cut.rows:,}: it changed")
        return Made(count, unread), {self.path.name: atomic.sha256_file(self.path)}


def encoded_ahead(part: Part, layout: Layout, scorer: Scorer) -> Iterator[tuple[Rows, list[np.ndarray]]]:
    """Some rows at a time with their ids; another thread reads and encodes the next ones meanwhile."""
    needed = None if layout.top is None else [part.file.source.text_column]  # the bytes of the others stay as they are
    pieces = tables.iter_rows(part, needed, layout.schema)

    def step() -> tuple[Rows, list[np.ndarray]] | None:
        rows = next(pieces, None)
        return None if rows is None else (rows, scorer.encode(texts_of(part, rows, layout.missing)))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(step)
        # cannot hang: the next rows are read from a regular file and encoded
        while (found := waiting.result()) is not None:
            waiting = pool.submit(step)
            yield found


def list_of(values: Any) -> list[Any]:
    """An array as plain values."""
    found: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return found


def main(config: PredictConfig, texts: list[str]) -> int:
    """Predict the texts given, or every row of the input, with the best weights of a run."""
    config = replace(config, run=str(local(config.run)))
    if texts == [STDIN] and config.input is None:
        texts, config = [], replace(config, input=STDIN)
    if bool(texts) == (config.input is not None):
        raise ConfigError("nothing to predict: give texts, or --input with --output (not both)")
    if config.input is not None and config.output is not None:
        predict_here(config)
        return 0
    scorer = open_scorer(config.run, config.engine, config.batch)
    for some in [texts] if texts else lines_of_stdin():
        show(scorer, some, config.json)
    return 0


def show(scorer: Scorer, texts: list[str], as_json: bool) -> None:
    """Print a line for each text."""
    encoded, screen = scorer.encode(texts), Screen()
    columns, unknown = scorer.predict(encoded), unknown_shares(encoded)
    rows = zip(*(list_of(column) for column in columns.values()), strict=True)
    for text, row, share in zip(texts, rows, unknown.tolist(), strict=True):
        values = dict(zip(columns, row, strict=True))
        if as_json:
            print(json.dumps({"text": text, **values, "unknown_share": round(share, 4)}))
            continue
        label = as_found(values["predicted"]) or ""
        head = f"{plain_line(label)}  {values[probability_column(label)]:.4f}  "
        head += "(no known word)  " if share == 1 else ""
        screen.write([head + shortened(text, max(screen.width - cells(head), FEWEST) if screen.is_live else MOST)])
    sys.stdout.flush()


@dataclass(frozen=True)
class Output:
    """The file that is written, and the folder of what was begun, the markers of finished parts and the parts."""

    target: Path
    kind: str
    """csv, tsv, jsonl or parquet."""

    @property
    def work(self) -> Path:
        """The folder, absolute."""
        return self.target.with_name(f"{self.target.name}.parts").absolute()

    @classmethod
    def of(cls, config: PredictConfig) -> Output:
        """What ``config`` names. Raises ``ConfigError`` for what cannot be written to."""
        assert config.output is not None
        if addresses.is_remote(config.output):
            raise ConfigError(f"--output {config.output}: is remote; write to a disk here, and copy what is whole")
        target = Path(config.output).expanduser()
        if config.output.endswith("/") or (target.exists() and not target.is_file()):
            raise ConfigError(f"--output {config.output}: is no file; name one, as in predicted.parquet")
        kind = KINDS.get(target.suffix.lower(), "txt")
        if kind == "txt":
            raise ConfigError(f"--output {target}: unknown ending; use .parquet, .csv, .tsv or .jsonl")
        return cls(target, kind)

    def writing(self) -> AbstractContextManager[None]:
        """Turns a failure to write into a ``StorageError`` that names the output."""
        return storing(self.target, otherwise=OTHERWISE)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the output against other predictions.

        Raises ``ConfigError`` for a folder of somebody else, ``StorageError`` where nothing can be written,
        ``UserError`` while another prediction is being written there.
        """
        refusal = UserError(f"{self.target}: another process is predicting to it; wait for it, or stop it")
        if os.path.lexists(self.work) and not atomic.is_signed(self.work, self.target):
            what = "is where parts would lie, and no prediction made it"
            raise ConfigError(f"{self.work}: {what}; rename it, or {OTHERWISE}")
        with self.writing():
            if not self.work.exists():
                with suppress(FileExistsError), atomic.new_folder(self.work) as work:  # another process may be faster
                    atomic.sign(work, self.target)
            with locked(self.work / LOCK, 0, refusal):
                atomic.sweep(self.target)
                try:
                    yield
                finally:
                    if self.work.is_dir() and not (self.work / BEGUN).exists():
                        atomic.vanish(self.work)

    def clear(self) -> None:
        """Remove what was begun, but for the lock."""
        for path in self.work.iterdir():
            if path.name not in (LOCK, atomic.MARK):
                atomic.remove(path)


@dataclass(frozen=True)
class Job:
    """All parts of a prediction."""

    output: Output
    parts: list[ScoredPart]

    def progress(self, parts: Sequence[ScoredPart], quiet: bool) -> engine.Progress:
        """Shows how far some parts are, where there are several."""
        screen = Screen(errors=True, quiet=quiet or len(parts) < 2)
        return engine.Progress("predicting", sum(part.size for part in parts), screen=screen)

    def finish(self, made: Mapping[int, Made], screen: Screen) -> None:
        """Put the parts together, and say what there is. Raises ``DataError`` for a part that is not there."""
        for part in self.parts:
            if part.number not in made or not part.path.is_file():
                what = "is not seen here; name an --output on a disk that all who predict share"
                raise DataError(f"{part.path}: {what}")
        with self.output.writing():
            with atomic.replacing(self.output.target) as temporary:
                (join_parquet if self.output.kind == "parquet" else join_lines)(self.parts, temporary)
            atomic.vanish(self.output.work)
        rows = sum(one.rows for one in made.values())
        screen.say(f"{rows:,} predictions written to {self.output.target}")
        if unread := sum(one.without_known_word for one in made.values()):
            share = percent(unread / rows)
            tell(f"warning: {unread:,} of {rows:,} texts ({share}) hold no word that the model knows")


def join_lines(parts: Sequence[ScoredPart], target: Path) -> None:
    """CSV and JSON lines: the header, and the parts one after the other."""
    with open(target, "wb") as file:
        file.write(parts[0].layout.header(parts[0].part))
        for part in parts:
            with open(part.path, "rb") as content:
                shutil.copyfileobj(content, file, COPY_BYTES)


def join_parquet(parts: Sequence[ScoredPart], target: Path) -> None:
    """Parquet: the row groups of the parts."""
    with pq.ParquetWriter(target, pq.read_schema(parts[0].path)) as writer:
        for part in parts:
            with pq.ParquetFile(part.path) as content:
                for group in range(content.num_row_groups):
                    writer.write_table(content.read_row_group(group))


def predict_here(config: PredictConfig) -> None:
    """Predict with the processes of this machine, or with a Dask cluster.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    output = Output.of(config)
    with output.claimed():
        job = begun(config, output)
        size = sum(part.size for part in job.parts)
        worth = max(1, int(size / (config.part_mb * 1e6)))  # starting a process takes seconds
        on_cuda = job.parts[0].opening.settled["device"] == "cuda"
        default = 1 if on_cuda else min(available_cores(), worth, len(job.parts))
        same = "the same command without --overwrite" if config.overwrite else "the same command"
        kept = f"finished parts are kept in {output.work}; {same} goes on"
        with processes.keeping(kept), workers(config.workers(default), quiet=config.quiet) as crew:
            done = engine.run(job.parts, crew, job.progress(job.parts, config.quiet))
            job.finish({part.number: made for part, made in done}, Screen(quiet=config.quiet))


def predict_on_ranks(config: PredictConfig, world: World) -> None:
    """Predict on every rank: each makes its share of the parts; rank 0 plans and puts them together.

    What a lost rank has not made is made at the next start, by whichever rank then has it in its share.
    """
    quiet, output = config.quiet or not world.is_main, Output.of(config)
    config = replace(config, run=str(local(config.run)))
    with ExitStack() as stack:
        with world.together("claiming the output"):
            if world.is_main:
                stack.enter_context(output.claimed())
        with world.together("planning the predictions"), output.writing():
            job = begun(config, output) if world.is_main else Job(output, [])
            left = [part for part in job.parts if engine.finished(part) is None]
        left = world.from_main(left, "the parts that are left")
        with world.together("predicting"), output.writing():
            if not output.work.is_dir():
                what = "this rank does not see what rank 0 has begun; write to a disk that all machines share"
                raise DataError(f"{output.work}: {what}")
            own = left[world.rank :: world.world_size]
            progress = job.progress(own, quiet)
            for part in own:
                progress.advance(engine.make(part).rows, part.size)
                progress.tick(world.world_size)
            progress.close()
        with world.together("putting the parts together"):
            if world.is_main:
                known = {part.number: engine.finished(part, verify=False) for part in job.parts}
                made = {number: one for number, one in known.items() if one is not None}
                job.finish(made, Screen(quiet=quiet))


def begun(config: PredictConfig, output: Output) -> Job:
    """All parts, new or those of an interrupted job.

    Raises ``ConfigError`` where something else was begun there, ``DataError`` for the first row that cannot be read.
    """
    directory, work = bundle_directory(config.run), output.work
    name = engine_of(directory, config.engine)
    opening = Opening(name, config.run, scorer_class(name).settle(config.device, config.precision), config.batch)
    info = read_info(directory)
    check_classifier(directory, info)
    if config.overwrite:
        output.clear()
    reading = reading_by(config.given, directory, info)
    files = find(config.inputs, config.format, config.given, reading, work, config.part_mb)
    refuse_input(output.target, files)
    plans = [sources.scan(file, work) for file in files]
    basis = basis_of(config, output, opening, info, reading)
    basis["input"] = [[plan.file.name, plan.file.format, plan.fingerprint] for plan in plans]
    check_begun(config, output, basis)
    every = [part for plan in plans for part in plan.parts]
    if not every:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise DataError(f"{files[0].name}{more}: holds no rows")
    names = [config.prefix + name for name in ("predicted", *map(probability_column, info.labels))]
    layout = looked_at(every, Layout(output.kind, names, config.missing == "keep"), config.quiet)
    atomic.write_json(work / BEGUN, basis)
    key = hashlib.sha256(atomic.canonical_json([VERSION, basis])).hexdigest()
    markers = (work / f"{number:05d}.json" for number in range(len(every)))
    numbered = enumerate(zip(markers, every, strict=False))
    return Job(
        output,
        [ScoredPart(key, work, marker, part.bytes, at, part, layout, opening) for at, (marker, part) in numbered],
    )


def basis_of(
    config: PredictConfig, output: Output, opening: Opening, info: BundleInfo, reading: Reading
) -> dict[str, Any]:
    """All that decides the predictions beside the input, as plain values of JSON."""
    weights = [info.weights_sha256, info.text_hash, info.label_type, *info.labels, info.temperature, info.threshold]
    return {
        "weights": weights,
        **{name: getattr(config, name) for name in ("format", "missing", "prefix", "part_mb", "batch")},
        **{name: getattr(reading.source, name) for name in ("encoding", *DIALECT, "columns", "text_column")},
        "dialect": reading.dialect and asdict(reading.dialect),
        **{"output": output.kind, "engine": opening.engine, **opening.settled},
    }


def check_begun(config: PredictConfig, output: Output, basis: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` where another prediction was begun, or the file that is to be replaced holds none."""
    before = read_object(output.work / BEGUN, ANEW)
    if before is None:
        words = [f"{config.prefix}predicted", f"{config.prefix}{probability_column('')}"]
        ours = all(atomic.says(output.target, word) for word in words)
        check_replaced(output.target, config.overwrite, lambda: ours)
    elif before != basis:
        other = next((name for name, value in basis.items() if before.get(name) != value), "version")
        raise ConfigError(f"{output.work}: a prediction was begun with other {other}; {ANEW} to start again")


def looked_at(every: Sequence[Part], layout: Layout, quiet: bool) -> Layout:
    """The layout of what is written, after every row was looked at once.

    Raises ``DataError`` for the first row that cannot be predicted, and for files that have other columns than the
    first one, or those that are to be added.
    """
    screen = Screen(errors=True, quiet=quiet)
    progress = engine.Progress("looking at the input", sum(part.bytes for part in every), screen=screen)
    first, of_json = every[0], every[0].file.format == "jsonl"
    schemas: list[pa.Schema] = []
    for part in every:
        for rows in tables.iter_rows(part, None if of_json else [part.file.source.text_column]):
            texts_of(part, rows, layout.missing)
            schemas = [tables.common_schema([*schemas, rows.table.schema])] if of_json else []
        progress.advance(part.cut.rows, part.bytes)
        progress.tick(1)
    progress.screen.end()
    layout = replace(layout, schema=schemas[0] if of_json else None)
    files = list({part.file.address: part for part in reversed(every)}.values())
    for part in reversed(files):
        check_alike(part, first)
        if taken := next((name for name in layout.names if name in columns_of(part, layout.schema)), None):
            raise DataError(
                f"{part.file.name}: already has a column {taken!r}; rename it, or set --prefix, which stands before "
                "the names of the new columns"
            )
    kind = "tsv" if uncompressed(first.file.address).endswith(".tsv") else first.file.format
    tops = {(part.file.dialect, top_of(part)) for part in files}
    if kind == layout.kind and (of_json or (kind != "parquet" and len(tops) == 1)):
        return replace(layout, top=top_of(first))
    return layout


def check_alike(part: Part, first: Part) -> None:
    """Raise ``DataError`` for a file of CSV or Parquet that has other columns than the first one."""
    here, there = list(part.columns), list(first.columns)
    if here == there and part.file.format == "parquet" and part is not first:
        both = (parquet.footer_of(one.data, one.file.name).schema.to_arrow_schema() for one in (part, first))
        here, there = ([f"{field.name} {field.type}" for field in schema] for schema in both)
    if here != there:
        what = f"its columns ({', '.join(here)}) are not those of {first.file.name} ({', '.join(there)})"
        raise DataError(f"{part.file.name}: {what}; predict them apart")


def top_of(part: Part) -> bytes:
    """The bytes above the first row of a text file: byte order mark, header."""
    is_text = part.file.format in ("csv", "jsonl")
    return addresses.read_range(part.data, 0, part.cut.start) if is_text and part.cut.start else b""
