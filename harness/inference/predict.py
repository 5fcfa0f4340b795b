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
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.inference.config import WRITTEN, PredictConfig
from harness.inference.rows import BLOCK_ROWS, Layout, find_files, lines_of_stdin, refuse_input
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
from preprocessing.base.untrusted import listed
from preprocessing.corpus.sources import identity_of, list_texts
from preprocessing.job import engine
from preprocessing.job.executors import Share, open_workers
from preprocessing.job.output import SHARE_LOCK_S
from preprocessing.job.parts import Source, convert_all
from preprocessing.labels import as_found

VERSION = 3
"""Increase it when the same input and settings give other bytes."""
FEWEST = 20
"""Minimum width of a text in a readable line."""
BEGUN, LOCK = "begun.json", "lock"
OTHERWISE = "name another --output"
ANEW = f"{OTHERWISE}, or set --overwrite true"


@dataclass(frozen=True)
class Made:
    """Facts of a finished part."""

    rows: int
    without_known_word: int
    """Number of texts without a token in the vocabulary."""


@dataclass(frozen=True)
class ScoredPart(engine.Part[Made]):
    """The predictions for one part of the input, as Parquet."""

    path: Path
    """Absolute: the file to write."""
    rows: Path
    """Absolute: the converted part."""
    opened: partial[Scorer]
    """Calls ``open_scorer``; each thread of a worker does so once."""

    result: ClassVar[type] = Made

    def make(self) -> tuple[Made, dict[str, str]]:
        """Raises ``OSError`` if reading or writing fails."""
        scorer: Scorer = engine.open_once(self.key, self.opened)
        texts = pq.read_table(self.rows, columns=["text"], use_threads=False)["text"]
        num_unknown = 0
        tables: list[pa.Table] = []
        for encoded in encode_ahead(texts, scorer):
            tables.append(pa.table(scorer.predict(encoded)))
            num_unknown += int((unknown_shares(encoded) == 1).sum())
        with atomic.replacing(self.path) as temporary:
            pq.write_table(pa.concat_tables(tables), temporary)
        return Made(len(texts), num_unknown), {self.path.name: atomic.sha256_file(self.path)}


def encode_ahead(texts: pa.ChunkedArray, scorer: Scorer) -> Iterator[list[np.ndarray]]:
    """The ids of blocks of texts; another thread encodes the next block meanwhile."""
    blocks = (texts.slice(start, BLOCK_ROWS).to_pylist() for start in range(0, len(texts), BLOCK_ROWS))
    steps = (scorer.encode([text or "" for text in block]) for block in blocks)
    with ThreadPoolExecutor(1) as pool:
        next_step = pool.submit(next, steps, None)
        # cannot hang: the thread encodes texts in memory
        while (encoded := next_step.result()) is not None:
            next_step = pool.submit(next, steps, None)
            yield encoded


def main(config: PredictConfig) -> None:
    """Predict the texts given, or every row of the input, with the best weights of a run."""
    check_device(config.device)
    config = replace(config, run=str(local(config.run)))
    if config.output is not None:
        predict_files(config)
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


def predict_files(config: PredictConfig) -> None:
    """Predict with the processes of this machine, or the workers of a Dask cluster; or one share of the parts.

    Raises ``ConfigError``, ``DataError`` or ``StorageError``.
    """
    target = target_of(config)
    work = target.with_name(f"{target.name}.parts").absolute()
    share, screen = Share.parse(config.share, work), Screen(quiet=config.quiet)
    if share.count > 1 and target.exists():
        screen.say(f"{target}: is there already, so share {share} has nothing to do; remove it to predict anew")
        return
    with claim(target, work, share), ExitStack() as stack:
        advice = f"finished parts are kept in {work}; the same command, without --overwrite, goes on"
        stack.enter_context(processes.keeping(advice))
        if config.overwrite:
            for path in work.iterdir():
                if path.name not in (LOCK, atomic.MARK):
                    atomic.remove(path)
        opened, settings = choose_scorer(config)
        info = read_classifier(bundle_directory(config.run))
        options = replace(config.given, part_mb=config.part_mb)
        files = find_files(config.inputs, config.format, options, info.source, work)
        refuse_input(target, files)
        num_bytes = sum(identity_of(file)["bytes"] for file in files)
        worth = max(1, int(num_bytes / (config.part_mb * 1e6)))  # starting a process takes seconds
        most = 1 if opened.keywords["device"] == "cuda" else min(processes.available_cores(), worth)
        workers = stack.enter_context(open_workers(config.executor_config(most), locks=work, quiet=config.quiet))
        sources = convert_all(files, workers, work, keep_columns=True)
        names = [config.prefix + name for name in ("predicted", *map(probability_column, info.labels))]
        layout = Layout.choose(WRITTEN[target.suffix.lower()], names, sources)
        if config.missing == "error":
            check_texts(sources)
        inputs = [[source.file.name, source.file.format, source.converted.fingerprint] for source in sources]
        basis = settings | {"weights": identity(info), "source": asdict(options), "input": inputs}
        check_begun(config, target, work, basis)
        parts = list_parts(sources, work, basis, opened)
        with engine.show_progress("predicting", sum(part.size for part in parts), config.quiet) as progress:
            results = [made for _, made in engine.run(parts, workers, progress, wait=share.is_leader)]
        if not share.is_leader:
            screen.say(f"{target}: share {share} is done; share 0 writes the file")
            return
        with storing(target, otherwise=OTHERWISE), atomic.replacing(target) as temporary, open(temporary, "wb") as file:
            layout.write(file, (pq.read_table(part.path) for part in parts))
        num_rows, num_unknown = sum(made.rows for made in results), sum(made.without_known_word for made in results)
        screen.say(f"{num_rows:,} predictions written to {target}")
        if num_unknown:
            proportion = percent(num_unknown / num_rows)
            tell(f"warning: {num_unknown:,} of {num_rows:,} texts ({proportion}) hold no word that the model knows")


def choose_scorer(config: PredictConfig) -> tuple[partial[Scorer], dict[str, Any]]:
    """What opens the scorer, and the settings that determine the predictions, as JSON values."""
    directory = bundle_directory(config.run)
    name, info = engine_of(directory, config.engine), read_classifier(directory)
    settled = scorer_class(name).settle(info, config.device, config.precision)
    if settled["precision"] == "bf16" and not config.quiet:
        share = f"{info.bf16:.1%} of validation keep their label"
        tell(f"computed in bf16, in which {share}; --precision fp32 is exact")
    settings = {"version": VERSION, "engine": name, "batch": config.batch, "format": config.format, **settled}
    how = settled | ({"threads": 1} if settled["device"] == "cpu" else {})  # so that nothing depends on their number
    return partial(open_scorer, config.run, name, config.batch, **how), settings


def check_texts(sources: Sequence[Source]) -> None:
    """Raise ``DataError`` for the first row without a text; lines of a text file may be empty."""
    for file, number in ((source.file, source.converted.first_without_text) for source in sources):
        if number is not None and file.format != "txt":
            problem = f"column {listed(file.source.text_columns)} holds no text"
            row = f"{file.name.rstrip('/')}/{list_texts(file)[number - 1].path}" if file.format == "folder" else None
            row = row or f"{file.name}: row {number}"
            raise DataError(f"{row}: {problem}; fill or remove the row, or set --missing keep")


def list_parts(
    sources: Sequence[Source], work: Path, basis: dict[str, Any], opened: partial[Scorer]
) -> list[ScoredPart]:
    """All parts, at least one, of a prediction that depends on ``basis``."""
    key = hashlib.sha256(atomic.canonical_json(basis)).hexdigest()
    rows = [(part.rows, source.folder / part.path) for source in sources for part in source.converted.parts]
    if not rows:
        raise DataError(f"{sources[0].file.name}: holds no rows")
    atomic.write_json(work / BEGUN, basis)
    return [
        ScoredPart(key, work, work / f"{number:05d}.json", size, work / f"{number:05d}.parquet", path, opened)
        for number, (size, path) in enumerate(rows)
    ]


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
def claim(target: Path, work: Path, share: Share) -> Iterator[None]:
    """Lock an output for this command, or this share of several, and make the folder ``work`` of its settings, parts
    and markers. It is removed when the output is written and no share runs any more, or after an error if no
    prediction was begun.

    Raises ``ConfigError`` for a folder that no prediction made, ``StorageError`` if it is not writable, ``UserError``
    while another process predicts to it.
    """
    if os.path.lexists(work) and not atomic.is_signed(work, target):
        problem = "would hold the parts of this prediction, but was not made by one"
        raise ConfigError(f"{work}: {problem}; rename it, or {OTHERWISE}")
    refusal = UserError(f"{target}: another process is predicting to it; wait for it, or stop it")
    is_shared = share.count > 1
    limit_s = SHARE_LOCK_S if is_shared else 0
    with storing(target, otherwise=OTHERWISE), ExitStack() as locks:
        if not work.exists():
            # another process may have made it
            with suppress(FileExistsError, IsADirectoryError), atomic.new_folder(work) as made:
                atomic.sign(made, target)
        locks.enter_context(locked(work / LOCK, limit_s, refusal, shared=is_shared))
        if is_shared:
            other = UserError(f"{target}: another process makes share {share} of it; wait for it, or stop it")
            locks.enter_context(locked(share.lock_of(share.index), limit_s, other))
        atomic.sweep(target)
        try:
            yield
        except UserError:
            if not (is_shared or (work / BEGUN).exists()):
                atomic.vanish(work)
            raise
        if is_shared:
            locks.close()
            with suppress(UserError), locked(work / LOCK, 0, refusal):
                if target.exists():
                    atomic.vanish(work)
        else:
            atomic.vanish(work)


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
