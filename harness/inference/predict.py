# SPDX-License-Identifier: Apache-2.0
"""``python -m harness predict``: texts, or every row of files, part by part, by processes, ranks or a Dask cluster.

1. cut the input into parts, and look at each row once: what cannot be predicted is refused before anything is
2. predict the parts that are not there yet, each with a marker that says so                    (parallel)
3. put them together

Where the input is cut is a pure function of the input and the settings, so a part is the same whoever makes it, and
whenever. An interrupted prediction goes on with the parts that are left.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from harness.inference import place
from harness.inference.config import STDIN, PredictConfig
from harness.inference.engines import engine_of, local, open_scorer, scorer_class
from harness.inference.parts import Layout, Made, Opening, ScoredPart, columns_of, list_of
from harness.inference.place import Basis, Place, writing
from harness.inference.rows import Input, find, lines_of_stdin, own_options, reading_by, texts_of
from harness.inference.scorer import Scorer, unknown_shares
from harness.rundir.bundle_files import BundleInfo, bundle_directory, check_classifier, read_info
from harness.rundir.results import probability_column
from harness.rundir.training_facts import DIALECT, Reading
from preprocessing.base import atomic, processes
from preprocessing.base.errors import ConfigError, DataError
from preprocessing.base.terminal import Screen, cells, percent, plain_line, shortened, tell
from preprocessing.corpus import addresses, parquet, sources, tables
from preprocessing.corpus.sources import Part
from preprocessing.job import engine
from preprocessing.job.executors import available_cores, workers
from preprocessing.labels import as_found

if TYPE_CHECKING:
    from harness.ranks.distributed import World

VERSION = 1
"""Changes when the same input and settings give other bytes."""
FEWEST, MOST = 20, 80
"""Cells of a text that a line to read shows at least, and where its output is no terminal."""


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
class Job:
    """All parts of a prediction, and all that decides them."""

    place: Place
    basis: Basis
    parts: list[ScoredPart]


def predict_here(config: PredictConfig) -> None:
    """Predict with the processes of this machine, or with a Dask cluster.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    screen, output = Screen(quiet=config.quiet), place.place_of(config)
    with place.claimed(output):
        job = begun(config, output)
        if job is None:
            screen.say(f"{output.target}: these predictions are there already; nothing to do")
            return
        size = sum(part.size for part in job.parts)
        worth = max(1, int(size / (config.part_mb * 1e6)))  # starting a process takes seconds
        on_cuda = job.parts[0].opening.settled["device"] == "cuda"
        default = 1 if on_cuda else min(available_cores(), worth, len(job.parts))
        same = "the same command without --overwrite" if config.overwrite else "the same command"
        kept = f"finished parts are kept in {output.work}; {same} goes on"
        with processes.keeping(kept), workers(config.workers(default), quiet=config.quiet) as crew:
            done = engine.run(job.parts, crew, progress_of(job.parts, config.quiet))
            finish(job, {part.number: made for part, made in done}, screen)


def predict_on_ranks(config: PredictConfig, world: World) -> None:
    """Predict on every rank: each makes its share of the parts; rank 0 plans and puts them together.

    What a lost rank has not made is made at the next start, by whichever rank then has it in its share.
    """
    quiet = config.quiet or not world.is_main
    screen, output = Screen(quiet=quiet), place.place_of(config)
    config = replace(config, run=str(local(config.run)))
    job: Job | None = None
    with ExitStack() as stack:
        with world.together("claiming the output"):
            if world.is_main:
                stack.enter_context(place.claimed(output))
        with world.together("planning the predictions"), writing(output):
            job = begun(config, output) if world.is_main else None
            left = None if job is None else [part for part in job.parts if engine.finished(part) is None]
        left = world.from_main(left, "the parts that are left")
        if left is None:
            screen.say(f"{output.target}: these predictions are there already; nothing to do")
            return
        with world.together("predicting"), writing(output):
            if not output.work.is_dir():
                what = "this rank does not see what rank 0 has begun; write to a disk that all machines share"
                raise DataError(f"{output.work}: {what}")
            own = left[world.rank :: world.world_size]
            progress = progress_of(own, quiet)
            for part in own:
                progress.advance(engine.make(part).rows, part.size)
                progress.tick(world.world_size)
            progress.close()
        with world.together("putting the parts together"):
            if job is not None:
                known = {part.number: engine.finished(part, verify=False) for part in job.parts}
                finish(job, {number: made for number, made in known.items() if made is not None}, screen)


def begun(config: PredictConfig, output: Place) -> Job | None:
    """All parts, new or those of an interrupted job; None if the predictions are there already.

    Raises ``ConfigError`` where something else was begun there, ``DataError`` for the first row that cannot be read.
    """
    screen, directory = Screen(errors=True, quiet=config.quiet), bundle_directory(config.run)
    name = engine_of(directory, config.engine)
    opening = Opening(name, config.run, scorer_class(name).settle(config.device, config.precision), config.batch)
    info = read_info(directory)
    check_classifier(directory, info)
    place.refuse_inputs(output, config.inputs)
    names = [config.prefix + name for name in ("predicted", *map(probability_column, info.labels))]
    if config.overwrite:
        place.clear(output)
    reading = reading_by(config, directory, info)
    own = (output.target.absolute(), output.work)
    inputs = find(config.inputs, config.format, config, reading, output.work, own, config.part_mb)
    place.refuse_inputs(output, [one.file.address for one in inputs if not addresses.is_remote(one.file.address)])
    with own_options():
        plans = [sources.scan(one.file, output.work) for one in inputs]
        fingerprints = [(one.file.name, one.kind, plan.fingerprint) for one, plan in zip(inputs, plans, strict=True)]
        basis = basis_of(config, output, opening, info, reading, fingerprints)
        key = hashlib.sha256(atomic.canonical_json([VERSION, asdict(basis)])).hexdigest()
        if not place.is_begun(output, basis) and not config.overwrite:
            place.refuse_replacing(output, config.prefix)
        if place.is_whole(output, key, basis):
            atomic.vanish(output.work)
            return None
        every = [(one, part) for one, plan in zip(inputs, plans, strict=True) for part in plan.parts]
        if not every:
            more = f" and {len(inputs) - 1} more" if len(inputs) > 1 else ""
            raise DataError(f"{inputs[0].file.name}{more}: holds no rows")
        layout = looked_at(every, Layout(output.kind, names, config.missing == "keep"), screen)
    if output.is_folder:
        output.manifest.unlink(missing_ok=True)  # it would describe parts that are being replaced
    atomic.write_json(output.work / place.BEGUN, asdict(basis))
    for one in inputs:
        if one.form:
            screen.say(f"input: {one.file.name}: {one.form}")
    parts = [
        ScoredPart(
            key,
            output.root,
            output.work / f"{number:05d}.json",
            part.bytes,
            number,
            output.part_name(number, len(every)),
            part,
            layout,
            opening,
            has_header=output.is_folder,
            identity=one.identity,
        )
        for number, (one, part) in enumerate(every)
    ]
    return Job(output, basis, parts)


def basis_of(
    config: PredictConfig,
    output: Place,
    opening: Opening,
    info: BundleInfo,
    reading: Reading,
    fingerprints: list[tuple[str, str, dict[str, Any]]],
) -> Basis:
    """All that decides the predictions, as plain values."""
    settings = {
        **{name: getattr(config, name) for name in ("format", "missing", "prefix", "part_mb", "batch", "column")},
        **{name: getattr(reading.source, name) for name in ("encoding", *DIALECT, "columns", "text_column")},
        "dialect": reading.dialect and asdict(reading.dialect),
        **{"output": output.kind, "engine": opening.engine, **opening.settled},
    }
    weights = {
        "sha256": info.weights_sha256,
        "text": info.text_hash,
        "labels": [info.label_type, *info.labels],
        "decision": [info.temperature, info.threshold],
    }
    return Basis(fingerprints, weights, settings)


def looked_at(every: Sequence[tuple[Input, Part]], layout: Layout, screen: Screen) -> Layout:
    """The layout of what is written, after every row was looked at once.

    Raises ``DataError`` for the first row that cannot be predicted, and for files that have other columns than the
    first one, or those that are to be added.
    """
    progress = engine.Progress("looking at the input", sum(part.bytes for _, part in every), screen=screen)
    first, of_json = every[0][1], every[0][0].kind == "jsonl"
    schemas: list[pa.Schema] = []
    for _, part in every:
        for rows in tables.iter_rows(part, None if of_json else [part.file.source.text_column]):
            texts_of(part, rows, layout.missing)
            schemas = [tables.common_schema([*schemas, rows.table.schema])] if of_json else []
        progress.advance(part.cut.rows, part.bytes)
        progress.tick(1)
    progress.screen.end()
    layout = replace(layout, schema=schemas[0] if of_json else None)
    files = {part.file.address: part for _, part in reversed(every)}
    for part in files.values():
        check_alike(part, first)
        for name in layout.names:
            if name in columns_of(part, layout.schema):
                raise DataError(
                    f"{part.file.name}: already has a column {name!r}; rename it, or set --prefix, which stands "
                    "before the names of the new columns"
                )
    tops = {(part.file.dialect, top_of(part)) for part in files.values()}
    if every[0][0].kind == layout.kind and layout.kind != "parquet" and (of_json or len(tops) == 1):
        return replace(layout, top=top_of(first))
    return layout


def check_alike(part: Part, first: Part) -> None:
    """Raise ``DataError`` for a file of CSV or Parquet that has other columns than the first one."""
    if part.columns != first.columns:
        what = f"its columns ({', '.join(part.columns)}) are not those of {first.file.name}"
        raise DataError(f"{part.file.name}: {what} ({', '.join(first.columns)}); predict them apart")
    if part.file.format == "parquet" and part is not first:
        mine, theirs = (parquet.footer_of(one.data, one.file.name).schema.to_arrow_schema() for one in (part, first))
        for name, one, other in zip(first.columns, mine.types, theirs.types, strict=True):
            if one != other:
                what = f"its column {name!r} holds {one}, that of {first.file.name} {other}"
                raise DataError(f"{part.file.name}: {what}; predict them apart")


def top_of(part: Part) -> bytes:
    """The bytes above the first row of a text file: byte order mark, header."""
    is_text = part.file.format in ("csv", "jsonl")
    return addresses.read_range(part.data, 0, part.cut.start) if is_text and part.cut.start else b""


def progress_of(parts: Sequence[ScoredPart], quiet: bool) -> engine.Progress:
    """Shows how far some parts are, where there are several."""
    screen = Screen(errors=True, quiet=quiet or len(parts) < 2)
    return engine.Progress("predicting", sum(part.size for part in parts), screen=screen)


def finish(job: Job, made: Mapping[int, Made], screen: Screen) -> None:
    """Put everything together, and say what there is. Raises ``DataError`` for a part that is not there."""
    found = place.finish(job.place, job.parts, made, job.basis)
    settled, rows = job.parts[0].opening.settled, sum(one.rows for one in found)
    if (difference := place.greatest(found)) is not None:
        what = "and no probability of the rows that were also computed in fp32 differs by more than"
        screen.say(f"computed in {settled['precision']} on {settled['device']}, {what} {difference:.2g}")
    screen.say(f"{rows:,} predictions written to {job.place.target}")
    if unread := sum(one.without_known_word for one in found):
        tell(f"warning: {unread:,} of {rows:,} texts ({percent(unread / rows)}) hold no word that the model knows")
